"""What other libraries saved -> a pipeline folder of hfgen.

A reader of a format is a `Converter`, registered by an entry point of the group `hfgen.converters`: it names the
tensors anew and builds the pipeline they belong to. What is true of all is here: which reader it is, that every tensor
has found its place, and that what was saved is what was read.
"""

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

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
    """The tensors under hfgen's names.

    Args:
        names: the source's name -> hfgen's, for all that the architecture has.
        what: the architecture, for the message.

    Raises:
        UsageError: a tensor that has no place there, or one that is missing.
    """
    extra = [name for name in tensors if name not in names]
    missing = [name for name in names if name not in tensors and not name.endswith(BATCH_NORM_COUNTER)]
    if extra or missing:
        told = [f"no place for: {describe_shapes(tensors, extra)}"] if extra else []
        told += [f"missing: {', '.join(missing[:SHOWN])}"] if missing else []
        raise UsageError(f"The tensors are not those of {what}; " + "; ".join(told) + ".")
    return {names[name]: tensor for name, tensor in tensors.items()}


# --- converting -------------------------------------------------------------------------------------------------
def open_source(target: str, allow_pickle: bool, revision: str | None = None) -> ForeignFiles:
    """A local file or folder, or what can be read of a repository; pickles are fetched only where they are allowed.

    Raises:
        LoadError: there is no such file, folder or repository.
        UsageError: a revision of what is local.
    """
    path = Path(target)
    if path.exists() and revision is not None:
        raise UsageError(f"--revision {revision}: {target} is local; only a repository on the Hub has revisions.")
    if path.is_file() or path.is_dir():
        return ForeignFiles(path, path.resolve().name, allow_pickle)
    if path.suffix.lower() in (*PICKLES, SAFE):  # a slip is nothing to ask a Hub about
        raise LoadError(f"There is no file {target!r}. By its ending it is no repository, so the Hub was not asked.")
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
    """Write a source as a pipeline folder: all of it, or nothing. Returns what was done.

    Raises:
        UsageError: the target is in use, the format is not known, or the architecture is none of hfgen's.
        CheckError: what was saved is not what was read; nothing is left of it.
    """
    refuse_used(target)
    converter = converter_of(format_name) if format_name else recognize(source)
    if model and converter.family not in (None, model):
        raise UsageError(f"--model {model}: what the format {converter.name} makes is a {converter.family}.")
    read = converter.read(source, options or {}, model)
    pipeline = built(read, source.name)
    given = [f"{name}.{key} = {value!r}" for name, part in (options or {}).items() for key, value in part.items()]
    notes = [*read.notes, *([f"Said by whoever converted it: {', '.join(given)}."] if given else [])]
    with staged(target) as staging:
        pipeline.save_pretrained(staging)
        check(staging, read.weights)
        name, description = target.resolve().name, converter.description
        text = converted_card(name, pipeline, source.name, description, source.sha256, notes)
        (staging / "README.md").write_text(text, encoding="utf-8")
    return {
        "output": str(target),
        "format": converter.name,
        "pipeline": type(pipeline).__name__,
        "tensors": sum(len(tensors) for tensors in read.weights.values()),
        "sha256": source.sha256,
        "notes": notes,
    }


def refuse_used(target: Path) -> None:
    """Raise a UsageError unless a target is new, or an empty folder."""
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists() or target.is_symlink():
        raise UsageError(f"{target} is there already and not empty; nothing was converted. Give another TARGET.")


def built(read: Conversion, source: str) -> HFGenPipeline:
    """The pipeline with the source's tensors in it; no memory is spent on one whose tensors are others.

    Raises:
        UsageError: a name or a shape that is another.
        LoadError: it has far more parts than the source has tensors.
    """
    shell = without_memory(read.build, sum(map(len, read.weights.values())), source)
    if shell is not None:
        compare(shell, read.weights, source)
    pipeline = read.build()
    fill(pipeline, read.weights, source)
    return pipeline


def fill(pipeline: HFGenPipeline, weights: Mapping[str, Mapping[str, Tensor]], source: str) -> None:
    """Put a source's tensors into the networks that were built for them.

    Raises:
        UsageError: a name or a shape that is another.
    """
    compare(pipeline, weights, source)
    for component, tensors in weights.items():
        network: nn.Module = getattr(pipeline, component)
        network.load_state_dict(dict(tensors), strict=False)  # but for counters, all are there
        network.eval()


def compare(pipeline: HFGenPipeline, weights: Mapping[str, Mapping[str, Tensor]], source: str) -> None:
    """Raise a UsageError where a source's tensors have other names or shapes than those of the networks."""
    for component, tensors in weights.items():
        network: nn.Module = getattr(pipeline, component)
        wanted = network.state_dict()
        missing = [n for n in wanted if n not in tensors and not n.endswith(BATCH_NORM_COUNTER)]
        odd = missing + [n for n in tensors if n not in wanted or tensors[n].shape != wanted[n].shape]
        if odd:
            told = (f"{component}.{n}: {_shape(tensors.get(n))} there, {_shape(wanted.get(n))} here" for n in odd)
            more = f"; and {len(odd) - SHOWN} more" if len(odd) > SHOWN else ""
            raise UsageError(
                f"{source} is not of the architecture of {type(network).__name__}. In hfgen's names:\n"
                f"{'; '.join(itertools.islice(told, SHOWN))}{more}."
            )


def _shape(tensor: Tensor | None) -> str:
    return "nothing" if tensor is None else "x".join(map(str, tensor.shape)) or "a number"


def check(folder: Path, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Load what was saved, and compare each tensor with the source's.

    Raises:
        CheckError: one differs.
    """
    try:
        again = HFGenPipeline.from_pretrained(folder)
    except HFGenError as error:
        raise CheckError(f"What was saved cannot be loaded again: {error}".replace(f"{folder}", "TARGET")) from error
    for component, tensors in weights.items():
        saved = getattr(again, component).state_dict()
        for name, tensor in tensors.items():
            if not torch.equal(saved[name], tensor.to(saved[name].dtype)):
                raise CheckError(f"{component}.{name} is not saved as it was read; nothing was written.")
