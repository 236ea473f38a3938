"""What is published of a folder: which files, as what, and what they replace in a repository."""

import contextlib
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
from hfgen.cards.without_run import makeshift_card
from hfgen.errors import UsageError
from hfgen.files import read_config_file, size_of
from hfgen.hub.screening import refuse
from hfgen.hub.upload import Files, Place
from hfgen.repository import bundle
from hfgen.repository.components import pipeline_class_of
from hfgen.repository.index import MODEL_INDEX, component_entries, component_folder, is_bundled, read_index
from hfgen.repository.save import refuse_odd_name
from hfgen.repository.weights import saved_shapes

KEPT_HERE = ("checkpoints", "logs", "best")  # of a run folder: what is of no use to others
MODEL = r"(?:diffusion_pytorch_model|pytorch_model|model)"
WEIGHTS = re.compile(
    rf"[^/]+/{MODEL}(?:(?:\.(?P<one>\w+))?(?:-\d+-of-\d+)?\.(?:safetensors|bin)"
    r"|\.(?:safetensors|bin)\.index(?:\.(?P<many>\w+))?\.json)"
)
CONFIGS = re.compile(r"[^/]+/(?:scheduler_)?config\.json")
OF_A_RUN = re.compile(
    r"config\.yaml|env\.json|metrics\.jsonl|samples/(?:step|reconstructions)_\d+\.png|plots/[\w-]+\.png|evaluation/[\w.-]+\.json"
)


@dataclass(frozen=True)
class Prepared:
    """What is to be published; a makeshift card gives way to one that is in the repository."""

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
    """Gather what is published, weights saved anew where they are to have other names, and check all of it.

    Code is published only as hfgen generates it now: where it is asked for, or the folder was saved with it.
    """
    check_model(folder, again)
    refuse_odd_name(variant)
    if max_shard_size and not re.fullmatch(r"\d+[KMGT]B", max_shard_size):
        raise UsageError(f"--max_shard_size {max_shard_size} is no size such as 500MB or 5GB.")
    files = dict(contents(folder))
    makeshift = card.CARD not in files and not (folder / run_folder.METRICS).is_file()
    if card.CARD not in files:
        made = makeshift_card(folder, place.repo_id) if makeshift else card.render(folder, place.repo_id)
        files[card.CARD] = made.encode()
    elif card.is_rendered(folder):  # its snippets are for those who find it there
        files[card.CARD] = card.render(folder, place.repo_id).encode()
    code = bundle.code_for(folder) if bundle_code or is_bundled(folder) else {}
    if code:
        files = {name: file for name, file in files.items() if not bundle.is_outdated(name, file, code)}
        files[card.CARD] = _bundled_card(folder, place, files[card.CARD], makeshift)
    refuse({**code, **files}, place.repo_id, again, token, code)
    with contextlib.ExitStack() as stack:
        if max_shard_size or (variant and not is_variant(folder, variant)):
            fresh = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model"
            files = saved_anew(folder, fresh, files, variant, max_shard_size)
        yield Prepared({**files, **code}, variant, makeshift)


def _bundled_card(folder: Path, place: Place, content: Path | bytes, makeshift: bool) -> Path | bytes:
    """With how to load the code; a card that somebody has edited stays as it is."""
    if makeshift:
        return makeshift_card(folder, place.repo_id, bundled=True).encode()
    if isinstance(content, Path):
        told = without_run.told_of_code(content, bundled=True)
        return content if told is None else told.encode()
    return card.render(folder, place.repo_id, bundled=True).encode()


def contents(folder: Path) -> Files:
    """The files of a folder but for checkpoints, logs, hidden ones; of local paths the config tells the last name."""
    files: dict[str, Path | bytes] = {}
    for place in sorted(folder.iterdir()):
        if not place.name.startswith(".") and place.name not in KEPT_HERE:
            files |= {path.relative_to(folder).as_posix(): path for path in _files(place)}
    if (folder / run_folder.CONFIG).is_file():
        config = card.without_folders(read_config_file(folder / run_folder.CONFIG), dataset_id(folder))
        files[run_folder.CONFIG] = yaml.safe_dump(config, sort_keys=False).encode()
    return files


