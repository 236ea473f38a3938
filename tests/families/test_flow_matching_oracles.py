"""Flow matching against closed forms: paths, losses, samplers and densities of Gaussian data."""

import math
from itertools import pairwise, permutations

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler
from gaussian_diffusion import Impulses, four_pairs
from gaussian_flow import Quantiles, S, drift, velocity
from torch import nn

from hfgen.errors import UsageError
from hfgen_diffusion.coupling import transported
from hfgen_diffusion.flow_likelihood import log_density
from hfgen_diffusion.flow_objective import FlowMatchingObjective
from hfgen_diffusion.flow_scheduler import InterpolantScheduler, times_of
from hfgen_diffusion.flow_solvers import adaptive, solve, stochastic_step
from hfgen_diffusion.interpolant import PATHS, Interpolant

EULER, HEUN = FlowMatchEulerDiscreteScheduler(), FlowMatchHeunDiscreteScheduler()
ONE = torch.ones(1, 1, 1, 1, dtype=torch.float64)
TIMES = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)


# --- the paths ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_a_path_and_what_is_predicted_on_it(path):
    """The derivatives are autograd's; of the true velocity follow the image and the score."""
    t = TIMES.clone().requires_grad_()
    alpha, sigma, d_alpha, d_sigma = PATHS[path](t)
    torch.testing.assert_close(torch.autograd.grad(alpha.sum(), t, retain_graph=True)[0], d_alpha)
    torch.testing.assert_close(torch.autograd.grad(sigma.sum(), t)[0], d_sigma)
    of_v, of_x = Interpolant(path), Interpolant(path, "sample")
    x, epsilon = torch.randn(2, 3, 1, 2, 2, dtype=torch.float64)
    x_t, v = of_v.noised(x, epsilon, TIMES), of_v.velocity(x, epsilon, TIMES)
    torch.testing.assert_close(of_v.image(v, x_t, TIMES), x)
    torch.testing.assert_close(of_x.velocity_of(x, x_t, TIMES), v)
    torch.testing.assert_close(of_v.score(v, x_t, TIMES), -epsilon / sigma.detach().view(-1, 1, 1, 1))
    torch.testing.assert_close(of_v.time_of((sigma / alpha).detach()), TIMES)


def test_a_predicted_image_is_divided_by_no_less_than_a_twentieth():
    """The velocity near the image would be infinite otherwise: (x_t - x̂) / max(t, 0.05)."""
    path = Interpolant(prediction="sample")
    for t, slope in ((0.01, 20.0), (0.05, 20.0), (0.5, 2.0)):
        assert float(path.velocity_of(2 * ONE, 3 * ONE, torch.tensor(t))) == pytest.approx(slope)


def test_t_1_is_noise_and_the_velocity_leads_there():
    """v = ε - x, as diffusers has it; of Gaussian data v*(x)/x at t = 1/4, 1/2, 3/4."""
    path = Interpolant()
    x, epsilon = 2 * ONE, 5 * ONE
    assert [float(path.noised(x, epsilon, torch.tensor(t))) for t in (0.0, 0.25, 1.0)] == [2.0, 2.75, 5.0]
    assert float(path.velocity(x, epsilon, torch.tensor(0.3))) == 3.0
    x, epsilon = four_pairs(s=S)
    x_t = [path.noised(x, epsilon, t) for t in TIMES]
    slopes = [
        float((path.velocity(x, epsilon, t) * y).sum() / y.square().sum()) for t, y in zip(TIMES, x_t, strict=True)
    ]
    assert slopes == pytest.approx([0.307692, 1.2, 1.189189], abs=1e-6)


# --- the losses -----------------------------------------------------------------------------------------------------


class Said(nn.Module):
    """Stands where the network does: a function of x_t and t."""

    def __init__(self, says):
        super().__init__()
        self.says = says

    def forward(self, x_t, t, class_labels=None, return_dict=False):
        return (self.says(x_t, t / 1000),)


