"""The variational bound and the probability-flow ODE against values known without training.

Expectations are exact: what is quadratic in x_0 and ε is averaged over their signs, the rest over Gauss-Hermite nodes.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from gaussian_diffusion import (
    Float64Process,
    GaussianDenoiser,
    GivenNoise,
    S,
    best_variance,
    four_pairs,
    process_of,
    uniform_in_log_snr,
)

from hfgen.errors import UsageError
from hfgen.noise import SeededNoise
from hfgen_diffusion import bound, likelihoods
from hfgen_diffusion.flow_ode import ProbabilityFlow

BYTES = torch.arange(256, dtype=torch.float64) / 127.5 - 1
ENTROPY = 0.5 * math.log(2 * math.pi * math.e * S**2)  # nats, of N(0, s²)


def zero(x, t):
    """A network that has learned nothing."""
    return torch.zeros_like(x)


def all_levels(process, denoise, s=S):
    """The sum over t >= 1 of E KL_t, in nats for one element: all levels in one batch."""
    levels = process.num_train_timesteps - 1
    x0, epsilon = four_pairs(levels, s)
    t = torch.arange(1, levels + 1).repeat_interleave(4)
    return float(bound.diffusion_term(denoise, process, x0, t, GivenNoise(epsilon)).sum() / 4)


def bits(nats):
    return float(nats) / math.log(2)


# --- a network that has learned nothing -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "variance_type", "expected"),
    [
        ("linear", "fixed_small", 14.672920),
        ("linear", "fixed_large", 13.991483),
        ("squaredcos_cap_v2", "fixed_small", 739.845),
        ("squaredcos_cap_v2", "fixed_large", 739.250),
    ],
)
@pytest.mark.parametrize("size", [0.1, 1.0])
def test_zero_network(schedule, variance_type, expected, size):
    process = process_of(DDPMScheduler, beta_schedule=schedule, variance_type=variance_type)
    assert bits(all_levels(process, zero, size)) == pytest.approx(expected, rel=1e-6)


def test_variance_mismatch():
    process = process_of(DDPMScheduler, variance_type="fixed_large")
    x0 = torch.zeros(999, 1, 1, 1)
    found = bound.posterior_kl(process, x0, x0, torch.arange(1, 1000), None)
    assert bits(found.sum()) == pytest.approx(0.486419, abs=1e-6)
    small = bound.posterior_kl(process_of(DDPMScheduler), x0, x0, torch.arange(1, 1000), None)
    assert float(small.abs().max()) < 1e-12


def test_prior_term():
    ones = torch.ones(2, 1, 4, 4)
    found = bound.prior_term(process_of(DDPMScheduler), ones)
    assert found.shape == (2,)
    assert bits(found[0]) / 16 == pytest.approx(2.911295e-5, rel=1e-6)


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize(("byte", "expected"), [(128, 1.305378), (1, 1.305378), (0, 0.509825), (255, 0.509825)])
def test_decoder_at_a_perfect_mean(variance_type, byte, expected):
    """Both take ln β̃_1."""
    process = process_of(DDPMScheduler, variance_type=variance_type, prediction_type="sample")
    x0 = BYTES[byte].float().view(1, 1, 1, 1)
    found = bound.decoder_term(lambda x, t: x0, process, x0, GivenNoise(torch.ones(1, 1, 1, 1)))
    assert bits(found) == pytest.approx(expected, abs=1e-5)


def test_the_bound_is_the_sum_of_its_terms():
    """Through `likelihoods`, of images of several elements, the same in bits for each dimension."""
    process = process_of(DDPMScheduler, num_train_timesteps=40)
    x0 = BYTES[torch.tensor([[128, 30], [3, 200]])].float().view(1, 1, 2, 2)
    noise = GivenNoise(torch.ones(1, 1, 1, 1))
    terms = bound.bound_terms(zero, process, x0, noise, None, "none")
    assert float(terms.diffusion) / 4 == pytest.approx(all_levels(process, zero), rel=1e-6)
    assert float(terms.prior) == float(bound.prior_term(process, x0))
    assert float(terms.decoder) == float(bound.decoder_term(zero, process, x0, noise))
    found = likelihoods.variational_bound([(zero, process, x0, noise)], process, None, "none")
    assert float(found.nats) == pytest.approx(-float(terms.prior + terms.diffusion + terms.decoder), rel=1e-12)
    assert (found.kind, found.num_dimensions, found.num_values) == ("lower bound", 4, 256)
    assert "40 of 40 levels" in found.method
    assert "nothing clipped" in found.method
    with pytest.raises(UsageError, match="num_timesteps is 0"):
        likelihoods.variational_bound([], process, 0, "none")


def test_clipping_takes_nothing_from_a_mean_in_range():
    process = process_of(DDPMScheduler, clip_sample_range=0.3)
    x0, epsilon = four_pairs(1)
    t, noise = torch.full((4,), 500), GivenNoise(epsilon)
    perfect = lambda x, t: epsilon  # noqa: E731
    free = bound.diffusion_term(perfect, process, x0, t, noise, "none")
    cut = bound.diffusion_term(perfect, process, x0, t, noise, "x0")
    assert float(free.max()) < 1e-12
    from_x0 = process.alpha_bar(499) ** 0.5 * (1 - process.alpha_bar(500) / process.alpha_bar(499))
    from_x0 /= 1 - process.alpha_bar(500)
    variance = float(bound.small_log_variance(process, t)[0].exp())
    assert cut.tolist() == pytest.approx([0.5 * (from_x0 * 0.2) ** 2 / variance] * 4, rel=1e-9)


# --- the decoder ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [1e-4, 2e-3, 7.4e-3, 0.05, 0.4, 3.0, 50.0])
def test_the_256_probabilities_sum_to_one(sigma):
    mean = torch.linspace(-1.6, 1.6, 97, dtype=torch.float64)
    log_p = bound.discretized_gaussian(BYTES[:, None], mean, 2 * math.log(sigma))
    assert log_p.isfinite().all()
    torch.testing.assert_close(log_p.logsumexp(0), torch.zeros(97, dtype=torch.float64), atol=1e-11, rtol=0)


def test_the_mass_of_a_bin():
    """Against the error function where it does not cancel, and where it does, the asymptotic tail."""
    log_p = bound.discretized_gaussian(BYTES[100], torch.tensor(-0.2), 2 * math.log(0.05))
    ends = [(float(BYTES[100]) + 0.2 + side / 255) / 0.05 / math.sqrt(2) for side in (-1, 1)]
    assert float(log_p) == pytest.approx(math.log(0.5 * (math.erf(ends[1]) - math.erf(ends[0]))), rel=1e-6)
    x, mean = torch.tensor([0.0, -0.9, 0.0, 0.9]), torch.tensor([1.0, 0.5, -1.0, -0.5])
    far = bound.discretized_gaussian(x, mean, 2 * math.log(1e-3))
    for value, distance in zip(far.tolist(), [1 - 1 / 255, 1.4 - 1 / 255] * 2, strict=True):
        z = distance / 1e-3
        assert value == pytest.approx(-0.5 * z**2 - math.log(z * math.sqrt(2 * math.pi)), rel=1e-6)


def test_gradients_of_the_decoder_are_finite():
    """Learned variances are trained through it."""
    mean = torch.tensor([-3.0, -1.0, 0.0, 0.3, 1.0, 3.0], requires_grad=True)
    log_variance = torch.tensor(-9.8, requires_grad=True)
    bound.discretized_gaussian(BYTES.float()[:, None], mean, log_variance).sum().backward()
    assert mean.grad.isfinite().all()
    assert log_variance.grad.isfinite()


# --- Gaussian data --------------------------------------------------------------------------------------------------


def continuous_decoder(process, denoise):
    """E[-ln N(x_0; x̂_0(x_1), σ²)] at t = 0, in nats: the decoder of a density."""
    x0, epsilon = four_pairs()
    t = torch.zeros(4, dtype=torch.int64)
    x_t = process.add_noise(x0, epsilon, t)
    output = denoise(x_t, t)
    v = output[:, 1:] if output.shape[1] == 2 else None
    mean = process.predict(output[:, :1], x_t, *process.scales(t))[0]
    log_variance = bound.log_variance(process, t, v)
    return float(0.5 * (math.log(2 * math.pi) + log_variance + (x0 - mean) ** 2 * (-log_variance).exp()).mean())


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize(
    ("variance_type", "diffusion", "total"), [("fixed_small", 6.302437, 1.869325), ("fixed_large", 5.645641, 1.212529)]
)
def test_terms_of_gaussian_data(prediction_type, variance_type, diffusion, total):
    process = process_of(DDPMScheduler, variance_type=variance_type, prediction_type=prediction_type)
    denoise = GaussianDenoiser(process)
    terms = bits(all_levels(process, denoise)), bits(continuous_decoder(process, denoise))
    assert terms == pytest.approx((diffusion, -4.433119), abs=1e-6)
    prior = bits(bound.prior_term(process, four_pairs()[0]).mean())
    assert prior + sum(terms) == pytest.approx(total, abs=2e-6)
    assert prior + sum(terms) > bits(ENTROPY) == pytest.approx(1.047096, abs=1e-6)


SCHEDULES = {
    "linear": DDPMScheduler(variance_type="learned_range"),
    "uniform": uniform_in_log_snr(DDPMScheduler, 1000, variance_type="learned_range"),
    "uniform, few": uniform_in_log_snr(DDPMScheduler, 20, variance_type="learned_range"),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_bound_is_tight_with_the_best_variance(name):
    """p(x_{t-1}|x_t) is then q's, and all that is left is the divergence of q(x_T) from N(0, 1)."""
    process = Float64Process(SCHEDULES[name])
    denoise = GaussianDenoiser(process, v=best_variance(process))
    prior = float(bound.prior_term(process, four_pairs()[0]).mean())
    total = prior + all_levels(process, denoise) + continuous_decoder(process, denoise)
    last = process.alpha_bar(process.num_train_timesteps - 1)
    variance = last * S**2 + 1 - last
    assert total - ENTROPY == pytest.approx(0.5 * (variance - 1 - math.log(variance)), abs=1e-9)


