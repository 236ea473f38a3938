"""Freezing, and the alternation that a generator expresses."""

import pytest
import torch
from torch import nn

from hfgen import Objective, Update, frozen


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


class Inner(Objective):
    """Yields twice, and notes what it sees before each yield."""

    def __init__(self):
        self.seen = []

    def training_step(self, batch):
        for component in ("critic", ("one", "other")):
            self.seen.append((self.noise, self.update, self.micro_batch, self.step / self.last_step))
            yield Update(component, batch["pixel_values"].sum())


def test_the_objective_of_a_pipeline_inside_goes_by_the_outer_one():
    """Micro-batches advance together, so that noise and numbers change between its yields."""
    outer, inner = Objective(), Inner()
    outer.step, outer.last_step, outer.num_micro_batches = 3, 6, 2
    running = [outer.updates_of("prior", inner, {"pixel_values": torch.ones(2)}) for _ in range(2)]
    names = []
    for outer.update in range(2):
        for outer.micro_batch, updates in enumerate(running):
            outer.noise = f"noise {outer.micro_batch}"
            names.append(next(updates).component)
    assert names == ["prior.critic"] * 2 + [("prior.one", "prior.other")] * 2
    assert inner.seen == [(f"noise {micro}", update, micro, 0.5) for update in range(2) for micro in range(2)]
    assert outer.reads_last_step
    assert [next(updates, None) for updates in running] == [None, None]
