"""Checkpoints: a pipeline folder with the trainer's state beside it, written whole or not at all.

checkpoint-500/
    model_index.json, generator/, ...       the raw weights: HFGenPipeline.from_pretrained reads it
    trainer/<component>.optimizer.safetensors
    trainer/<component>.ema.safetensors
    trainer/state.json                      step, what a resumed run must agree on, size and hash of each file, and of
                                            itself

A name with a dot in front is on its way: written (.saving), deleted (.deleting), or about to be (.replaced).
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hfgen.errors import HFGenError, UsageError, first_line
from hfgen.processes.shards import fill, fill_state, whole
from hfgen.training import resume_settings

PREFIX = "checkpoint-"
STATE = Path("trainer", "state.json")
DIGEST = "digest"  # of the state's other entries


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run folder that were finished, oldest first; their files may have been damaged since."""
    found = [p for p in (folder / "checkpoints").glob(f"{PREFIX}*") if re.fullmatch(rf"{PREFIX}\d+", p.name)]
    return sorted((p for p in found if (p / STATE).is_file()), key=step_of)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(PREFIX))


def find_checkpoint(resume_from: str, output_dir: Path, note: Callable[[str], None] = print) -> Path | None:
    """What `--resume_from_checkpoint` names; `latest` is the newest whose files are what was written.

    Args:
        note: called with a line for each checkpoint that is passed over.

    Returns:
        None for `latest` of a run that has not written one yet.

    Raises:
        UsageError: it names no checkpoint, or the folder holds newer ones, which `latest` would then go on from.
        HFGenError: none of the run's checkpoints is whole.
    """
    if resume_from == "latest":
        _restore(output_dir / "checkpoints")
        return _newest_whole(output_dir, note)
    for folder in (Path(resume_from), output_dir / "checkpoints" / resume_from):
        if (folder / STATE).is_file():
            _require_newest(folder, output_dir)
            return folder
    raise UsageError(f"{resume_from!r} is no checkpoint.\nGive the folder of one, or `latest`.")


def _newest_whole(output_dir: Path, note: Callable[[str], None]) -> Path | None:
    found = list_checkpoints(output_dir)
    for place in reversed(found):
        damage = damage_of(place)
        if damage is None:
            return place
        note(f"the checkpoint {place} is damaged ({damage}) and passed over")
    if found:
        raise HFGenError(
            f"All checkpoints in {output_dir} are damaged.\n"
            "Move them away to start from the first step, or start a new run in another --output_dir."
        )
    return None


