"""Sources of random numbers for a batch of images; each image's numbers do not depend on the others.

Both return tensors of shape (B, *shape), where B is the size of their batch.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor


def key(*parts: int | str) -> int:
    """A 63-bit seed from any parts, the same in every process and version.

    >>> key(0, "step", 1) == key(0, "step", 1) != key(0, "step", 2)
    True
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_device(device: torch.device, seed: int) -> None:
    """Seed the generators that networks draw from on this device.

    `torch.manual_seed` seeds every kind of device, and formats a stack trace for each that was not used yet: 0.5 ms.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def draw_seed(generator: torch.Generator | None) -> int:
    """Draw the next image's own seed from the caller's generator or the global one."""
    device = generator.device if generator is not None else "cpu"
    return int(torch.randint(2**63 - 1, (), generator=generator, device=device))


class Noise(Protocol):
    """Protocol of the sources that schedulers and families draw from; `len` is the batch size B."""

    def __len__(self) -> int: ...
    def normal(self, *shape: int) -> Tensor: ...
    def uniform(self, *shape: int) -> Tensor: ...
    def integers(self, high: int) -> Tensor: ...
    def stratified(self) -> Tensor: ...


class SeededNoise:
    """Noise from one generator per image: image i depends on its own seed only, whatever the batch.

    Args:
        generators: one per image.
        device: where the tensors are wanted. They are drawn where the generator lives, a CPU as a rule, so that
            a seed gives the same picture on every device.
    """

    def __init__(self, generators: Sequence[torch.Generator], device: torch.device | str = "cpu") -> None:
        self.generators = list(generators)
        self.device = torch.device(device)

    @classmethod
    def from_seeds(cls, seeds: Sequence[int], device: torch.device | str = "cpu") -> "SeededNoise":
        """Make one generator for each seed, an integer of 64 bits."""
        return cls([torch.Generator().manual_seed(int(seed)) for seed in seeds], device)

    def __len__(self) -> int:
        return len(self.generators)

    def normal(self, *shape: int) -> Tensor:
        """N(0, 1), shape (B, *shape), float32."""
        return self._stack(lambda g: torch.randn(shape, generator=g, device=g.device))

    def uniform(self, *shape: int) -> Tensor:
        """U[0, 1), shape (B, *shape), float32."""
        return self._stack(lambda g: torch.rand(shape, generator=g, device=g.device))

    def integers(self, high: int) -> Tensor:
        """Integers in [0, high), shape (B,), int64."""
        return self._stack(lambda g: torch.randint(high, (), generator=g, device=g.device))

    def stratified(self) -> Tensor:
        """U[0, 1), shape (B,), float64; of a training's batch they are spread evenly, here each stands alone."""
        return self.uniform().double()

    def _stack(self, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        return torch.stack([draw(generator) for generator in self.generators]).to(self.device)


class StepNoise:
    """Noise of one micro-batch of one optimizer step, keyed by (seed, step).

    It is drawn for the global batch, and this process takes its slice: so the result depends neither on the number
    of processes nor on how the batch is split to accumulate gradients.

    Args:
        rows: the micro-batch's place in the global batch: a slice, or the indices of several of them together.
        global_batch_size: images of all processes and micro-batches together.
    """

    def __init__(
        self, seed: int, step: int, rows: slice | Tensor, global_batch_size: int, device: torch.device | str = "cpu"
    ) -> None:
        self.seed, self.step, self.device = seed, step, device
        self.rows = rows
        self.global_batch_size = global_batch_size

    @functools.cached_property
    def generator(self) -> torch.Generator:
        """Make the generator when something is drawn."""
        return torch.Generator(self.device).manual_seed(key(self.seed, "noise", self.step))

    def __len__(self) -> int:
        return self.rows.stop - self.rows.start if isinstance(self.rows, slice) else len(self.rows)

    def normal(self, *shape: int) -> Tensor:
        """N(0, 1), shape (B, *shape), float32."""
        full = (self.global_batch_size, *shape)
        return torch.randn(full, generator=self.generator, device=self.generator.device)[self.rows]

    def uniform(self, *shape: int) -> Tensor:
        """U[0, 1), shape (B, *shape), float32."""
        full = (self.global_batch_size, *shape)
        return torch.rand(full, generator=self.generator, device=self.generator.device)[self.rows]

    def integers(self, high: int) -> Tensor:
        """Integers in [0, high), shape (B,), int64."""
        full = (self.global_batch_size,)
        return torch.randint(high, full, generator=self.generator, device=self.generator.device)[self.rows]

    def stratified(self) -> Tensor:
        """U[0, 1), shape (B,), float64: row i of the global batch of N has its number in [i / N, (i + 1) / N)."""
        places = torch.arange(self.global_batch_size, device=self.generator.device, dtype=torch.float64)[self.rows]
        return (places + self.uniform().double()) / self.global_batch_size
