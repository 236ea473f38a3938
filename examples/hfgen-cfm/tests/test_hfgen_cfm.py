"""CFM: the laws of every family, and flows whose paths and densities are known."""

import itertools

import pytest
import torch
from hfgen_cfm import CFMObjective, CFMPipeline, ODEScheduler

from hfgen import SeededNoise, UsageError
from hfgen.testing import FamilyTests

TINY = {"network.channels": 4, "network.dilations": [1, 2], "scheduler.num_inference_steps": 3}
MEAN, SCALE = 0.3, 0.5  # of the data in the closed forms


class TestCFM(FamilyTests):
    family = "cfm"
    overrides = TINY


class TestCFMWithClasses(FamilyTests):
    family = "cfm"
    overrides = {**TINY, "scheduler.solver": "euler"}
    num_classes = 3
    in_processes = False  # the other configuration starts the processes


def of_a_gaussian(x, t):
    """The velocity whose flow takes N(0, 1) to N(MEAN, SCALE^2): x_0 goes to MEAN + SCALE x_0."""
    t = t[:, None, None, None]
    variance = (1 - t) ** 2 + (t * SCALE) ** 2
    return MEAN + (t * SCALE**2 - (1 - t)) / variance * (x - t * MEAN)


def latents(count=4):
    return SeededNoise.from_seeds(range(count)).normal(1, 2, 2).double()


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_error_falls_with_the_solvers_order(solver, order, reverse):
    z = latents()
    start, end = (MEAN + SCALE * z, z) if reverse else (z, MEAN + SCALE * z)
    errors = []
    for steps in (50, 100):
        scheduler = ODEScheduler(solver=solver, num_inference_steps=steps)
        errors.append((scheduler.solve(of_a_gaussian, start, reverse) - end).abs().max().item())
    assert errors[1] < 0.05
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.1)


def test_the_density_of_a_gaussian():
    """The velocity acts on each pixel alone, so that Hutchinson's trace is exact for any signs."""
    pipeline = CFMPipeline.build(2, 1, **{**TINY, "scheduler.num_inference_steps": 200})
    x = MEAN + SCALE * latents()
    found = pipeline.log_density(of_a_gaussian, x, torch.ones_like(x))
    expected = torch.distributions.Normal(MEAN, SCALE).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_hutchinsons_trace_is_right_in_the_mean():
    """The mean of e^T A e over all 16 sign vectors of four pixels is tr A, the divergence of v = A x at all times."""
    pipeline = CFMPipeline.build(2, 1, **TINY)
    matrix = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).double() / 4
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4))).double().view(16, 1, 2, 2)

    def linear(x, t):
        return (x.flatten(1) @ matrix.T).view_as(x)

    x = latents(1).expand(16, -1, -1, -1)
    found = pipeline.log_density(linear, x, signs)
    start = pipeline.scheduler.solve(linear, x, reverse=True)
    torch.testing.assert_close(found.mean(), pipeline.scheduler.log_prob(start)[0] - matrix.trace())
    assert found.std() > 0.01


def test_a_likelihood_is_of_bytes():
    """A velocity of zero is N(0, 1) at all times: ln p of a byte is near that of its middle, times 1/128."""
    pipeline = CFMPipeline.build(2, 1, **TINY)
    for parameter in pipeline.network.parameters():
        torch.nn.init.zeros_(parameter)
    levels = torch.tensor([0, 100, 200, 255]).view(1, 1, 2, 2)
    found = pipeline.log_likelihood(levels / 127.5 - 1)
    middle = torch.distributions.Normal(0, 1).log_prob((levels + 0.5) / 128 - 1) - torch.tensor(128.0).log()
    assert found.nats.item() == pytest.approx(middle.sum().item(), abs=0.02)
    assert (found.kind, found.num_values) == ("estimate", 256)
    with pytest.raises(UsageError, match="in between"):
        pipeline.log_likelihood((levels / 127.5 - 1) * 0.999)


def test_images_come_back():
    pipeline = CFMPipeline.build(8, 1, **TINY)
    images = torch.rand(2, 1, 8, 8) * 2 - 1
    torch.testing.assert_close(pipeline.reconstruct(images, num_inference_steps=100), images, atol=1e-3, rtol=0)


def test_shifted_times():
    """Half way, noise of 1/2 becomes 3/2 / (1 + 2/2) = 3/4."""
    assert ODEScheduler(num_inference_steps=2, shift=3.0).timesteps.tolist() == pytest.approx([0, 0.25, 1])


@pytest.mark.parametrize("options", [{"shift": 0.0}, {"num_inference_steps": 0}, {"solver": "rk4"}])
def test_wrong_schedules_are_refused(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        ODEScheduler(**options)


def test_the_loss_is_of_the_straight_line():
    """A velocity of zero misses all of x_1 - x_0."""
    pipeline = CFMPipeline.build(4, 1, **TINY)
    torch.nn.init.zeros_(pipeline.network.conv_out.weight)
    torch.nn.init.zeros_(pipeline.network.conv_out.bias)
    objective, images = CFMObjective(pipeline.network, pipeline.scheduler), torch.rand(3, 1, 4, 4)
    objective.noise = SeededNoise.from_seeds([0, 1, 2])
    (update,) = objective.training_step({"pixel_values": images})
    torch.testing.assert_close(
        update.loss, (images - SeededNoise.from_seeds([0, 1, 2]).normal(1, 4, 4)).square().mean()
    )


def test_guidance_goes_past_the_velocity_without_label():
    pipeline = CFMPipeline.build(4, 1, num_classes=2, **TINY)
    x, t, labels = torch.rand(2, 1, 4, 4), torch.rand(2), torch.tensor([0, 1])
    with torch.no_grad():
        none, one, three = (pipeline.velocity(labels, scale)(x, t) for scale in (0.0, 1.0, 3.0))
        torch.testing.assert_close(none, pipeline.network(x, t, torch.tensor([-1, -1])))
    assert (one - none).abs().max() > 0
    torch.testing.assert_close(three, none + 3 * (one - none))
    with pytest.raises(UsageError, match="class-conditional"):
        CFMPipeline.build(4, 1, **TINY)(seeds=[0], guidance_scale=2.0)
