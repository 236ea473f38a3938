"""Saving a pipeline into a folder: all of it or nothing; and code beside it only where that is asked for."""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from hfgen import bundling, untouched_card
from hfgen.errors import UsageError
from hfgen.staging import staged

if TYPE_CHECKING:
    from hfgen.pipeline import HFGenPipeline


@contextlib.contextmanager
def saving(pipeline: "HFGenPipeline", folder: Path, options: dict[str, Any]) -> Iterator[Path]:
    """A folder to save into, which takes its place in `folder` when all is written.

    Args:
        options: of `save_pretrained`; those that diffusers does not know are taken out.

    Raises:
        UsageError, OSError: as `HFGenPipeline.save_pretrained`.
    """
    if options.pop("push_to_hub", False):
        raise UsageError("save_pretrained does not push; call push_to_hub.")
    if not options.get("safe_serialization", True):
        raise UsageError("hfgen saves safetensors only.")
    refuse_odd_name(options.get("variant"))
    code = bundling.code_of(pipeline) if options.pop("bundle_code", False) else {}
    variant, kept = options.get("variant"), False
    try:
        with staged(folder, variant) as staging:
            yield staging
            strip_local_paths(staging)
            if variant and not code and (joined := bundling.index_with_code_of(folder, staging)):
                code, kept = joined, True
            bundling.write(code, staging)
    except SafetensorError as error:
        raise OSError(f"{folder} could not be written: {error}") from error
    if not kept:
        bundling.remove_others(folder, code)
        untouched_card.tell_of_code(folder / "README.md", bundled=bool(code))


def refuse_odd_name(variant: str | None) -> None:
    """Raise a UsageError where a variant's name cannot stand in the names of files."""
    if variant is not None and not re.fullmatch(r"[A-Za-z0-9_-]+", variant):
        raise UsageError(f"{variant!r} is no name of a variant: letters, digits, `_` and `-`, such as ema or bf16.")


def strip_local_paths(folder: Path) -> None:
    """Drop `_name_or_path`, perhaps a private path of this machine, from the components' configs."""
    for path in folder.glob("*/config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
