"""Checkpoints: a pipeline folder with the trainer's state beside it, written whole or not at all.

checkpoint-500/
    model_index.json, generator/, ...       the raw weights: HFGenPipeline.from_pretrained reads it
    trainer/<component>.optimizer.safetensors
    trainer/<component>.ema.safetensors
    trainer/state.json                      step, what a resumed run must agree on, size and hash of each file, and of
                                            itself

A folder whose name begins with a dot is being written (.saving), deleted (.deleting) or replaced (.replaced).
"""

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hfgen.errors import HFGenError, UsageError, clear, first_line
from hfgen.files import sync, write_text
from hfgen.pipeline import HFGenPipeline
from hfgen.training import resume_settings
from hfgen.training.networks import Networks

PREFIX = "checkpoint-"
TRAINER = "trainer"
STATE = Path(TRAINER, "state.json")
DIGEST = "digest"  # of the state's other entries


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the finished checkpoints of a run folder, oldest first; their files may have been damaged since."""
    found = [p for p in (folder / "checkpoints").glob(f"{PREFIX}*") if re.fullmatch(rf"{PREFIX}\d+", p.name)]
    return sorted((p for p in found if (p / STATE).is_file()), key=step_of)


def place_of(folder: Path, step: int) -> Path:
    """Return the folder of a run's checkpoint of a step."""
    return folder / "checkpoints" / f"{PREFIX}{step}"


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(PREFIX))


def find_checkpoint(resume_from: str, output_dir: Path, note: Callable[[str], None] = print) -> Path | None:
    """Find the checkpoint that `--resume_from_checkpoint` names; `latest` is the newest that is not damaged.

    Args:
        note: called with a line for each checkpoint that is skipped.

    Returns:
        its folder; None for `latest` if the run has not written one yet.

    Raises:
        UsageError: it does not name a checkpoint, or the folder holds newer ones, from which `latest` would resume.
        HFGenError: all checkpoints of the run are damaged.
    """
    if resume_from == "latest":
        _restore(output_dir / "checkpoints")
        return _newest_whole(output_dir, note)
    for folder in (Path(resume_from), output_dir / "checkpoints" / resume_from):
        if (folder / STATE).is_file():
            _require_newest(folder, output_dir)
            return folder
    raise UsageError(f"{resume_from!r} is not a checkpoint.\nGive the folder of one, or `latest`.")


def _newest_whole(output_dir: Path, note: Callable[[str], None]) -> Path | None:
    found = list_checkpoints(output_dir)
    for place in reversed(found):
        damage = damage_of(place)
        if damage is None:
            return place
        note(f"the checkpoint {place} is damaged ({damage}) and skipped")
    if found:
        raise HFGenError(
            f"All checkpoints in {output_dir} are damaged.\n"
            "Move them away to start from the first step, or start a new run in another --output_dir."
        )
    return None


def damage_of(place: Path, content: bool = True) -> str | None:
    """Say how a checkpoint differs from what was written, or None; without `content`, hashes are not compared."""
    try:
        state = read_state(place)
        if state.get(DIGEST, _digest_of(state)) != _digest_of(state):
            return f"{STATE} is not what was written"
        for name, (size, digest) in state["files"].items():
            path = place / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} bytes instead of {size}"
            if content and _digest(path) != digest:
                return f"{name} is not what was written"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{STATE}: {first_line(error)}"
    return None


