"""Saving a pipeline into a folder, completely or not at all."""

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from torch import nn

from hfgen.components import copied_with, inner_pipelines
from hfgen.errors import UsageError
from hfgen.repository import bundle
from hfgen.repository.index import MODEL_INDEX
from hfgen.repository.processor_files import TOKENIZER_CONFIG
from hfgen.repository.tied_weights import require_untied

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

LOADED_FROM = ("_name_or_path", "name_or_path", "is_local", "local_files_only")  # the last two of tokenizers


@contextlib.contextmanager
def saving(pipeline: "DiffusionPipeline", folder: Path, options: dict[str, Any]) -> Iterator[Path]:
    """Yield a folder to save into; its files are moved into `folder` when all are written.

    Args:
        options: those of `save_pretrained`; options that diffusers does not have are removed.

    Raises:
        UsageError, OSError: as `HFGenPipeline.save_pretrained`.
    """
    if options.pop("push_to_hub", False):
        raise UsageError("save_pretrained does not push; call push_to_hub.")
    if not options.get("safe_serialization", True):
        raise UsageError("hfgen saves safetensors only.")
    refuse_odd_name(options.get("variant"))
    require_untied({name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)})
    code = bundle.code_of(pipeline) if options.pop("bundle_code", False) else {}
    variant, kept = options.get("variant"), False
    try:
        with staged(folder, variant) as staging:
            yield staging
            strip_local_paths(staging)
            if variant and not code and (joined := bundle.index_with_code_of(folder, staging)):
                code, kept = joined, True
            bundle.write(code, staging)
    except SafetensorError as error:
        raise OSError(f"{folder} could not be written: {error}") from error
    if not kept:
        bundle.remove_others(folder, code)


def as_saved(pipeline: Any) -> Any:
    """Return a copy of a pipeline for diffusers to save, without what only training uses.

    diffusers asks the signature of a component's method which options it takes.
    """

    def method(inner: Any) -> Callable[..., None]:
        def save(place: str, variant: str | None = None, max_shard_size: int | str | None = None) -> None:
            options = {"variant": variant, "max_shard_size": max_shard_size}
            inner.save_pretrained(place, **{name: value for name, value in options.items() if value is not None})

        return save

    inside = inner_pipelines(pipeline).items()
    copied = copied_with(
        pipeline, {name: copied_with(inner, {"save_pretrained": method(inner)}) for name, inner in inside}
    )
    copied.register_modules(**dict.fromkeys(type(pipeline).training_only_components))
    return copied


def refuse_odd_name(variant: str | None) -> None:
    """Raise a UsageError if a variant's name cannot be part of a file name."""
    if variant is not None and not re.fullmatch(r"[A-Za-z0-9_-]+", variant):
        raise UsageError(f"{variant!r} is not a variant's name: use letters, digits, `_` and `-`, as in ema or bf16.")


def strip_local_paths(folder: Path) -> None:
    """Drop where a component was loaded from, perhaps a private path of this machine, from the configs."""
    for path in [*folder.glob("*/config.json"), *folder.glob(f"*/{TOKENIZER_CONFIG}")]:
        config = json.loads(path.read_text(encoding="utf-8"))
        if found := [key for key in LOADED_FROM if config.get(key) is not None]:
            kept = {key: value for key, value in config.items() if key not in found}
            path.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextlib.contextmanager
def staged(folder: Path, variant: str | None = None) -> Iterator[Path]:
    """Yield a folder to write into; on success its entries are moved into `folder`, on failure it is removed.

    Args:
        variant: add weights of this variant to those in the subfolders, instead of replacing the subfolders.
    """
    created = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for killed in folder.glob(".saving-*"):
        _restore(killed, folder)
        shutil.rmtree(killed, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=".saving-", dir=folder))
    try:
        yield staging
        for entry in sorted(staging.iterdir(), key=lambda path: path.name == MODEL_INDEX):
            _move_into_place(entry, folder / entry.name, variant)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        for parent in created:
            with contextlib.suppress(OSError):
                parent.rmdir()  # only if empty
        raise
    shutil.rmtree(staging, ignore_errors=True)


def _restore(killed: Path, folder: Path) -> None:
    """Move a component back that a save had renamed when it was killed before its second rename."""
    for old in killed.glob("*.old"):
        place = folder / old.name.removesuffix(".old")
        if not place.exists():
            os.replace(old, place)


def _move_into_place(entry: Path, place: Path, variant: str | None) -> None:
    if not place.is_dir():
        os.replace(entry, place)
    elif variant:
        names = {path.name for path in entry.iterdir()}
        for pattern in (f"*.index.{variant}.json", f"*.{variant}-*.safetensors", f"*.{variant}.safetensors"):
            for stale in {path.name for path in place.glob(pattern)} - names:
                (place / stale).unlink()
        for name in sorted(names):
            _move_into_place(entry / name, place / name, variant)  # a pipeline inside has folders of its own
    else:
        old = entry.with_name(f"{entry.name}.old")
        os.replace(place, old)
        try:
            os.replace(entry, place)
        except BaseException:
            os.replace(old, place)
            raise
