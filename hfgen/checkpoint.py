"""Checkpoints: a pipeline folder with the trainer's state beside it, written whole or not at all.

checkpoint-500/
    model_index.json, generator/, ...       the raw weights: HFGenPipeline.from_pretrained reads it
    trainer/state.json                      step and what a resumed run must agree on
    trainer/<component>.optimizer.safetensors
    trainer/<component>.ema.safetensors
"""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hfgen.errors import HFGenError, UsageError

PREFIX = "checkpoint-"


def list_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run folder, oldest first."""
    found = [p for p in (folder / "checkpoints").glob(f"{PREFIX}*") if re.fullmatch(rf"{PREFIX}\d+", p.name)]
    return sorted((p for p in found if (p / "trainer" / "state.json").is_file()), key=step_of)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(PREFIX))


def find_checkpoint(resume_from: str, output_dir: Path) -> Path | None:
    """What `--resume_from_checkpoint` names; None for `latest` of a run that has not written one yet."""
    if resume_from == "latest":
        return next(reversed(list_checkpoints(output_dir)), None)
    for folder in (Path(resume_from), output_dir / "checkpoints" / resume_from):
        if (folder / "trainer" / "state.json").is_file():
            _require_newest(folder, output_dir)
            return folder
    raise UsageError(f"{resume_from!r} is no checkpoint.\nGive the folder of one, or `latest`.")


def _require_newest(place: Path, output_dir: Path) -> None:
    """Of two branches in one folder the abandoned one would count as the newest."""
    newer = [p for p in list_checkpoints(output_dir) if step_of(p) > step_of(place)]
    if newer and newer[0].resolve().parent == place.resolve().parent:
        raise UsageError(
            f"{output_dir} holds newer checkpoints than {place.name}, up to {newer[-1].name}.\n"
            "Move them away, or resume into another --output_dir."
        )


def save_checkpoint(folder: Path, step: int, trainer: Any) -> Path:
    """Write checkpoint `step` of a run folder: under another name first, then moved into place."""
    place = folder / "checkpoints" / f"{PREFIX}{step}"
    temporary = place.with_name(f".{place.name}.saving")
    for killed in place.parent.glob(f".{PREFIX}*.saving"):
        shutil.rmtree(killed, ignore_errors=True)
    try:
        trainer.pipeline.save_pretrained(temporary)
        (temporary / "trainer").mkdir()
        for name, tensors in _tensors(trainer):
            save_file({k: v.contiguous() for k, v in tensors.items()}, temporary / "trainer" / name)
        state = json.dumps(trainer.state(), indent=2, default=float)
        (temporary / "trainer" / "state.json").write_text(state + "\n", encoding="utf-8")
        shutil.rmtree(place, ignore_errors=True)
        temporary.rename(place)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return place


def _tensors(trainer: Any) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """(file name, tensors) of everything that is not the pipeline's own."""
    for name, optimizer in trainer.optimizers.items():
        state = optimizer.state_dict()["state"]
        yield (
            f"{name}.optimizer.safetensors",
            {
                f"{index}.{key}": torch.as_tensor(value)
                for index, entry in state.items()
                for key, value in entry.items()
            },
        )
    for name, ema in trainer.emas.items():
        yield f"{name}.ema.safetensors", ema.state_dict()


def load_checkpoint(place: Path, trainer: Any) -> int:
    """Put a checkpoint's state into a trainer of the same configuration; return its step.

    Raises:
        HFGenError: it is damaged or of another model.
        UsageError: it was written with settings under which it cannot go on exactly.
    """
    try:
        state = json.loads((place / "trainer" / "state.json").read_text())
        _check_same_run(place, state, trainer.state())
        for name, model in trainer.pipeline.models().items():
            _load_weights(model, place / name)
        for name, optimizer in trainer.optimizers.items():
            _load_optimizer(optimizer, place / "trainer" / f"{name}.optimizer.safetensors")
        for name, ema in trainer.emas.items():
            ema.load_state_dict(load_file(place / "trainer" / f"{name}.ema.safetensors"), state["step"])
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        if isinstance(error, HFGenError):
            raise
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise HFGenError(
            f"The checkpoint {place} is damaged: {first_line}\nRemove it to go on from an older one."
        ) from error
    trainer.load_extra_state(state)
    return state["step"]


def public_config(model: torch.nn.Module) -> dict[str, Any]:
    """A component's config as JSON gives it back, without what diffusers adds."""
    config = getattr(model, "config", {})
    return json.loads(json.dumps({key: value for key, value in config.items() if not key.startswith("_")}))


def _load_weights(model: torch.nn.Module, folder: Path) -> None:
    tensors: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
    model.load_state_dict(tensors)


def _check_same_run(place: Path, saved: dict[str, Any], current: dict[str, Any]) -> None:
    for name in ("seed", "global_batch_size", "images", "class_conditional", "use_ema", "networks"):
        if saved[name] != current[name]:
            then, now = _difference(saved[name], current[name])
            raise UsageError(
                f"The checkpoint {place} was written with {name} {then}, this run has {now}.\n"
                "Resume with the same settings, or start a new run."
            )


def _difference(then: Any, now: Any) -> tuple[Any, Any]:
    """Of two dictionaries, the parts that differ."""
    if not (isinstance(then, dict) and isinstance(now, dict)):
        return then, now
    differing = [name for name in sorted({*then, *now}) if then.get(name) != now.get(name)]
    parts = {name: _difference(then.get(name), now.get(name)) for name in differing}
    return {name: part[0] for name, part in parts.items()}, {name: part[1] for name, part in parts.items()}


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
    """Fused optimizers walk through memory, so a moment must have its parameter's strides (channels last)."""
    if value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def delete_old(folder: Path, limit: int | None) -> None:
    """Keep the newest `limit` checkpoints; None or 0 keeps all."""
    for old in list_checkpoints(folder)[: -limit or None] if limit else []:
        shutil.rmtree(old, ignore_errors=True)
