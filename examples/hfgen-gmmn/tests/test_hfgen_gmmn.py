"""GMMN: the laws of every family, and known values of the maximum mean discrepancy."""

import math

import pytest
import torch
from hfgen_gmmn import GMMNPipeline, squared_mmd

from hfgen import UsageError
from hfgen.testing import FamilyTests


class TestGMMN(FamilyTests):
    family = "gmmn"
    overrides = {"generator.latent_dim": 4, "generator.hidden_dims": [8, 16]}


def test_mmd_of_a_sample_with_itself_is_zero():
    x = torch.rand(16, 1, 4, 4) * 2 - 1
    assert squared_mmd(x, x).item() == 0
    assert squared_mmd(x, x[torch.randperm(16)]).item() == pytest.approx(0, abs=1e-5)


def test_mmd_of_two_points():
    """Compare x = (0, 0) and y = (1, 2): |x - y|^2 = 5, D = 2, so k = exp(-5 / (2 * 2 sigma)) and MMD^2 = 2 - 2 k."""
    x, y = torch.zeros(1, 2), torch.tensor([[1.0, 2.0]])
    assert squared_mmd(x, y, [1.0]).item() == pytest.approx(2 - 2 * math.exp(-1.25))
    both = 2 - 2 * math.exp(-1.25) + 2 - 2 * math.exp(-2.5)
    assert squared_mmd(x, y, [1.0, 0.5]).item() == pytest.approx(both)


def test_mmd_of_samples_of_unequal_size():
    """Compare {0, 1} and {1}: (2 + 2 k) / 4 - 2 (k + 1) / 2 + 1 = (1 - k) / 2, with k = exp(-1 / 2)."""
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0]])
    assert squared_mmd(x, y, [1.0]).item() == pytest.approx((1 - math.exp(-0.5)) / 2)


def test_descent_moves_samples_to_the_data():
    samples = torch.tensor([[-1.0], [3.0]], requires_grad=True)
    squared_mmd(samples, torch.ones(2, 1), [1.0]).backward()
    assert samples.grad[0] < 0 < samples.grad[1]


def test_class_labels_are_refused():
    with pytest.raises(UsageError, match="no class-conditional form"):
        GMMNPipeline.build(28, 1, num_classes=10)
