"""A model's images -> features: image i of seed `seed` + i, the same for any number of processes, resumable.

Images are drawn in batches whose make-up is fixed; the processes take them in turn. So each image is drawn beside the
same others whoever draws it, and its features are the same to the last bit where the processes have as many threads.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hfgen.components import networks
from hfgen.errors import UsageError
from hfgen.evaluation.progress import Progress
from hfgen.evaluation.real import Estimate
from hfgen.registry import modality_of

SAVED_EVERY = 30.0  # seconds of drawing that a kill may cost


@dataclass
class Sampled:
    """Features of sampled images, and the cost of sampling them.

    Attributes:
        features: (N, D), float32; the main process's only.
        seconds: of sampling, summed over processes.
        evaluations: rows that went through the network that was called most, summed.
    """

    features: Tensor
    seconds: float = 0.0
    evaluations: float = 0.0

    @property
    def seconds_per_image(self) -> float:
        return self.seconds / len(self.features)

    @property
    def evaluations_per_image(self) -> float:
        """Network evaluations; a bijection's inverse, which does not call `forward`, counts as one."""
        return max(1.0, self.evaluations / len(self.features))


def draw_features(
    pipeline: Any,
    extractor: Any,
    seeds: Sequence[int],
    batch_size: int,
    options: Mapping[str, Any] | None = None,
    shape: Sequence[int] | None = None,
    partial: Path | None = None,
    identity: str = "",
    progress: Progress = iter,
    alone: bool = False,
) -> Sampled:
    """Sample an image for each seed and return the features, in order; every process must call it, unless `alone`.

    Args:
        pipeline: of a family, or any of diffusers' that samples images from `batch_size` and `generator`.
        extractor: a `FeatureExtractor`, or `AsStored`.
        options: what its call takes beyond these.
        shape: (C, H, W) of the images that these will be compared with.
        partial: file that keeps the features until all images are sampled, so that a killed evaluation goes on.
        identity: of model, sampler and extractor: a partial file of another is not used.
        progress: wraps the numbers of the rounds.

    Raises:
        UsageError: images of another shape, which are never resized.
        CheckError: a pixel that is not a number, or outside its range.
    """
    state: Any = _Alone() if alone else PartialState()
    done = _resumed(partial, identity, len(seeds), extractor.num_features, state)
    if len(done.features) == len(seeds):
        return done
    first, count = len(done.features) // batch_size, -(-len(seeds) // batch_size)
    saved_at, parts = time.monotonic(), [done.features[: first * batch_size]]
    for start in progress(range(first, count, state.num_processes)):
        number = start + state.process_index
        mine = list(seeds[number * batch_size : (number + 1) * batch_size])
        found = _draw_batch(pipeline, extractor, mine, options or {}, shape)
        parts.append(_gathered(found.features, batch_size, len(seeds) - start * batch_size, state))
        seconds, evaluations = _summed(torch.tensor([found.seconds, found.evaluations]), state)
        done.seconds, done.evaluations = done.seconds + seconds, done.evaluations + evaluations
        if partial is not None and state.is_main_process and time.monotonic() - saved_at > SAVED_EVERY:
            done.features = torch.cat(parts)
            parts = [done.features]
            _save(done, partial, identity)
            saved_at = time.monotonic()
    done.features = torch.cat(parts)
    if partial is not None and state.is_main_process:
        _save(done, partial, identity)  # what is computed of them may take long, too
    return done


@dataclass(frozen=True)
class _Alone:
    """The state of a process that samples by itself."""

    process_index: int = 0
    num_processes: int = 1
    is_main_process: bool = True