@pytest.mark.whole
def test_bound_ode_and_entropy_agree_on_a_schedule_uniform_in_log_snr():
    """To 1e-3 bits."""
    process = Float64Process(SCHEDULES["uniform"])
    denoise = GaussianDenoiser(process, v=best_variance(process))
    prior = float(bound.prior_term(process, four_pairs()[0]).mean())
    total = prior + all_levels(process, denoise) + continuous_decoder(process, denoise)
    x, weights = nodes(20)
    flow = ProbabilityFlow(GaussianDenoiser(process, v=0.0), process)
    density = flow.log_density(S * x.view(-1, 1, 1, 1), torch.ones(20, 1, 1, 1), 200)[1]
    estimate = -float((density * weights).sum())
    assert bits(total) == pytest.approx(bits(ENTROPY), abs=1e-3)
    assert bits(estimate) == pytest.approx(bits(ENTROPY), abs=1e-3)
    assert bits(estimate) == pytest.approx(bits(total), abs=1e-3)


def test_the_gap_to_the_entropy_falls_with_the_levels():
    gaps = []
    for count in (100, 200, 400):
        process = Float64Process(uniform_in_log_snr(DDPMScheduler, count, variance_type="learned_range"))
        denoise = GaussianDenoiser(process, v=lambda t: torch.where(t == 0, 1.0, -1.0))
        prior = float(bound.prior_term(process, four_pairs()[0]).mean())
        gaps.append(prior + all_levels(process, denoise) + continuous_decoder(process, denoise) - ENTROPY)
    assert gaps[0] / gaps[1] == pytest.approx(2, abs=0.15)
    assert gaps[1] / gaps[2] == pytest.approx(2, abs=0.15)