def dataset_id(folder: Path) -> str | None:
    """Of the data on the Hub that a run was trained on; None of local ones, and where nothing is told."""
    try:
        found = run_folder.read_environment(folder)["data"]["dataset_id"]
    except (UsageError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def _files(place: Path) -> Iterator[Path]:
    """All that is below, links themselves and not what they lead to."""
    if place.is_symlink() or not place.is_dir():
        yield place
        return
    for path in sorted(place.iterdir()):
        if not path.name.startswith("."):
            yield from _files(path)


def check_model(folder: Path, again: str) -> None:
    """Raise a UsageError or LoadError where a folder holds no whole model."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; what is pushed is a run's, or one that save_pretrained wrote.")
    if folder.resolve().parent.name == "checkpoints":
        run = folder.resolve().parent.parent
        command = again.replace(shlex.quote(str(folder)), shlex.quote(str(run)))
        raise UsageError(f"{folder} is a checkpoint; the model is its run's: {command}")
    if not (folder / MODEL_INDEX).is_file() and (folder / run_folder.ENVIRONMENT).is_file():
        config = shlex.quote(str(folder / run_folder.CONFIG))
        raise UsageError(
            f"{folder} holds no model: the run is not finished, or its weights are elsewhere.\n"
            f"Finish it with --resume_from_checkpoint latest, or repeat it: hfgen train --config {config}"
        )
    for name, _, _ in component_entries(read_index(folder)):
        place = component_folder(str(folder), name)
        if not any(place.glob("*config.json")):
            raise UsageError(f"{folder} is incomplete: {name}/config.json is missing. Save it again.")
        if (place / "config.json").is_file() and not list(place.glob("*.safetensors")):
            raise UsageError(f"{folder} has no weights in {name}/*.safetensors. Save it again, as safetensors.")
        for index in place.glob("*model.safetensors.index*.json"):
            match = WEIGHTS.fullmatch(f"{name}/{index.name}")
            saved_shapes(place, match and match["many"], index.name.partition(".")[0])


def is_variant(folder: Path, variant: str) -> bool:
    """Whether weights of a variant lie in a folder, and none other."""
    found = [WEIGHTS.fullmatch(path.relative_to(folder).as_posix()) for path in folder.glob("*/*")]
    return {match["one"] or match["many"] for match in found if match} == {variant}


def saved_anew(
    folder: Path, fresh: Path, files: Files, variant: str | None, max_shard_size: str | None
) -> dict[str, Path | bytes]:
    """The files, with the model's loaded and saved again as that variant, in shards of that size."""
    has_variant = any(folder.glob(f"*/*.{variant}[.-]*safetensors"))
    pipeline = pipeline_class_of(read_index(folder)).from_pretrained(
        folder, variant=variant if has_variant else None, dtype=_dtypes(folder)
    )
    options = {"variant": variant, "max_shard_size": max_shard_size}
    pipeline.save_pretrained(fresh, **{name: value for name, value in options.items() if value})
    parts = tuple(f"{name}/" for name in pipeline.components)
    others = {name: content for name, content in files.items() if name != MODEL_INDEX and not name.startswith(parts)}
    return {**others, **contents(fresh)}


def _dtypes(folder: Path) -> dict[str, Any]:
    """Component -> the floating type that all of its weights are of; others are loaded as float32."""
    import torch
    from safetensors import safe_open

    types: dict[str, set[torch.dtype]] = {}
    for path in folder.glob("*/*.safetensors"):
        with safe_open(path, "pt") as tensors:
            names = {tensors.get_slice(key).get_dtype() for key in tensors.keys()}
        types.setdefault(path.parent.name, set()).update(getattr(torch, DTYPES[name]) for name in names & set(DTYPES))
    return {"default": torch.float32} | {name: found.pop() for name, found in types.items() if len(found) == 1}


DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}  # safetensors' names


def changes(ready: Prepared, there: set[str]) -> tuple[Files, Sequence[str]]:
    """What is added to a repository that holds these names, and what is removed: what the new files replace.

    What somebody else put there stays: no name is touched that hfgen does not write.
    """
    files, gone = dict(ready.files), there - set(ready.files)
    if ready.variant and _names_code(there) and not _names_code(ready.files):  # it joins a bundle
        gone = {name for name in gone if not bundle.NAME.fullmatch(name)}
        files.pop(MODEL_INDEX, None)
    removed = sorted(name for name in gone if _is_replaced(name, ready.variant))
    if ready.variant and card.CARD in there:  # it tells of the model that is there
        files = {name: files[name] for name in files if name != card.CARD and not OF_A_RUN.fullmatch(name)}
    elif ready.makeshift and card.CARD in there and not any(OF_A_RUN.fullmatch(name) for name in removed):
        del files[card.CARD]
    return files, removed


def _names_code(names: Collection[str]) -> bool:
    """Whether files are those of a bundle."""
    return MODEL_INDEX in names and any(bundle.NAME.fullmatch(name) for name in names)


def _is_replaced(name: str, variant: str | None) -> bool:
    weights = WEIGHTS.fullmatch(name)
    if weights:
        return (weights["one"] or weights["many"]) == variant
    if bundle.NAME.fullmatch(name):
        return True  # the new index does not name it
    return not variant and bool(CONFIGS.fullmatch(name) or OF_A_RUN.fullmatch(name))


def sizes(ready: Prepared) -> dict[str, int]:
    """Name -> bytes, of all files."""
    return {name: size_of(content) for name, content in sorted(ready.files.items())}
