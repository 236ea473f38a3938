"""p(x|z): each a proper distribution, with the values that are known, and samples that follow it."""

import math

import pytest
import torch
from rounding import gamma

from hfgen.errors import UsageError
from hfgen.noise import SeededNoise
from hfgen_vae.likelihoods import BernoulliLikelihood, DiscretizedLogisticLikelihood, GaussianLikelihood, log_bin_mass

LEVELS = torch.arange(256, dtype=torch.float64) / 127.5 - 1


def noise(count):
    return SeededNoise.from_seeds(range(count))


def parameters_of(likelihood, channels=1, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, channels * likelihood.parameters_per_channel, 2, 2, generator=generator) * scale


@pytest.mark.parametrize("num_mixtures", [1, 2, 5])
@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_the_256_probabilities_sum_to_one(num_mixtures, scale):
    likelihood = DiscretizedLogisticLikelihood(num_mixtures)
    parameters = parameters_of(likelihood, 3, scale=scale)
    x = LEVELS.float()[:, None, None, None].expand(256, 3, 2, 2)
    total = likelihood.elementwise(parameters, x).logsumexp(0)
    assert total.shape == (3, 2, 2)
    torch.testing.assert_close(total, torch.zeros_like(total), atol=2e-5, rtol=0)


def test_the_two_probabilities_sum_to_one():
    likelihood = BernoulliLikelihood()
    parameters = parameters_of(likelihood, scale=5)
    x = torch.tensor([-1.0, 1.0])[:, None, None, None].expand(2, 1, 2, 2)
    total = likelihood.elementwise(parameters.expand(2, -1, -1, -1), x).logsumexp(0)
    torch.testing.assert_close(total, torch.zeros_like(total), atol=1e-6, rtol=0)


def test_the_density_integrates_to_one():
    likelihood = GaussianLikelihood(sigma=0.3)
    x = torch.linspace(-4, 4, 40001)[:, None, None, None]
    density = likelihood.elementwise(torch.full((1, 1, 1, 1), 0.2), x).exp().flatten()
    assert torch.trapezoid(density, x.flatten()).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("log_scale", "expected", "uniform_bits"),
    [
        (0.0, [-1.310396, -6.234416, -6.234416, -1.310396], 9.054401),
        (-2.0, [-7.360715, -4.234691, -4.234691, -7.360715], 9.747044),
    ],
)
def test_discretized_logistic_oracle(log_scale, expected, uniform_bits):
    log_p = log_bin_mass(LEVELS, torch.zeros((), dtype=torch.float64), torch.tensor(log_scale, dtype=torch.float64))
    assert log_p[[0, 127, 128, 255]].tolist() == pytest.approx(expected, abs=1e-6)
    assert (-log_p.mean() / math.log(2)).item() == pytest.approx(uniform_bits, abs=1e-6)
    assert log_p.logsumexp(0).item() == pytest.approx(0, abs=1e-12)


def test_far_bins_are_finite_and_exact_in_float32():
    """Where a difference of two sigmoids is 0 in any precision, and the log of it minus infinity."""
    exact = log_bin_mass(LEVELS, torch.tensor(0.0, dtype=torch.float64), torch.tensor(-7.0, dtype=torch.float64))
    single = log_bin_mass(LEVELS.float(), torch.tensor(0.0), torch.tensor(-7.0, requires_grad=True))
    assert single.isfinite().all()
    assert exact.min() < -1000
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=1e-5)
    single.sum().backward()


def test_a_fair_coin_for_each_pixel():
    likelihood = BernoulliLikelihood()
    x = likelihood.observe(torch.rand(3, 1, 28, 28) * 2 - 1, noise(3))
    zeros = torch.zeros(3, 1, 28, 28, requires_grad=True)
    for logits in (zeros, zeros.detach()):  # in training by another route than in evaluation
        log_p = likelihood.log_prob(logits, x)
        assert log_p.tolist() == pytest.approx([-784 * math.log(2)] * 3, rel=gamma(784))


def test_bernoulli_by_both_routes():
    likelihood, x = BernoulliLikelihood(), torch.randint(2, (5, 1, 4, 4)) * 2.0 - 1
    logits = (torch.randn(5, 1, 4, 4) * 30).requires_grad_()
    bound = {"atol": gamma(32) * float(logits.detach().abs().flatten(1).sum(1).max()), "rtol": 0}  # 16 terms, twice
    torch.testing.assert_close(likelihood.log_prob(logits, x), likelihood.log_prob(logits.detach(), x), **bound)
    expected = torch.distributions.Bernoulli(logits=logits).log_prob((x + 1) / 2).flatten(1).sum(1)
    torch.testing.assert_close(likelihood.log_prob(logits, x), expected, **bound)