def loss_of(says, s=S, count=4096, scheduler=None, **options):
    x, epsilon = four_pairs(count, s)
    objective = FlowMatchingObjective(Said(says), scheduler or EULER, **options)
    objective.noise = Quantiles(epsilon)
    (update,) = objective.training_step({"pixel_values": x})
    return float(update.loss)


LAWS_OF_T = [
    ({"time_distribution": "uniform"}, (0.785398, 1.570796)),
    ({}, (0.811083, 1.741264)),
    ({"logit_mean": 0.8, "logit_std": 0.8}, (0.565191, 1.686377)),
]


@pytest.mark.parametrize(("options", "least"), LAWS_OF_T)
def test_the_least_loss_of_gaussian_data(options, least):
    """E s²/((1 - t)² s² + t²) over the law of t."""
    for s, expected in zip((0.5, 1.0), least, strict=True):
        assert loss_of(velocity(s), s, **options) == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize(("path", "turn"), [("trigonometric", math.pi / 2), ("linear", 1.0)])
def test_the_least_loss_of_another_path(path, turn):
    """(α σ' - α' σ)² E s²/(α² s² + σ²); of the circle with s = 1 that is (π/2)²."""
    scheduler = InterpolantScheduler(interpolant=path)
    expected = {"trigonometric": turn**2, "linear": 1.570796}[path]
    found = loss_of(velocity(1.0, path), 1.0, scheduler=scheduler, time_distribution="uniform")
    assert found == pytest.approx(expected, abs=2e-4)


def test_the_loss_of_a_network_that_says_0():
    """E x² + 1 of the velocity; of an image, E x² E 1/max(t, 0.05)²."""
    assert loss_of(lambda x_t, t: torch.zeros_like(x_t)) == pytest.approx(1 + S**2, abs=1e-6)
    scheduler, options = InterpolantScheduler(prediction_type="sample"), {"logit_mean": 0.8, "logit_std": 0.8}
    found = loss_of(lambda x_t, t: torch.zeros_like(x_t), scheduler=scheduler, **options)
    assert found == pytest.approx(S**2 * 2.963472, rel=2e-3)


# --- the samplers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solver", "scheduler", "spacing", "expected", "calls"),
    [
        ("euler", EULER, "scheduler", (0.423781, 0.485137, 0.492588), (10, 50, 100)),
        ("euler", EULER, "uniform", (0.430783, 0.485397, 0.492645), (10, 50, 100)),
        ("heun", HEUN, "scheduler", (0.502046, 0.500092, 0.500022), (19, 99, 199)),
        ("euler", InterpolantScheduler(), "scheduler", (0.430783, 0.485397, 0.492645), (10, 50, 100)),
    ],
)
def test_spread_and_network_calls_of_the_samplers(solver, scheduler, spacing, expected, calls):
    """Of N(0, 1) at t = 1 they make N(0, s²) but for the error of their steps."""
    for count, spread, evaluations in zip((10, 50, 100), expected, calls, strict=True):
        way, asked = drift()
        found = solve(solver, way, (ONE,), pairwise(times_of(scheduler, count, spacing)))
        assert float(found[0]) == pytest.approx(spread, abs=1e-6)
        assert len(asked) == evaluations


@pytest.mark.parametrize("path", PATHS)
def test_the_adaptive_solver_reaches_the_spread(path):
    way, asked = drift(path=path)
    end = Interpolant(path).end
    solved = adaptive(way, (ONE,), 1.0, end, 1e-6, [1.0])
    at, first = (Interpolant(path).scales(torch.tensor(t), ONE) for t in (end, 1.0))
    before = first.alpha**2 * S**2 + first.sigma**2
    expected = float(((at.alpha**2 * S**2 + at.sigma**2) / before).sqrt())
    assert float(solved.state[0]) == pytest.approx(expected, abs=1e-5)
    assert solved.evaluations == len(asked) < 100