def read_state(place: Path) -> dict[str, Any]:
    return json.loads((place / STATE).read_text(encoding="utf-8"))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _digest_of(state: Mapping[str, Any]) -> str:
    """Hash a state without its own digest; equal before it is written as JSON and after it is read."""
    text = json.dumps({name: value for name, value in state.items() if name != DIGEST}, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _require_newest(place: Path, output_dir: Path) -> None:
    """Raise a UsageError if the folder holds another checkpoint of this step or a later one.

    With two branches in one folder, `latest` would mean the abandoned one.
    """
    others = [p for p in list_checkpoints(output_dir) if step_of(p) >= step_of(place) and not p.samefile(place)]
    if others:
        what = "newer checkpoints than" if step_of(others[-1]) > step_of(place) else "another"
        upto = f", up to {others[-1].name}" if step_of(others[-1]) > step_of(place) else ""
        raise UsageError(
            f"{output_dir} holds {what} {place.name}{upto}.\nMove them away, or resume into another --output_dir."
        )


def save_checkpoint(
    folder: Path, pipeline: HFGenPipeline, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> Path:
    """Write checkpoint `state["step"]` of a run folder under a temporary name, then move it into place.

    It is flushed to the disk before, so neither a killed process nor a power failure leaves a part of one.

    Args:
        tensors: file name -> tensors, of optimizer states and EMA.

    Returns:
        its folder.
    """
    place = place_of(folder, state["step"])
    temporary = place.with_name(f".{place.name}.saving")
    _sweep(place.parent)
    try:
        pipeline.save_pretrained(temporary)
        (temporary / TRAINER).mkdir()
        for name, parts in tensors.items():
            save_file({k: v.contiguous() for k, v in parts.items()}, temporary / TRAINER / name)
        _write_state(temporary, {**state, "files": _manifest(temporary)})
        _flush(temporary)
        _move_into_place(temporary, place)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return place


def complete(place: Path, changes: Mapping[str, Any]) -> None:
    """Change entries of a checkpoint's state, in one piece."""
    _write_state(place, {**read_state(place), **changes})
    sync(place / STATE)


def _write_state(place: Path, state: Mapping[str, Any]) -> None:
    plain = json.loads(json.dumps({n: value for n, value in state.items() if n != DIGEST}, default=float))
    write_text(place / STATE, json.dumps({**plain, DIGEST: _digest_of(plain)}, indent=2) + "\n")


def _move_into_place(temporary: Path, place: Path) -> None:
    """Rename the former checkpoint of the same step before, so that a whole one exists at any moment."""
    former = place.with_name(f".{place.name}.replaced")
    if place.exists():
        place.rename(former)
    temporary.rename(place)
    sync(place.parent)
    shutil.rmtree(former, ignore_errors=True)


def _restore(folder: Path) -> None:
    """Put former checkpoints back that a save set aside and, killed before its second rename, did not replace."""
    for former in folder.glob(f".{PREFIX}*.replaced"):
        place = former.with_name(former.name[1:].removesuffix(".replaced"))
        if not place.exists():
            former.rename(place)


def _sweep(folder: Path) -> None:
    """Remove what a killed process left half written, half deleted or half replaced."""
    _restore(folder)
    for kind in ("saving", "deleting", "replaced"):
        for left in folder.glob(f".{PREFIX}*.{kind}"):
            shutil.rmtree(left, ignore_errors=True)


def _manifest(folder: Path) -> dict[str, tuple[int, str]]:
    """Return relative name -> size and hash, of every file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): (path.stat().st_size, _digest(path)) for path in files}


def _flush(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def load_checkpoint(place: Path, networks: Networks, now: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Load a checkpoint's weights, optimizer states and EMA.

    Args:
        now: the state of the training that resumes.

    Returns:
        the checkpoint's state, and a line for each setting that has changed and may.

    Raises:
        HFGenError: it is damaged.
        UsageError: it is of another model, or its settings do not allow to resume with those of `now`.
    """
    damage = damage_of(place)
    if damage is not None:
        raise HFGenError(_damaged(place, damage))
    kinds = (OSError, KeyError, ValueError, RuntimeError, SafetensorError)
    with clear(kinds, lambda found: _damaged(place, found + resume_settings.other_version(read_state(place)))):
        state = read_state(place)
        resume_settings.require_known(place, state, now)
        changed = resume_settings.compare(place, state["settings"], now["settings"])
        folder = place / TRAINER
        networks.load(
            lambda name: _weights(place.joinpath(*name.split("."))),
            lambda name: load_file(folder / name),
            state["step"],
            state.get("component_steps", {}),
        )
    return state, changed


def saving(what: str, folder: Path, resume_command: str) -> contextlib.AbstractContextManager[None]:
    """Raise one error where `what` cannot be saved; it names the last checkpoint and the command that resumes."""

    def says(found: str) -> str:
        kept = list_checkpoints(folder)[-1:]
        where = f"The last complete checkpoint is {kept[0]}." if kept else "There is no complete checkpoint yet."
        return (
            f"The {what} could not be saved in {folder}: {found}\n"
            f"{where} Nothing half-written was left. Make room, then resume:\n  {resume_command}"
        )

    return clear((OSError, RuntimeError, SafetensorError), says)


def _damaged(place: Path, what: str) -> str:
    return f"The checkpoint {place} is damaged: {what}.\nGive another one, or `latest`, the newest undamaged one."


def _weights(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
    return tensors


def delete_old(written: Path, limit: int | None) -> None:
    """Delete all but the newest `limit` undamaged checkpoints up to the one just written; None or 0 keeps all.

    Newer ones are kept and not counted: they belong to a branch from which the run did not resume.
    """
    if not limit:
        return
    found = [place for place in list_checkpoints(written.parent.parent) if step_of(place) <= step_of(written)]
    kept = [place for place in found if damage_of(place, content=False) is None][-limit:]
    for old in found:
        if old not in kept and old != written:
            _delete(old)


def _delete(place: Path) -> None:
    """Rename before deleting: what an interrupted delete leaves is removed by the next save."""
    going = place.with_name(f".{place.name}.deleting")
    with contextlib.suppress(OSError):
        place.rename(going)
        shutil.rmtree(going, ignore_errors=True)
