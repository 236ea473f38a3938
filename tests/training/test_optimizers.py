"""Optimizers that step together, and learning rate schedules."""

import pytest
import torch

from hfgen.errors import UsageError
from hfgen.run_folder import read_metrics
from hfgen.training.optimizers import step_together


@pytest.mark.parametrize("limit", [None, 0.5])
def test_optimizers_that_step_together_are_unscaled_once(limit):
    """With a loss scaler both take the step that they take without one; a gradient that overflows skips both."""
    results = []
    for scaled in (False, True):
        weights = [torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([3.0], requires_grad=True)]
        optimizers = [torch.optim.SGD([weight], lr=0.1) for weight in weights]
        scaler = torch.amp.GradScaler("cpu", enabled=scaled)
        for _ in range(2):
            scaler.scale(sum(weight.square().sum() for weight in weights)).backward()
            step_together(optimizers, scaler, limit)
            for optimizer in optimizers:
                optimizer.zero_grad()
        results.append(torch.cat(weights).detach())
    torch.testing.assert_close(*results)
    before = results[1].clone()
    scaler.scale(weights[0].sum() * float("inf") + weights[1].sum()).backward()
    scale = scaler.get_scale()
    step_together(optimizers, scaler, limit)
    assert torch.equal(weights[0].detach(), before[:2])
    assert scaler.get_scale() == scale / 2


def test_learning_rate_counts_optimizer_steps(make, tmp_path):
    """Linear to 0 over 4 steps, with 2 micro-batches each: 3/4, 1/2, 1/4, 0."""
    settings = {"lr_scheduler": "linear", "logging_steps": 1, "learning_rate": 1.0, "train_batch_size": 4}
    make(tmp_path / "run", gradient_accumulation_steps=2, **settings).train()
    assert [line["learning_rate"] for line in read_metrics(tmp_path / "run")] == [0.75, 0.5, 0.25, 0.0]


def test_learning_rate_by_rules(make, tmp_path):
    settings = {"lr_scheduler": "piecewise_constant", "lr_step_rules": "1:1,0.5:3,0.1", "learning_rate": 1.0}
    make(tmp_path / "run", logging_steps=1, **settings).train()
    assert [line["learning_rate"] for line in read_metrics(tmp_path / "run")] == [0.5, 0.5, 0.1, 0.1]
    with pytest.raises(UsageError, match="--lr_step_rules is '1:x,2'; expected factor:step"):
        make(**settings | {"lr_step_rules": "1:x,2"})
    with pytest.raises(UsageError, match="piecewise_constant has no warm-up"):
        make(**settings, lr_warmup_steps=3)
    with pytest.raises(UsageError, match="need each other"):
        make(lr_scheduler="piecewise_constant")


def test_an_unknown_schedule_is_told(make):
    with pytest.raises(UsageError, match="--lr_scheduler is 'cosin'. Did you mean 'cosine'"):
        make(lr_scheduler="cosin")