def nodes(count):
    """Of N(0, 1), with weights that sum to 1, float64."""
    x, weights = np.polynomial.hermite_e.hermegauss(count)
    return torch.from_numpy(x), torch.from_numpy(weights / weights.sum())


# --- learned variances ----------------------------------------------------------------------------------------------


def test_learned_variances_end_at_the_fixed_ones():
    learned = process_of(DDPMScheduler, variance_type="learned_range")
    sums = {}
    for v in (-1.0, 1.0):
        sums[v] = all_levels(learned, GaussianDenoiser(learned, v=v))
    for v, name in ((-1.0, "fixed_small"), (1.0, "fixed_large")):
        fixed = process_of(DDPMScheduler, variance_type=name)
        assert sums[v] == pytest.approx(all_levels(fixed, GaussianDenoiser(fixed)), rel=1e-9)
    t = torch.tensor([0, 1, 500, 999])
    small, middle, large = (bound.log_variance(learned, t, torch.full((4, 1, 1, 1), v)) for v in (-1.0, 0.0, 1.0))
    torch.testing.assert_close(middle, (small + large) / 2)
    assert (small < large).all()
    torch.testing.assert_close(large.exp().flatten(), DDPMScheduler().betas[t].double(), rtol=5e-4, atol=0)


# --- some of the levels ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 4, 20, 27])
def test_some_levels_stand_for_all(count):
    """27 levels above 0: with u equally spaced, each level of a part is asked as often as every other."""
    bounds = bound.strata(27, count)
    assert bounds[0] == 0
    assert bounds[-1] == 27
    assert len(bounds) == count + 1
    points = math.lcm(*(high - low for low, high in pairwise(bounds)))
    process = process_of(DDPMScheduler, num_train_timesteps=28, beta_start=0.01, beta_end=0.4)
    denoise = GaussianDenoiser(process)
    x0, epsilon = four_pairs(points)
    u = ((torch.arange(points) + 0.5) / points).repeat_interleave(4)
    noise = GivenNoise(epsilon, u)
    found = bound.bound_terms(denoise, process, x0, noise, count, "none").diffusion.mean()
    assert float(found) == pytest.approx(all_levels(process, denoise), rel=1e-9)


