"""Choosing the files of a folder that are published, and the files of a repository that they replace."""

import contextlib
import os
import re
import shlex
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hfgen import run_folder
from hfgen.cards import card, without_run
from hfgen.cards.parts import marked, unmarked
from hfgen.cards.without_run import makeshift_card
from hfgen.components import MOST_LEVELS
from hfgen.errors import UsageError, clear
from hfgen.files import read_config_file, size_of
from hfgen.hub.screening import refuse
from hfgen.hub.upload import Files, Place
from hfgen.repository import bundle
from hfgen.repository.components import pipeline_class_of
from hfgen.repository.index import CONFIG, MODEL_INDEX, SCHEDULER_CONFIG, is_bundled
from hfgen.repository.model_folder import ModelFolder
from hfgen.repository.save import refuse_odd_name
from hfgen.repository.weights import WEIGHTS, saved_shapes, variant_of

KEPT_HERE = ("checkpoints", "logs", "best", "ema")  # parts of a run folder that are not published
OF_A_RUN = re.compile(
    r"config\.yaml|env\.json|metrics\.jsonl|samples/[\w-]+_\d+\.(png|txt|jsonl|wav|flac)|plots/[\w-]+\.png|evaluation/[\w.-]+\.json"
)


@dataclass(frozen=True)
class Prepared:
    """The files to publish. A makeshift card does not replace one that is in the repository."""

    files: Files
    variant: str | None = None
    makeshift: bool = False


@contextlib.contextmanager
def prepared(
    folder: Path,
    place: Place,
    variant: str | None,
    max_shard_size: str | None,
    again: str,
    token: str | None = None,
    bundle_code: bool = False,
) -> Iterator[Prepared]:
    """Gather and check the files to publish; weights are saved again if they get another variant or shard size.

    Code is published only as hfgen generates it now, if `bundle_code` is set or the folder was saved with code.
    """
    model = ModelFolder(folder)
    check_model(model, again)
    refuse_not_finite(folder)
    refuse_odd_name(variant)
    if max_shard_size and not re.fullmatch(r"\d+[KMGT]B", max_shard_size):
        raise UsageError(f"--max_shard_size {max_shard_size} is not a size such as 500MB or 5GB.")
    files = dict(contents(folder))
    makeshift = card.CARD not in files and not (folder / run_folder.METRICS).is_file()
    own = files.get(card.CARD) if not card.is_rendered(folder) else None  # else its examples name the repository
    files[card.CARD] = _card(folder, place, own, makeshift)
    code = bundle.code_for(folder) if bundle_code or is_bundled(folder) else {}
    if code:
        files = {name: file for name, file in files.items() if not bundle.is_outdated(name, file, code)}
        files[card.CARD] = _card(folder, place, own, makeshift, bundled=True)
    refuse({**code, **files}, place.repo_id, again, token, code)
    with contextlib.ExitStack() as stack:
        if max_shard_size or (variant and not is_variant(folder, variant)):
            with put_together():
                fresh = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model"
                files = saved_anew(model, fresh, files, variant, max_shard_size)
        yield Prepared({**files, **code}, variant, makeshift)


def put_together() -> contextlib.AbstractContextManager[None]:
    """Raise one error where the files of a push cannot be put together: the folder for that is often a small disk."""
    place = tempfile.tempdir or os.environ.get("TMPDIR", "the system's folder for temporary files")
    return clear(
        (OSError,),
        lambda found: (
            f"The files to push are put together in {place}, which failed: {found}\n"
            "Nothing was pushed. Name a folder on a larger disk by the variable TMPDIR."
        ),
    )


def _card(
    folder: Path, place: Place, own: Path | bytes | None, makeshift: bool, bundled: bool = False
) -> Path | bytes:
    """The card to publish, whose snippets name the repository, with the digest by which the next push knows it.

    Args:
        own: a card that somebody edited, or that of a converted model; only its snippets are changed.
        bundled: tell of the code beside the weights, except on a card that was edited.
    """
    if makeshift:
        return marked(makeshift_card(folder, place.repo_id, bundled)).encode()
    if own is None:
        return marked(card.render(folder, place.repo_id, bundled)).encode()
    if not isinstance(own, Path) or own.is_symlink() or not own.is_file():
        return own  # to be refused
    try:
        text = without_run.with_address(own.read_text(encoding="utf-8"), place.repo_id)
    except ValueError:  # not text
        return own
    return marked(unmarked((without_run.with_code(text, bundled=True) if bundled else None) or text)).encode()