def test_gaussian_at_its_optimal_sigma():
    """Mean squared error 0.01: -(ln 2 pi e MSE) / 2 = 0.883647 nats per element."""
    likelihood = GaussianLikelihood()
    likelihood.update(torch.tensor(0.01))
    x = torch.full((1, 1, 2, 2), 0.1)
    log_p = likelihood.log_prob(torch.zeros(1, 1, 2, 2), x)
    assert (log_p / 4).item() == pytest.approx(0.883647, abs=1e-5)


def test_optimal_sigma_is_the_mean_then_the_moving_average():
    likelihood = GaussianLikelihood(momentum=0.25)
    for error in (0.5, 0.3, 0.1, 0.1):
        likelihood.update(torch.tensor(error))
    assert likelihood.variance.item() == pytest.approx(0.25)  # the plain mean of four
    likelihood.update(torch.tensor(0.65))
    assert likelihood.variance.item() == pytest.approx(0.75 * 0.25 + 0.25 * 0.65)
    fixed = GaussianLikelihood(sigma=0.5)
    assert fixed.statistic(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)) is None
    assert fixed.variance.item() == 0.25


@pytest.mark.parametrize("likelihood", [DiscretizedLogisticLikelihood(), DiscretizedLogisticLikelihood(3)])
def test_samples_follow_the_probabilities(likelihood):
    parameters = parameters_of(likelihood, seed=3)
    x = likelihood.sample(parameters.expand(4000, -1, -1, -1), noise(4000))
    likelihood.check(x)
    probability = likelihood.elementwise(parameters, LEVELS.float()[:, None, None, None]).exp()
    exact = (probability * LEVELS.float()[:, None, None, None]).sum(0)
    error = x.std(0) / math.sqrt(4000)
    assert ((x.mean(0) - exact).abs() < 4 * error).all()
    at_ends = (x == 1).float().mean(0) - probability[255]
    assert (at_ends.abs() < 0.04).all()


def test_binary_and_gaussian_samples():
    bernoulli = BernoulliLikelihood()
    logits = torch.tensor([-1.0, 2.0])[None, None, None].expand(4000, 1, 1, 2)
    expected = torch.sigmoid(torch.tensor([-1.0, 2.0])) * 2 - 1
    torch.testing.assert_close(bernoulli.mean(logits)[0, 0, 0], expected)
    torch.testing.assert_close(bernoulli.sample(logits, noise(4000)).mean((0, 1, 2)), expected, atol=0.07, rtol=0)
    gaussian = GaussianLikelihood(sigma=0.2)
    x = gaussian.sample(torch.full((4000, 1, 1, 1), 0.5), noise(4000))
    assert x.mean().item() == pytest.approx(0.5, abs=0.02)
    assert x.std().item() == pytest.approx(0.2, abs=0.01)


# --- what is observed -----------------------------------------------------------------------------------------------


def test_dynamic_binarization_draws_each_pixel_with_its_gray_value():
    gray = torch.full((2000, 1, 2, 2), 0.2)  # a probability of 0.6
    x = BernoulliLikelihood().observe(gray, noise(2000))
    assert set(x.unique().tolist()) == {-1.0, 1.0}
    assert ((x + 1) / 2).mean().item() == pytest.approx(0.6, abs=0.03)
    black_and_white = torch.tensor([-1.0, 1.0])[None, None, None].expand(50, 1, 1, 2)
    assert torch.equal(BernoulliLikelihood().observe(black_and_white, noise(50)), black_and_white)


def test_threshold_binarization():
    """The byte 128 is 1, 127 is 0."""
    x = BernoulliLikelihood("threshold").observe(
        torch.tensor([127, 128]).float()[None, None, None] / 127.5 - 1, noise(1)
    )
    assert x.flatten().tolist() == [-1, 1]


def test_gray_images_are_no_binary_images():
    with pytest.raises(UsageError, match=r"50% of the values are gray.\n.*binarization dynamic"):
        BernoulliLikelihood("none").observe(torch.tensor([0.5, 1.0])[None, None, None], noise(1))


def test_values_between_levels_have_no_mass():
    with pytest.raises(UsageError, match="256 levels"):
        DiscretizedLogisticLikelihood().check(torch.full((1, 1, 2, 2), 0.001))
    DiscretizedLogisticLikelihood().check(LEVELS.float()[None, None, None])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: GaussianLikelihood(sigma=0.0),
        lambda: GaussianLikelihood(momentum=0.0),
        lambda: DiscretizedLogisticLikelihood(0),
    ],
)
def test_options_out_of_range(wrong):
    with pytest.raises(UsageError, match="it must"):
        wrong()