def damage_of(place: Path, content: bool = True) -> str | None:
    """What is not as it was written, or None; without `content` sizes are looked at and hashes are not."""
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
    """Of a state, but for its digest: the same before it is written as JSON and after it is read."""
    text = json.dumps({name: value for name, value in state.items() if name != DIGEST}, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _require_newest(place: Path, output_dir: Path) -> None:
    """Of two branches in one folder the abandoned one would count as the newest, wherever the other began."""
    others = [p for p in list_checkpoints(output_dir) if step_of(p) >= step_of(place) and not p.samefile(place)]
    if others:
        what = "newer checkpoints than" if step_of(others[-1]) > step_of(place) else "another"
        upto = f", up to {others[-1].name}" if step_of(others[-1]) > step_of(place) else ""
        raise UsageError(
            f"{output_dir} holds {what} {place.name}{upto}.\nMove them away, or resume into another --output_dir."
        )


def save_checkpoint(folder: Path, pipeline: Any, tensors: Mapping[str, Mapping[str, Tensor]], state: Any) -> Path:
    """Write checkpoint `state["step"]` of a run folder: under another name first, then moved into place.

    What is in place is on the disk, so that neither a killed process nor a machine that loses power leaves a part.

    Args:
        tensors: file name -> tensors, of what is not the pipeline's own.
    """
    place = folder / "checkpoints" / f"{PREFIX}{state['step']}"
    temporary = place.with_name(f".{place.name}.saving")
    _sweep(place.parent)
    try:
        pipeline.save_pretrained(temporary)
        (temporary / "trainer").mkdir()
        for name, parts in tensors.items():
            save_file({k: v.contiguous() for k, v in parts.items()}, temporary / "trainer" / name)
        plain = json.loads(json.dumps({**state, "files": _manifest(temporary)}, default=float))
        text = json.dumps({**plain, DIGEST: _digest_of(plain)}, indent=2)
        (temporary / STATE).write_text(text + "\n", encoding="utf-8")
        _flush(temporary)
        _move_into_place(temporary, place)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return place


def _move_into_place(temporary: Path, place: Path) -> None:
    """One of the same step steps aside first, so that there is a whole one at any moment."""
    former = place.with_name(f".{place.name}.replaced")
    if place.exists():
        place.rename(former)
    temporary.rename(place)
    _flush_file(place.parent)
    shutil.rmtree(former, ignore_errors=True)


def _restore(folder: Path) -> None:
    """A save that was killed between its two renames left the former checkpoint of its step aside."""
    for former in folder.glob(f".{PREFIX}*.replaced"):
        place = former.with_name(former.name[1:].removesuffix(".replaced"))
        if not place.exists():
            former.rename(place)


def _sweep(folder: Path) -> None:
    """Clear away what a kill left half written, half deleted or half replaced."""
    _restore(folder)
    for kind in ("saving", "deleting", "replaced"):
        for left in folder.glob(f".{PREFIX}*.{kind}"):
            shutil.rmtree(left, ignore_errors=True)


def _manifest(folder: Path) -> dict[str, tuple[int, str]]:
    """Relative name -> size and hash, of every file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): (path.stat().st_size, _digest(path)) for path in files}


def _flush(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _flush_file(path)


def _flush_file(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def tensors_of(trainer: Any) -> dict[str, dict[str, Tensor]]:
    """File name -> whole tensors of everything that is not the pipeline's own; every process must call it."""
    return dict(_tensors(trainer))


def _tensors(trainer: Any) -> Iterator[tuple[str, dict[str, Tensor]]]:
    for name, optimizer in trainer.optimizers.items():
        state = optimizer.state_dict()["state"]
        yield (
            f"{name}.optimizer.safetensors",
            {
                f"{index}.{key}": whole(torch.as_tensor(value))
                for index, entry in state.items()
                for key, value in entry.items()
            },
        )
    for name, ema in trainer.emas.items():
        yield f"{name}.ema.safetensors", ema.state_dict()


def load_checkpoint(place: Path, trainer: Any) -> list[str]:
    """Put a checkpoint's state into a trainer; return a line for each setting that differs and may.

    Raises:
        HFGenError: it is damaged.
        UsageError: it is of another model, or was written with settings under which it cannot go on.
    """
    damage = damage_of(place)
    if damage is not None:
        raise HFGenError(_damaged(place, damage))
    try:
        state = read_state(place)
        now = trainer.state()
        resume_settings.require_known(place, state, now)
        told = resume_settings.compare(place, state["settings"], now["settings"])
        for name, model in trainer.pipeline.models().items():
            tensors = _weights(place / name)
            model.load_state_dict(tensors)
            if trainer.networks.get(name, model) is not model:
                fill_state(trainer.networks[name], tensors)
        for name, optimizer in trainer.optimizers.items():
            _load_optimizer(optimizer, place / "trainer" / f"{name}.optimizer.safetensors")
        for name, ema in trainer.emas.items():
            ema.load_state_dict(load_file(place / "trainer" / f"{name}.ema.safetensors"), state["step"])
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        if isinstance(error, HFGenError):
            raise
        written_by = resume_settings.other_version(read_state(place))
        raise HFGenError(_damaged(place, f"{first_line(error)}{written_by}")) from error
    trainer.load_state(state)
    return told


@contextlib.contextmanager
def saving(what: str, folder: Path, resume_command: str) -> Iterator[None]:
    """Within, what keeps `what` from being written is one error that says what is left and how to go on."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        kept = list_checkpoints(folder)[-1:]
        where = f"The last complete checkpoint is {kept[0]}." if kept else "There is no complete checkpoint yet."
        raise HFGenError(
            f"The {what} could not be saved in {folder}: {error}\n"
            f"{where} Nothing half-written was left. Make room, then resume:\n  {resume_command}"
        ) from error


def _damaged(place: Path, what: str) -> str:
    return f"The checkpoint {place} is damaged: {what}.\nGive another one, or `latest`: the newest that is whole."


def _weights(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
    return tensors


def _load_optimizer(optimizer: Any, file: Path) -> None:
    """The moments; learning rate and the like are those of the run that resumes."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in load_file(file).items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, entry in state.items():
        entry.update({name: _laid_out_like(parameters[number], value) for name, value in entry.items()})
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """Fused optimizers walk through memory, so a moment must have its parameter's strides, and its shards."""
    if value.shape != parameter.shape:
        return value
    moment = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False)
    fill(moment, value)
    return moment


def delete_old(written: Path, limit: int | None) -> None:
    """Keep the newest `limit` checkpoints that are whole, up to the one just written; None or 0 keeps all.

    Newer ones, where there are any, are of a branch that the run did not go on from: they do not count, and stay.
    """
    if not limit:
        return
    found = [place for place in list_checkpoints(written.parent.parent) if step_of(place) <= step_of(written)]
    kept = [place for place in found if damage_of(place, content=False) is None][-limit:]
    for old in found:
        if old not in kept and old != written:
            _delete(old)


def _delete(place: Path) -> None:
    """Under another name first: one that is cut off half-way is no checkpoint, and is swept away by the next save."""
    going = place.with_name(f".{place.name}.deleting")
    with contextlib.suppress(OSError):
        place.rename(going)
        shutil.rmtree(going, ignore_errors=True)
