"""Converting a model that another library saved into a pipeline folder of hfgen.

The converter of its format renames the tensors and builds their pipeline (`hfgen.conversion.converter`). The steps
that all formats share are here: every tensor must have a place, and the saved tensors must equal the source's.
"""

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hfgen.cards.card import CARD
from hfgen.cards.without_run import converted_card
from hfgen.conversion.converter import (
    BATCH_NORM_COUNTER,
    PICKLED,
    SHOWN,
    TENSORS,
    TEXTS,
    Conversion,
    ConverterOptions,
    converter_of,
    describe_shapes,
    recognize,
)
from hfgen.conversion.foreign_files import PICKLES, SAFE, ForeignFiles
from hfgen.errors import CheckError, HFGenError, LoadError, UsageError
from hfgen.hub.download import local_folder
from hfgen.pipeline import HFGenPipeline
from hfgen.repository.fit import without_memory
from hfgen.repository.save import staged


def rename_tensors(tensors: Mapping[str, Tensor], names: Mapping[str, str], what: str) -> dict[str, Tensor]:
    """Rename tensors to hfgen's names.

    Args:
        names: the source's name -> hfgen's name, for all tensors of the architecture.
        what: the architecture, for the message.

    Raises:
        UsageError: the architecture lacks one of the tensors, or one of its tensors is missing.
    """
    extra = [name for name in tensors if name not in names]
    missing = [name for name in names if name not in tensors and not name.endswith(BATCH_NORM_COUNTER)]
    if extra or missing:
        found = [f"unknown: {describe_shapes(tensors, extra)}"] if extra else []
        found += [f"missing: {', '.join(missing[:SHOWN])}"] if missing else []
        raise UsageError(f"The tensors are not those of {what}; " + "; ".join(found) + ".")
    return {names[name]: tensor for name, tensor in tensors.items()}


# --- converting -------------------------------------------------------------------------------------------------
def open_source(target: str, allow_pickle: bool, revision: str | None = None) -> ForeignFiles:
    """Open a local file or folder, or fetch the readable files of a repository; pickles only if they are allowed.

    Raises:
        LoadError: there is no such file, folder or repository.
        UsageError: a revision was given for a local file or folder.
    """
    path = Path(target)
    if path.exists() and revision is not None:
        raise UsageError(f"--revision {revision}: {target} is local; only a repository on the Hub has revisions.")
    if path.is_file() or path.is_dir():
        return ForeignFiles(path, path.resolve().name, allow_pickle)
    if path.suffix.lower() in (*PICKLES, SAFE):  # a mistyped file name is not sent to the Hub
        raise LoadError(f"There is no file {target!r}. It ends as a file does, so the Hub was not asked.")
    folder = Path(local_folder(target, TEXTS + TENSORS, revision=revision))
    if allow_pickle and not any(folder.rglob("*.safetensors")):
        folder = Path(local_folder(target, TEXTS + PICKLED, revision=revision))
    commit = f" at commit {folder.name}" if re.fullmatch(r"[0-9a-f]{40}", folder.name) else ""
    return ForeignFiles(folder, target + commit, allow_pickle)


def convert(
    source: ForeignFiles,
    target: Path,
    format_name: str | None = None,
    model: str | None = None,
    options: ConverterOptions | None = None,
) -> dict[str, Any]:
    """Write a source as a pipeline folder, completely or not at all; return a summary.

    Raises:
        UsageError: the target is in use, the format is unknown, or hfgen does not have the architecture.
        CheckError: the saved tensors differ from the source's; nothing was written.
    """
    refuse_used(target)
    converter = converter_of(format_name) if format_name else recognize(source)
    if model and converter.family not in (None, model):
        raise UsageError(f"--model {model}: the format {converter.name} is always converted to {converter.family}.")
    read = converter.read(source, options or {}, model)
    pipeline = built(read, source.name)
    given = [f"{name}.{key} = {value!r}" for name, part in (options or {}).items() for key, value in part.items()]
    notes = [*read.notes, *([f"Options given for the conversion: {', '.join(given)}."] if given else [])]
    with staged(target) as staging:
        pipeline.save_pretrained(staging)
        check(staging, read.weights)
        name, description = target.resolve().name, converter.description
        text = converted_card(name, pipeline, source.name, description, source.sha256, notes)
        (staging / CARD).write_text(text, encoding="utf-8")
    return {
        "output": str(target),
        "format": converter.name,
        "pipeline": type(pipeline).__name__,
        "tensors": sum(len(tensors) for tensors in read.weights.values()),
        "sha256": source.sha256,
        "notes": notes,
    }


def refuse_used(target: Path) -> None:
    """Raise a UsageError unless the target does not exist or is an empty folder."""
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists() or target.is_symlink():
        raise UsageError(f"{target} exists and is not empty; nothing was converted. Give another TARGET.")


def built(read: Conversion, source: str) -> HFGenPipeline:
    """Build the pipeline with the source's tensors; names and shapes are compared before memory is allocated.

    Raises:
        UsageError: a name or a shape differs.
        LoadError: the pipeline has far more parts than the source has tensors.
    """
    shell = without_memory(read.build, sum(map(len, read.weights.values())), source)
    if shell is not None:
        compare(shell, read.weights, source)
    pipeline = read.build()
    fill(pipeline, read.weights, source)
    return pipeline


def fill(pipeline: HFGenPipeline, weights: Mapping[str, Mapping[str, Tensor]], source: str) -> None:
    """Load a source's tensors into the networks that were built for them.

    Raises:
        UsageError: a name or a shape differs.
    """
    compare(pipeline, weights, source)
    for component, tensors in weights.items():
        network: nn.Module = getattr(pipeline, component)
        network.load_state_dict(dict(tensors), strict=False)  # only counters can be missing
        network.eval()


def compare(pipeline: HFGenPipeline, weights: Mapping[str, Mapping[str, Tensor]], source: str) -> None:
    """Raise a UsageError if the names or shapes of a source's tensors differ from those of the networks."""
    for component, tensors in weights.items():
        network: nn.Module = getattr(pipeline, component)
        wanted = network.state_dict()
        missing = [n for n in wanted if n not in tensors and not n.endswith(BATCH_NORM_COUNTER)]
        odd = missing + [n for n in tensors if n not in wanted or tensors[n].shape != wanted[n].shape]
        if odd:
            found = (f"{component}.{n}: {_shape(tensors.get(n))} there, {_shape(wanted.get(n))} here" for n in odd)
            more = f"; and {len(odd) - SHOWN} more" if len(odd) > SHOWN else ""
            raise UsageError(
                f"{source} does not have the architecture of {type(network).__name__}. In hfgen's names:\n"
                f"{'; '.join(itertools.islice(found, SHOWN))}{more}."
            )


def _shape(tensor: Tensor | None) -> str:
    return "nothing" if tensor is None else "x".join(map(str, tensor.shape)) or "a number"


def check(folder: Path, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Load the saved pipeline, and compare each tensor with the source's.

    Raises:
        CheckError: it cannot be loaded, or a tensor differs.
    """
    try:
        again = HFGenPipeline.from_pretrained(folder)
    except HFGenError as error:
        raise CheckError(f"The saved pipeline cannot be loaded: {error}".replace(f"{folder}", "TARGET")) from error
    for component, tensors in weights.items():
        saved = getattr(again, component).state_dict()
        for name, tensor in tensors.items():
            if not torch.equal(saved[name], tensor.to(saved[name].dtype)):
                raise CheckError(f"{component}.{name} differs from the source after saving; nothing was written.")