def test_the_adaptive_solver_takes_each_image_by_itself():
    """An image's steps, and so its numbers, do not depend on what stands beside it."""
    x = torch.randn(3, 1, 2, 2, dtype=torch.float64) * torch.tensor([1.0, 30.0, 0.1]).view(-1, 1, 1, 1)

    def bent(state, t):
        return (torch.sin(state[0] * 7) + t.view(-1, 1, 1, 1),)

    together = adaptive(bent, (x,), 1.0, 0.0, 1e-4, [1.0])
    for row in range(3):
        alone = adaptive(bent, (x[row : row + 1],), 1.0, 0.0, 1e-4, [1.0])
        torch.testing.assert_close(alone.state[0], together.state[0][row : row + 1], atol=1e-12, rtol=0)


@pytest.mark.parametrize(("count", "expected"), [(50, (0.485099, 0.491725)), (250, (0.495610, 0.496926))])
def test_spread_of_the_stochastic_sampler(count, expected):
    """With w(t) = t to t = 0.04, then x̂; without noise it is Euler's method."""
    way = torch.linspace(1, 0.04, count + 1, dtype=torch.float64).tolist()
    for w, spread in zip((0.0, 1.0), expected, strict=True):
        x = torch.zeros(count + 2, 1, 1, 1, dtype=torch.float64)
        x[0] = 1
        draws = Impulses(count + 2)
        for start, end in pairwise(way):
            x = stochastic_step(velocity(), Interpolant(), x, start, end, draws, w)
        last = torch.tensor(way[-1])
        images = Interpolant().image(velocity()(x, last), x, last)
        assert float(images.square().sum().sqrt()) == pytest.approx(spread, abs=1e-6)


def test_one_step_after_reflow():
    """Of the pairs (s ε, ε) the velocity is constant along each path, and one step is exact."""

    def straight(state, t):
        return ((1 - S) * state[0] / ((1 - t) * S + t),)

    assert float(solve("euler", straight, (ONE,), [(1.0, 0.0)])[0]) == S


def test_times():
    """One more than steps, from 1 to 0, whatever their number; near 0 where equal in ln SNR."""
    for spacing in ("scheduler", "uniform", "log_snr"):
        for count in (1, 2, 7):
            times = times_of(EULER, count, spacing)
            assert (len(times), times[0], times[-1]) == (count + 1, 1.0, 0.0)
            assert times == sorted(times, reverse=True)
    inner = torch.tensor(times_of(EULER, 10, "log_snr")[1:-1], dtype=torch.float64)
    gaps = torch.log(inner / (1 - inner)).diff()
    torch.testing.assert_close(gaps, gaps[:1].expand(8))
    assert times_of(InterpolantScheduler(shift=3.0), 4) == pytest.approx([1, 0.9, 0.75, 0.5, 0])
    for count in (0, 2.5, True):
        with pytest.raises(UsageError, match="num_inference_steps"):
            times_of(EULER, count)


# --- the likelihood -------------------------------------------------------------------------------------------------

EXACT = {0.5: -0.725791, 0.05: 1.576794, 0.005: 3.879379}  # ln p(s) of N(0, s²)


def density(s, way, **options):
    return log_density(velocity(s), s * ONE, torch.ones(1, 1, 1, 1, 1), way, **options)


@pytest.mark.parametrize(
    ("s", "count", "expected"),
    [(0.5, 10, -0.725788), (0.05, 10, 1.607491), (0.05, 25, 1.577396), (0.005, 25, 3.609382), (0.005, 100, 3.906251)],
)
@pytest.mark.whole
def test_the_density_in_equal_steps(s, count, expected):
    """Which fail on tight data, where steps that are equal in ln SNR do not."""
    found = density(s, times_of(EULER, count, "uniform")[::-1], solver="rk4")
    assert float(found.nats) == pytest.approx(expected, abs=1e-6)
    assert found.evaluations == 4 * count
    by_snr = density(s, times_of(EULER, count, "log_snr")[::-1], solver="rk4")
    assert float(by_snr.nats) == pytest.approx(EXACT[s], abs=1e-2)


