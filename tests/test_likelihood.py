"""Nats, bits per dimension, and what kind of number it is."""

import doctest
import math

import pytest
import torch

from hfgen import likelihood
from hfgen.errors import CheckError, UsageError
from hfgen.likelihood import IMPORTANCE_CHUNK, LogLikelihood, bits_per_dim, importance_weighted_bound


def test_docstring_examples():
    result = doctest.testmod(likelihood)
    assert (result.attempted > 0, result.failed) == (True, 0)


def test_uniform_bytes_are_8_bits_per_dimension():
    nats = torch.tensor([-784 * math.log(256)], dtype=torch.float64)
    assert bits_per_dim(nats, 784).item() == pytest.approx(8)
    assert LogLikelihood(nats, "exact", 784, 256).bits_per_dim.item() == pytest.approx(8)


def test_a_density_has_no_bits_per_dimension():
    with pytest.raises(UsageError, match="is a density"):
        _ = LogLikelihood(torch.zeros(1), "exact", 4).bits_per_dim


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_likelihood_is_an_error(value):
    with pytest.raises(CheckError, match="log-likelihood of image 1 is"):
        LogLikelihood(torch.tensor([-1.0, value]), "exact", 4)
    LogLikelihood(torch.tensor([-math.inf]), "exact", 4)  # an image that cannot be


def test_it_says_what_it_is():
    nats = torch.tensor([-86.0, -88.0], dtype=torch.float64)
    found = LogLikelihood(nats, "lower bound", 784, 2, 5000)
    how = "lower bound, 5000 importance samples; mean of 2"
    assert str(found) == f"-87.0 +- 1.0 nats per image, 0.1601 bits per dimension of 2 values ({how})"
    assert found.standard_error == pytest.approx(1.0)
    assert "a density" in str(LogLikelihood(nats, "exact", 784))
    one = str(LogLikelihood(nats[:1], "lower bound", 784, 256, 1))
    assert one.startswith(
        "-86.00 nats per image, 0.1583 bits per dimension of 256 values (lower bound, 1 importance sample;"
    )


@pytest.mark.parametrize("count", [1, 2, IMPORTANCE_CHUNK, IMPORTANCE_CHUNK + 1, 3 * IMPORTANCE_CHUNK + 7])
def test_the_bound_of_many_samples_is_one_log_mean(count):
    """Far below and above what float32 could exponentiate."""
    log_w = torch.randn(3, count, generator=torch.Generator().manual_seed(0)) * 30 - torch.tensor(
        [[900.0], [0], [-700]]
    )
    given, sizes = iter(log_w.split(IMPORTANCE_CHUNK, dim=1)), []

    def next_chunk(size):
        sizes.append(size)
        return next(given)

    found = importance_weighted_bound(next_chunk, count)
    torch.testing.assert_close(found, log_w.double().logsumexp(1) - math.log(count))
    assert sum(sizes) == count


def test_at_least_one_sample():
    with pytest.raises(UsageError, match="num_importance_samples is 0"):
        importance_weighted_bound(lambda n: torch.zeros(1, n), 0)


@pytest.mark.parametrize(
    ("nats", "words"),
    [([-600.0, -1000.0], "-800 +- 200 nats"), ([-86.0, -86.5], "-86.25 +- 0.25 nats"), ([-1.0, -1.0], "-1.00 nats")],
)
def test_a_mean_has_as_many_digits_as_its_error_leaves(nats, words):
    assert str(LogLikelihood(torch.tensor(nats, dtype=torch.float64), "exact", 4)).startswith(words)