def test_more_levels_than_there_are_is_all_of_them():
    process = process_of(DDPMScheduler, num_train_timesteps=8)
    x0 = BYTES[:6].float().view(2, 3, 1, 1)
    every, more = (
        bound.bound_terms(zero, process, x0, SeededNoise.from_seeds([0, 1]), count, "none").total()
        for count in (None, 99)
    )
    assert torch.equal(every, more)


@pytest.mark.parametrize("num_timesteps", [None, 3])
def test_an_image_is_bound_for_itself(num_timesteps):
    process = process_of(DDPMScheduler, num_train_timesteps=8)
    x0 = BYTES[:36].float().view(3, 3, 2, 2)

    def of(rows):
        noise = SeededNoise.from_seeds([10 + row for row in rows])
        return bound.bound_terms(GaussianDenoiser(process), process, x0[rows], noise, num_timesteps, "x0").total()

    torch.testing.assert_close(of([0, 1, 2])[1:2], of([1]), rtol=1e-6, atol=0)


# --- bytes: a bound it is -------------------------------------------------------------------------------------------


class AtomDenoiser:
    """E[x_0|x_t] of data on a few bytes."""

    def __init__(self, process, atoms, probabilities):
        self.process, self.atoms, self.log_p = process, atoms, probabilities.log()

    def __call__(self, x, t):
        alpha = self.process.alphas_cumprod[t].view(-1, 1)
        distance = (x.double().flatten(1) - alpha.sqrt() * self.atoms).square() / (2 * (1 - alpha))
        x0 = ((self.log_p - distance).softmax(1) * self.atoms).sum(1)
        return x0.view(-1, 1, 1, 1).to(x.dtype)


def expected_bounds(denoise, process, atoms, count, clip="none"):
    """E over ε of the bound of each one-pixel image, nats."""
    epsilon, weights = nodes(count)
    x0 = atoms.float().repeat_interleave(count).view(-1, 1, 1, 1)
    noise = GivenNoise(epsilon.float().repeat(len(atoms)).view(-1, 1, 1, 1))
    total = bound.bound_terms(denoise, process, x0, noise, None, clip).total()
    return (total.view(len(atoms), count) * weights).sum(1)


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("clip", ["none", "x0"])
def test_the_bounds_of_all_images_are_probabilities(variance_type, clip):
    """Σ_x e^-bound <= Σ_x p(x) = 1, whatever the network; one that knows the data comes close."""
    config = {"num_train_timesteps": 8, "beta_start": 1e-4, "beta_end": 0.9}
    process = process_of(DDPMScheduler, variance_type=variance_type, prediction_type="sample", **config)
    sums = {}
    uniform = torch.full((256,), 1 / 256, dtype=torch.float64)
    for name, denoise in (("zero", zero), ("posterior mean", AtomDenoiser(process, BYTES, uniform))):
        sums[name] = float((-expected_bounds(denoise, process, BYTES, 16, clip)).exp().sum())
        assert sums[name] <= 1
    if variance_type == "fixed_large":
        assert sums["posterior mean"] > 0.5