def contents(folder: Path) -> Files:
    """The files of a folder, except checkpoints, logs and hidden ones; local paths in the config are shortened."""
    files: dict[str, Path | bytes] = {}
    for place in sorted(folder.iterdir()):
        if not place.name.startswith(".") and place.name not in KEPT_HERE:
            files |= {path.relative_to(folder).as_posix(): path for path in _files(place)}
    if (folder / run_folder.CONFIG).is_file():
        config = card.without_folders(read_config_file(folder / run_folder.CONFIG), dataset_id(folder))
        files[run_folder.CONFIG] = yaml.safe_dump(config, sort_keys=False).encode()
    return files


def dataset_id(folder: Path) -> str | None:
    """Name of the Hub's dataset that a run was trained on; None for local data, and if it is not recorded."""
    try:
        found = run_folder.read_environment(folder)["data"]["dataset_id"]
    except (UsageError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def _files(place: Path) -> Iterator[Path]:
    """Yield all files below; links are yielded themselves and not followed."""
    if place.is_symlink() or not place.is_dir():
        yield place
        return
    for path in sorted(place.iterdir()):
        if not path.name.startswith("."):
            yield from _files(path)


def check_model(model: ModelFolder, again: str) -> None:
    """Raise a UsageError or LoadError unless a folder holds a complete model."""
    folder = model.path
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; push the folder of a run, or one that save_pretrained wrote.")
    if folder.resolve().parent.name == "checkpoints":
        run = folder.resolve().parent.parent
        command = again.replace(shlex.quote(str(folder)), shlex.quote(str(run)))
        raise UsageError(f"{folder} is a checkpoint; push the model of its run: {command}")
    if not (folder / MODEL_INDEX).is_file() and (folder / run_folder.ENVIRONMENT).is_file():
        config = shlex.quote(str(folder / run_folder.CONFIG))
        raise UsageError(
            f"{folder} holds no model: the run is not finished, or its weights were moved.\n"
            f"Finish it with --resume_from_checkpoint latest, or repeat it: hfgen train --config {config}"
        )
    _check_components(model)


def refuse_not_finite(folder: Path) -> None:
    """Raise a UsageError for a weight that is NaN or infinite: nobody can sample from such a model."""
    import torch
    from safetensors import SafetensorError, safe_open

    for path in [path for path in _in_components(folder) if WEIGHTS.fullmatch(path.name)]:
        try:
            with safe_open(path, "pt") as tensors:
                names = [name for name in tensors.keys() if not torch.isfinite(tensors.get_tensor(name)).all()]
        except (SafetensorError, OSError, RuntimeError):
            continue  # damaged, which the screening says; or of a type whose numbers torch cannot compare
        if names:
            raise UsageError(
                f"{path.relative_to(folder)}: {names[0]} holds NaN or infinite weights; nothing was sent.\n"
                "The training diverged, or the file is damaged: push another checkpoint's model."
            )


def _check_components(model: ModelFolder) -> None:
    folder = model.path
    for name in model.components:
        if model.is_inside(name):
            _check_components(model.inside(name))
            continue
        place = model.place(name)
        if not any(place.glob("*config.json")):
            raise UsageError(f"{folder} is incomplete: {name}/{CONFIG} is missing. Save it again.")
        if (place / CONFIG).is_file() and not list(place.glob("*.safetensors")):
            raise UsageError(f"{folder} has no weights in {name}/*.safetensors. Save it again, as safetensors.")
        for index in place.glob("*model.safetensors.index*.json"):
            saved_shapes(place, variant_of(index.name), index.name.partition(".")[0])


def is_variant(folder: Path, variant: str) -> bool:
    """Return True if the folder's weights are those of a variant, and no others."""
    return {variant_of(path.name) for path in _in_components(folder) if WEIGHTS.fullmatch(path.name)} == {variant}


def _in_components(folder: Path) -> list[Path]:
    """Files in the folders of components, also of pipelines inside."""
    inside = [path.parent for path in folder.glob(f"*/{MODEL_INDEX}")]
    return [*folder.glob("*/*"), *(path for place in inside for path in _in_components(place))]


def saved_anew(
    model: ModelFolder, fresh: Path, files: Files, variant: str | None, max_shard_size: str | None
) -> dict[str, Path | bytes]:
    """The files, with the model loaded and saved again as a variant, or in shards of another size."""
    has_variant = any(path.match(f"*.{variant}[.-]*safetensors") for path in _in_components(model.path))
    pipeline = pipeline_class_of(model.index).from_pretrained(
        model, variant=variant if has_variant else None, dtype=_dtypes(model.path)
    )
    options = {"variant": variant, "max_shard_size": max_shard_size}
    pipeline.save_pretrained(fresh, **{name: value for name, value in options.items() if value})
    parts = tuple(f"{name}/" for name in pipeline.components)
    others = {name: content for name, content in files.items() if name != MODEL_INDEX and not name.startswith(parts)}
    return {**others, **contents(fresh)}


def _dtypes(folder: Path) -> dict[str, Any]:
    """Dotted name of a component -> dtype of all its floating-point weights; float32 for one of mixed dtypes."""
    import torch
    from safetensors import safe_open

    types: dict[str, set[torch.dtype]] = {}
    for path in [path for path in _in_components(folder) if path.suffix == ".safetensors"]:
        with safe_open(path, "pt") as tensors:
            names = {tensors.get_slice(key).get_dtype() for key in tensors.keys()}
        component = ".".join(path.parent.relative_to(folder).parts)
        types.setdefault(component, set()).update(getattr(torch, DTYPES[name]) for name in names & set(DTYPES))
    return {"default": torch.float32} | {name: found.pop() for name, found in types.items() if len(found) == 1}


DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}  # safetensors' names


