"""How many places are masked, and which."""

import torch

from hfgen.noise import SeededNoise, StepNoise
from hfgen_text.masking import counts_of, masked_places, ranks, strata


def test_exact_counts():
    counts = torch.arange(1, 9)
    masked = masked_places(torch.rand(8, 8), counts)
    assert torch.equal(masked.sum(-1), counts)
    assert counts_of(torch.tensor([0.0, 0.999999, 0.5]), 8).tolist() == [1, 8, 5]
    assert counts_of(torch.tensor([1.0]), 8).item() == 8  # a share that rounds up


def test_every_place_is_masked_equally_often():
    masked = masked_places(torch.rand(40_000, 5, generator=torch.Generator().manual_seed(0)), torch.full((40_000,), 2))
    assert (masked.double().mean(0) - 0.4).abs().max() < 0.01


def test_ties_go_by_place():
    assert masked_places(torch.zeros(1, 4), torch.tensor([2])).tolist() == [[True, True, False, False]]
    assert ranks(torch.tensor([[0.5, 0.1, 0.5]])).tolist() == [[1, 0, 2]]


def test_strata():
    found = strata(torch.rand(7, 16))
    assert torch.equal((found * 16).floor().long(), torch.arange(16).expand(7, 16))


def test_numbers_of_a_global_batch_are_stratified_and_split():
    """Row i has its number in the i-th part, whichever process or micro-batch holds it."""
    whole = StepNoise(3, 5, slice(0, 12), 12).stratified()
    assert torch.equal((whole * 12).floor().long(), torch.arange(12))
    parts = [StepNoise(3, 5, rows, 12).stratified() for rows in (slice(0, 6), slice(6, 9), torch.tensor([9, 10, 11]))]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(StepNoise(3, 6, slice(0, 12), 12).stratified(), whole)
    alone = SeededNoise.from_seeds([1, 2]).stratified()
    assert torch.equal(alone[1:], SeededNoise.from_seeds([2]).stratified())
