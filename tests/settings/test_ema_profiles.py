"""Profiles of EMA against their definitions."""

import math

import pytest

from hfgen.errors import UsageError
from hfgen.settings.arguments import TrainingArguments
from hfgen.settings.ema_profiles import EMAProfile, parse_profiles


def test_half_of_a_weight_is_left_after_its_half_life():
    assert EMAProfile("half_life", 1000.0).decay(10) ** 100 == pytest.approx(0.5)
    assert EMAProfile("half_life", 0.0).decay(10) == 0


@pytest.mark.parametrize(("width", "gamma"), [(0.05, 16.97), (0.1, 6.94)])
def test_the_relative_width_is_that_of_the_weights(width, gamma):
    """The papers' pairs; and the standard deviation of the steps, by their weights, over the number of steps."""
    found = EMAProfile("sigma_rel", width).gamma
    assert found == pytest.approx(gamma, abs=5e-3)
    steps, shares, left = 4000, [], 1.0
    for t in range(steps, 0, -1):
        beta = (1 - 1 / t) ** (found + 1)
        shares.append((t, left * (1 - beta)))
        left *= beta
    mean = sum(t * share for t, share in shares)
    deviation = math.sqrt(sum((t - mean) ** 2 * share for t, share in shares))
    assert deviation / steps == pytest.approx(width, rel=1e-3)


def test_the_first_profile_is_ema_decay_unless_others_are_given():
    assert TrainingArguments(ema_decay=0.9).averages == [EMAProfile("decay", 0.9)]
    assert [it.name for it in TrainingArguments(ema_profiles="sigma_rel=0.1, decay=0.5").averages] == [
        "sigma_rel-0.1",
        "decay-0.5",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.9", "'0.9' is not a profile. Known: decay, half_life, sigma_rel"),
        ("decay=1", "'decay=1'; expected decay=NUMBER, a number above 0 and below 1"),
        ("half_life=-3", "expected half_life=NUMBER, a number above 0."),
        ("sigma_rel=0.3", "a number above 0 and below 0.2887"),
        ("decay=0.5,decay=0.50", "names one profile twice"),
    ],
)
def test_a_profile_that_cannot_be(text, message):
    with pytest.raises(UsageError, match=message):
        parse_profiles(text)


def test_options_that_contradict_profiles():
    with pytest.raises(UsageError, match="--no_use_ema leaves out"):
        TrainingArguments(ema_profiles="decay=0.5", use_ema=False)
    with pytest.raises(UsageError, match="--ema_power warms up the EMA of --ema_decay"):
        TrainingArguments(ema_profiles="decay=0.5", ema_power=0.7)
