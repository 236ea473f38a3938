"""Images are divided, by a seed, into a part to train on and a part that is held out."""

import dataclasses
import hashlib
from typing import Any

import torch
from torch import Tensor

from hfgen.data.images import Images
from hfgen.data.looks import evenly_spaced
from hfgen.errors import UsageError
from hfgen.noise import key

HELD_OUT = "held_out"  # what `hfgen evaluate --split` calls that part


def divided(images: Images, fraction: float, seed: int) -> Images:
    """Return the part to train on; its `held_out` is the other part, with the same share of each class.

    Raises:
        UsageError: one of the parts would be empty.
    """
    held_out = _chosen(images, round(fraction * len(images)), seed)
    if not 0 < len(held_out) < len(images):
        raise UsageError(
            f"--validation_fraction {fraction:g} of {images.name}, which holds {len(images):,} images, leaves "
            f"{len(held_out):,} for validation and {len(images) - len(held_out):,} to train on.\n"
            "Choose another fraction."
        )
    return dataclasses.replace(images.part(_others(images, held_out)), held_out=images.part(held_out))


def _chosen(images: Images, count: int, seed: int) -> Tensor:
    """Return the numbers of the images to hold out, sorted: a random order, by class, evenly spaced."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(key(seed, "held out")))
    if images.labels is not None:
        order = order[images.labels[order].argsort(stable=True)]
    middles = list(evenly_spaced(2 * len(order), 2 * count))[1::2]
    held_out = order[torch.tensor(middles, dtype=torch.int64) // 2].sort().values
    if images.labels is not None:  # a class stays in training
        kept = images.labels[_others(images, held_out)]
        held_out = held_out[torch.isin(images.labels[held_out], kept)]
    return held_out


def _others(images: Images, held_out: Tensor) -> Tensor:
    is_kept = torch.ones(len(images), dtype=torch.bool)
    is_kept[held_out] = False
    return is_kept.nonzero().flatten()


def facts_of(images: Images) -> dict[str, Any]:
    """Return what a run remembers of its held-out part: the hash of the numbers of its images, and their count."""
    assert images.rows is not None
    return {"count": len(images), "sha256": hashlib.sha256(images.rows.astype("<i8").tobytes()).hexdigest()}
