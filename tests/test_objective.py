"""Freezing, and the alternation that a generator expresses."""

import pytest
import torch
from torch import nn

from hfgen import frozen


def test_frozen_parameters_take_no_gradient_but_pass_it_on():
    layer, x = nn.Linear(2, 1), torch.ones(1, 2, requires_grad=True)
    with frozen(layer):
        layer(x).sum().backward()
    assert layer.weight.grad is None
    assert x.grad is not None
    assert layer.weight.requires_grad


def test_frozen_may_be_entered_again_and_left_in_any_order():
    """The accumulated micro-batches of a step are inside together, and the first to enter is the first to leave."""
    layer = nn.Linear(2, 1)
    layer.bias.requires_grad_(False)
    first, second = frozen(layer), frozen(layer)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not layer.weight.requires_grad
    second.__exit__(None, None, None)
    assert layer.weight.requires_grad
    assert not layer.bias.requires_grad, "what was frozen before stays so"


def test_frozen_is_undone_after_an_error():
    layer = nn.Linear(2, 1)
    with pytest.raises(ZeroDivisionError), frozen(layer):
        _ = 1 / 0
    assert layer.weight.requires_grad
