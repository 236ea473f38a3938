"""EMA of a network's weights and buffers."""

import pytest
from torch import nn

from hfgen.training.ema import ModelEMA


@pytest.mark.whole
def test_the_average_follows_its_formula_and_keeps_buffers():
    """decay_n = min(decay, (1 + n) / (10 + n)); buffers are the live ones."""
    model = nn.BatchNorm1d(1)
    model.weight.data.fill_(0.0)
    ema, expected = ModelEMA(model, decay=0.9), 0.0
    for n in range(1, 4):
        model.weight.data.fill_(float(n))
        model.running_mean.fill_(float(n))
        model.num_batches_tracked.fill_(n)
        ema.step()
        decay = 0.0 if n == 1 else min(0.9, (1 + n - 1) / (10 + n - 1))
        expected = decay * expected + (1 - decay) * n
    assert ema.state_dict()["weight"].item() == pytest.approx(expected)
    assert (ema.state_dict()["running_mean"].item(), ema.state_dict()["num_batches_tracked"].item()) == (3.0, 3)
    with ema.applied():
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 3.0


@pytest.mark.whole
def test_a_power_function_weighs_steps_by_their_number():
    """With gamma = 1 step t has the share (t^2 - (t-1)^2) / T^2 of T steps, which grows as t^gamma."""
    model = nn.Linear(1, 1, bias=False)
    ema, expected = ModelEMA(model, decay=0.0, gamma=1.0), 0.0
    for t in range(1, 6):
        model.weight.data.fill_(float(t * t))
        ema.step()
        expected = (1 - 1 / t) ** 2 * expected + (1 - (1 - 1 / t) ** 2) * t * t
    assert ema.state_dict()["weight"].item() == pytest.approx(expected)
    shares = [(t * t - (t - 1) ** 2) / 25 for t in range(1, 6)]
    assert expected == pytest.approx(sum(share * t * t for share, t in zip(shares, range(1, 6), strict=True)))
