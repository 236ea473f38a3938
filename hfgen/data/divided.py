"""A dataset is divided, by a seed, into a part to train on and a part that is held out."""

import dataclasses
import hashlib
from typing import Any, TypeVar

import torch
from torch import Tensor

from hfgen.data.facts import Items, evenly_spaced
from hfgen.errors import UsageError
from hfgen.noise import key

HELD_OUT = "held_out"  # what `hfgen evaluate --split` calls that part

Found = TypeVar("Found", bound=Items)


def divided(items: Found, fraction: float, seed: int) -> Found:
    """Return the part to train on; its `held_out` is the other part, with the same share of each class.

    Raises:
        UsageError: one of the parts would be empty.
    """
    held_out = _chosen(items, round(fraction * len(items)), seed)
    if not 0 < len(held_out) < len(items):
        raise UsageError(
            f"--validation_fraction {fraction:g} of {items.name}, which holds {len(items):,} {items.noun[1]}, leaves "
            f"{len(held_out):,} for validation and {len(items) - len(held_out):,} to train on.\n"
            "Choose another fraction."
        )
    return dataclasses.replace(items.part(_others(items, held_out)), held_out=items.part(held_out))


def _chosen(items: Items, count: int, seed: int) -> Tensor:
    """Return the numbers of the items to hold out, sorted: a random order, by class, evenly spaced."""
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(key(seed, "held out")))
    if items.labels is not None:
        order = order[items.labels[order].argsort(stable=True)]
    middles = list(evenly_spaced(2 * len(order), 2 * count))[1::2]
    held_out = order[torch.tensor(middles, dtype=torch.int64) // 2].sort().values
    if items.labels is not None:  # a class stays in training
        kept = items.labels[_others(items, held_out)]
        held_out = held_out[torch.isin(items.labels[held_out], kept)]
    return held_out


def _others(items: Items, held_out: Tensor) -> Tensor:
    is_kept = torch.ones(len(items), dtype=torch.bool)
    is_kept[held_out] = False
    return is_kept.nonzero().flatten()


def facts_of(items: Items) -> dict[str, Any]:
    """Return what a run remembers of its held-out part: the hash of the numbers of its items, and their count."""
    assert items.rows is not None
    return {"count": len(items), "sha256": hashlib.sha256(items.rows.astype("<i8").tobytes()).hexdigest()}