def changes(ready: Prepared, there: set[str]) -> tuple[Files, Sequence[str]]:
    """The files to add to a repository, and the names to remove because the new files replace them.

    Files of others stay: only names that hfgen writes are removed.

    Args:
        there: names in the repository.
    """
    files, gone = dict(ready.files), there - set(ready.files)
    if ready.variant and _names_code(there) and not _names_code(ready.files):  # the variant is added to a bundle
        gone = {name for name in gone if not bundle.NAME.fullmatch(name)}
        files.pop(MODEL_INDEX, None)
    removed = sorted(name for name in gone if _is_replaced(name, ready.variant, ready.files, there))
    if ready.variant and card.CARD in there:  # it describes the model that is there
        files = {name: files[name] for name in files if name != card.CARD and not OF_A_RUN.fullmatch(name)}
    elif ready.makeshift and card.CARD in there and not any(OF_A_RUN.fullmatch(name) for name in removed):
        del files[card.CARD]
    return files, removed


def _names_code(names: Collection[str]) -> bool:
    """Return True if files are those of a bundle."""
    return MODEL_INDEX in names and any(bundle.NAME.fullmatch(name) for name in names)


def _is_replaced(name: str, variant: str | None, files: Collection[str], there: Collection[str]) -> bool:
    """Tell if a file of a repository is replaced by the files of a push."""
    folder, _, file = name.rpartition("/")
    top = folder.partition("/")[0]  # a component that is pushed, and is a pipeline now or was one before
    pushed = any(other.startswith(f"{top}/") for other in files)
    inside = pushed and folder.count("/") < MOST_LEVELS and f"{top}/{MODEL_INDEX}" in {*files, *there}
    in_component = bool(folder) and ("/" not in folder or inside)
    if in_component and WEIGHTS.fullmatch(file):
        return variant_of(file) == variant
    if bundle.NAME.fullmatch(name):
        return True  # the new index does not name it
    is_config = in_component and file in (CONFIG, SCHEDULER_CONFIG, *([MODEL_INDEX] if inside else []))
    return not variant and (is_config or bool(OF_A_RUN.fullmatch(name)))


def sizes(ready: Prepared) -> dict[str, int]:
    """Name -> bytes, of all files."""
    return {name: size_of(content) for name, content in sorted(ready.files.items())}