def _draw_batch(
    pipeline: Any, extractor: Any, seeds: list[int], options: Mapping[str, Any], shape: Sequence[int] | None
) -> Sampled:
    if not seeds:
        return Sampled(torch.empty(0, extractor.num_features))
    with counted_rows(pipeline) as rows:
        start = time.perf_counter()
        images = modality_of(pipeline).draw_stored(pipeline, seeds, options)
        seconds = time.perf_counter() - start
    if shape is not None and tuple(images.shape[1:]) != tuple(shape):
        noun = modality_of(pipeline).noun[1]
        raise UsageError(f"The model samples {noun} of {_words(images.shape[1:])}; the real ones are {_words(shape)}.")
    return Sampled(extractor.extract(images).cpu(), seconds, float(max(rows.values(), default=0)))


def costs(sampled: Sampled, noun: str) -> dict[str, Estimate]:
    """Return `network_evaluations` and `seconds_per_image`, or of what the noun says."""
    return {
        "network_evaluations": Estimate(sampled.evaluations_per_image),
        f"seconds_per_{noun}": Estimate(sampled.seconds_per_image),
    }


class AsStored:
    """Stands in for an extractor where items are compared as they are: features are the stored form, flattened.

    Whole numbers up to 2^24 are exact in float32.

    Args:
        num_features: elements of one item.
    """

    def __init__(self, num_features: int) -> None:
        self.num_features = num_features

    def extract(self, stored: Tensor) -> Tensor:
        return stored.flatten(1).float()


def _words(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


@contextlib.contextmanager
def counted_rows(pipeline: Any) -> Iterator[dict[str, int]]:
    """Count the images that go through each network's `forward`."""
    rows: dict[str, int] = {}
    hooks = []
    for name, network in networks(pipeline).items():
        hooks.append(network.register_forward_pre_hook(_count(rows, name), with_kwargs=True))
    try:
        yield rows
    finally:
        for hook in hooks:
            hook.remove()


def _count(rows: dict[str, int], name: str) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
        given = next((value for value in [*args, *kwargs.values()] if isinstance(value, Tensor) and value.ndim), None)
        rows[name] = rows.get(name, 0) + (0 if given is None else len(given))

    return hook


# --- several processes ------------------------------------------------------------------------------------------
def _gathered(features: Tensor, batch_size: int, left: int, state: Any) -> Tensor:
    """The rows of this round's batches, in order; those of a batch that is short, or none, are at the end."""
    if state.num_processes == 1:
        return features
    padded = torch.zeros(batch_size, features.shape[1])
    padded[: len(features)] = features
    return gather(padded.to(state.device)).cpu()[: max(left, 0)]


def _summed(costs: Tensor, state: Any) -> list[float]:
    of_all = costs[None] if state.num_processes == 1 else gather(costs[None].to(state.device)).cpu()
    return of_all.double().sum(0).tolist()


# --- going on ---------------------------------------------------------------------------------------------------
def _resumed(partial: Path | None, identity: str, count: int, num_features: int, state: Any) -> Sampled:
    """Read what a killed evaluation had sampled; all processes go on from what the main one finds."""
    found = _read(partial, identity) if partial is not None and state.is_main_process else None
    found = found or Sampled(torch.empty(0, num_features))
    if state.num_processes > 1:
        counts = gather(torch.tensor([len(found.features)], device=state.device)).cpu()
        if not state.is_main_process:
            found = Sampled(torch.zeros(int(counts[0]), num_features))
    found.features = found.features[:count]
    return found


def _read(partial: Path, identity: str) -> Sampled | None:
    try:
        with safe_open(partial, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("identity") != identity:
                return None
            return Sampled(
                file.get_tensor("features").clone(), float(metadata["seconds"]), float(metadata["evaluations"])
            )
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def _save(done: Sampled, partial: Path, identity: str) -> None:
    metadata = {"identity": identity, "seconds": repr(done.seconds), "evaluations": repr(done.evaluations)}
    temporary = partial.with_name(f"{partial.name}.{os.getpid()}")
    partial.parent.mkdir(parents=True, exist_ok=True)
    save_file({"features": done.features}, temporary, metadata)
    os.replace(temporary, partial)