@pytest.mark.whole
def test_the_bound_of_bytes_comes_to_their_entropy():
    """Of the best network, bound and entropy are one in continuous time: H = 1/2 ∫ E[(x_0 - x̂_0)²] dSNR (Guo, Shamai &
    Verdu 2005); with T levels the bound is above it by O(1/T)."""
    atoms, p = BYTES[[0, 100, 140, 255]], torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    entropy = -float((p * p.log()).sum())
    gaps = []
    for count in (100, 200, 400):
        scheduler = uniform_in_log_snr(DDPMScheduler, count, 1e5, 1e-4, prediction_type="sample")
        process = Float64Process(scheduler)
        found = expected_bounds(AtomDenoiser(process, atoms, p), process, atoms, 32)
        gaps.append(float((found * p).sum()) - entropy)
    assert 0 < gaps[2] < gaps[1] < gaps[0]
    assert gaps[0] / gaps[1] == pytest.approx(2, abs=0.2)
    assert gaps[1] / gaps[2] == pytest.approx(2, abs=0.2)
    assert 2 * gaps[2] - gaps[1] == pytest.approx(0, abs=2e-3)


# --- the ODE --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.whole
def test_density_of_the_probability_flow(prediction_type):
    process = process_of(DDPMScheduler, prediction_type=prediction_type)
    denoise = GaussianDenoiser(process)
    x = torch.tensor([[-1.5, 0.0], [0.3, 1.0]], dtype=torch.float64).view(2, 1, 1, 2)
    variance = S**2 + 1 / 9999
    exact = -0.5 * (x.square() / variance + math.log(2 * math.pi * variance)).flatten(1).sum(1)
    first, last = (process.alpha_bar(t) for t in (0, 999))
    scale = math.sqrt(last * (S**2 + 1 / last - 1) / (S**2 + 1 / first - 1))
    for count, tolerance in ((40, 2e-3), (80, 2e-4)):
        for probe in (torch.ones_like(x), torch.tensor([1.0, -1.0]).expand_as(x)):
            latents, density = ProbabilityFlow(denoise, process).log_density(x, probe, count)
            torch.testing.assert_close(latents, x * scale, rtol=0, atol=tolerance)
            torch.testing.assert_close(density, exact, rtol=0, atol=tolerance * 10)


def test_the_probe_makes_the_trace_in_expectation():
    """Of a drift that mixes the elements, the mean over all signs is the trace, and one probe alone is not."""
    process = process_of(DDPMScheduler)
    mix = torch.tensor([[0.5, 0.4, 0.0], [0.1, -0.2, 0.3], [0.2, 0.0, 0.1]], dtype=torch.float64)
    flow = ProbabilityFlow(lambda x, t: x @ mix, process)
    signs = torch.tensor([[a, b, c] for a in (1, -1) for b in (1, -1) for c in (1, -1)], dtype=torch.float64)
    probe = signs.view(8, 1, 1, 3)
    _, found = flow.drift_and_divergence(0.0, torch.ones(8, 1, 1, 3, dtype=torch.float64), probe)
    expected = 0.4 / math.sqrt(2)  # tr J at σ = 1, of x = y / √2
    assert float(found.mean()) == pytest.approx(expected, rel=1e-9)
    assert float(found.std()) > 0.1


def test_the_estimate_is_the_density_times_the_bin():
    process = process_of(DDPMScheduler)
    x0 = BYTES[torch.tensor([100, 128, 150])].float().view(3, 1, 1, 1)
    noise = SeededNoise.from_seeds([0, 1, 2])
    found = likelihoods.probability_flow([(GaussianDenoiser(process), process, x0, noise)], process, 100)
    bin_center = -0.5 * (x0.double().square() / S**2 + math.log(2 * math.pi * S**2)).flatten() + math.log(2 / 255)
    torch.testing.assert_close(found.nats, bin_center, rtol=0, atol=5e-3)
    assert (found.kind, found.num_dimensions, found.num_values) == ("estimate", 1, 256)
    with pytest.raises(UsageError, match="num_ode_steps is 0"):
        likelihoods.probability_flow([], process, 0)