@pytest.mark.parametrize("s", EXACT)
def test_the_density_by_the_adaptive_solver(s):
    for tolerance in (1e-3, 1e-5):
        found = density(s, [0.0, 1.0], tolerance=tolerance)
        assert float(found.nats) == pytest.approx(EXACT[s], abs=5 * tolerance)
        assert 0 < float(found.solver_error) < 5 * tolerance


def test_the_density_along_a_circle_is_the_same():
    found = log_density(velocity(S, "trigonometric"), S * ONE, torch.ones(1, 1, 1, 1, 1), [0.0, 1.0], tolerance=1e-6)
    assert float(found.nats) == pytest.approx(EXACT[S], abs=1e-5)


def test_the_density_of_tight_data_on_the_variance_preserving_path():
    """It begins where σ is 0.001: where sampling ends, at 0.0105, the data's own 0.005 would not be seen."""
    path, v = Interpolant("variance_preserving"), velocity(0.005, "variance_preserving")
    sigmas = [float(path.scales(torch.tensor(t), ONE).sigma) for t in (path.end, path.least)]
    assert sigmas == pytest.approx([0.010486, 0.001000], abs=1e-6)
    probe = torch.ones(1, 1, 1, 1, 1)
    for way, options in (
        ([path.least, 1.0], {"tolerance": 1e-5}),
        (times_of(InterpolantScheduler(interpolant="variance_preserving"), 50, "log_snr")[::-1], {"solver": "rk4"}),
    ):
        found = log_density(v, 0.005 * ONE, probe, way, **options)
        assert float(found.nats) == pytest.approx(EXACT[0.005], abs=2e-3)


@pytest.mark.whole
def test_probes_and_their_error():
    """A velocity whose Jacobian is not diagonal: the mean of many probes nears the trace, as their error says."""
    mix = torch.tensor([[1.0, 0.6], [0.2, 0.5]], dtype=torch.float64)

    def linear(x, t):
        return (x.flatten(1) @ mix.T).view_as(x)

    x = torch.tensor([0.3, -0.4], dtype=torch.float64).view(1, 1, 1, 2)
    probes = torch.randint(2, (200, 1, 1, 1, 2)) * 2.0 - 1
    found = log_density(linear, x, probes, [0.0, 1.0], tolerance=1e-6)
    latents = torch.linalg.matrix_exp(mix) @ x.flatten()
    exact = 1.5 + float(-0.5 * latents.square().sum()) - math.log(2 * math.pi)
    torch.testing.assert_close(found.latents.flatten(), latents, atol=1e-5, rtol=0)
    assert 0.02 < float(found.probe_error) < 0.1
    assert abs(float(found.nats) - exact) < 4 * float(found.probe_error)


# --- the coupling ---------------------------------------------------------------------------------------------------


def test_transport_is_the_cheapest_pairing():
    images, noise = torch.randn(2, 5, 1, 2, 2)
    dealt = transported(images, noise)
    costs = [float((images - noise[list(order)]).square().sum()) for order in permutations(range(5))]
    assert float((images - dealt).square().sum()) == pytest.approx(min(costs), rel=1e-6)
    assert sorted(dealt.flatten().tolist()) == sorted(noise.flatten().tolist())


@pytest.mark.parametrize(("batch", "expected"), [(1, 1.99), (16, 0.274), (64, 0.080)])
@pytest.mark.whole
def test_the_cost_of_transport_on_a_line(batch, expected):
    """Mean |x - ε|² of N(0, 1) with N(0, 1), which falls with the batch."""
    rounds = 6400 // batch
    pairs = torch.randn(rounds, 2, batch, 1, 1, 1)
    cost = torch.stack([(x - transported(x, noise)).square().mean() for x, noise in pairs]).mean()
    assert float(cost) == pytest.approx(expected, rel=0.12)
