"""What a flow's pipeline is told and refuses: guidance on an interval, solvers, seeds, options."""

import pytest
import torch
from tiny_diffusion import images, tiny

from hfgen import SeededNoise
from hfgen.errors import UsageError
from hfgen_diffusion.flow_matching import FlowMatchingPipeline
from hfgen_diffusion.flow_objective import FlowMatchingObjective

SMALL = {"unet.block_out_channels": [8, 8], "unet.layers_per_block": 1, "scheduler.num_train_timesteps": 1000}


def flow(num_classes=None, **options):
    return tiny(num_classes, FlowMatchingPipeline, **{**SMALL, **options})


def test_guidance_acts_on_its_interval():
    pipeline, x = flow(2), torch.randn(2, 1, 8, 8)
    labels = torch.tensor([0, 1])
    with torch.no_grad():
        for time in (torch.tensor(0.3), torch.tensor([0.3, 0.9])):
            conditional = pipeline.velocity(labels)(x, time)
            without = pipeline.velocity(torch.tensor([2, 2]))(x, time)
            guided = pipeline.velocity(labels, 3.0, (0.1, 0.5))(x, time)
            expected = without + 3 * (conditional - without)
            if time.ndim:
                expected[1] = conditional[1]
            torch.testing.assert_close(guided, expected, atol=1e-5, rtol=1e-4)
        outside = pipeline.velocity(labels, 3.0, (0.1, 0.5))(x, torch.tensor(0.6))
        torch.testing.assert_close(outside, pipeline.velocity(labels)(x, torch.tensor(0.6)))


@pytest.mark.parametrize("solver", ["euler", "heun", "rk4", "stochastic"])
def test_a_number_of_steps_is_a_number_of_calls(solver):
    pipeline, calls = flow(), []
    pipeline.unet.register_forward_hook(lambda *_: calls.append(1))
    pipeline(seeds=[1], solver=solver, num_inference_steps=3)
    assert len(calls) == {"euler": 3, "heun": 5, "rk4": 12, "stochastic": 4}[solver]


@pytest.mark.parametrize(
    "options",
    [
        {"solver": "stochastic", "num_inference_steps": 5},
        {"solver": "stochastic", "num_inference_steps": 5, "stochasticity": 0.3, "timestep_spacing": "log_snr"},
        {"solver": "adaptive", "tolerance": 0.05},
    ],
)
@pytest.mark.whole
def test_an_image_depends_on_its_seed_alone(options):
    """That of a seed also has the noise of its own of the steps."""
    pipeline = flow()

    def drawn(*seeds):
        return pipeline(seeds=list(seeds), output_type="pt", **options).images

    three = drawn(5, 6, 7)
    torch.testing.assert_close(three[1:2], drawn(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(three[:2], drawn(5, 6, 8)[:2], atol=1e-4, rtol=0)
    assert not torch.allclose(three[0], three[1], atol=0.05)


@pytest.mark.whole
def test_the_noise_of_the_steps_is_drawn_anew():
    """Without it the stochastic solver is another map of the same start."""
    pipeline = flow()
    images = [pipeline(seeds=[3], output_type="pt", solver="stochastic", stochasticity=w).images for w in (0.0, 1.0)]
    assert not torch.allclose(*images, atol=0.02)


@pytest.mark.parametrize("options", [{}, {"scheduler.interpolant": "variance_preserving"}])
@pytest.mark.whole
def test_the_way_up_and_down(options):
    """In small steps it leads back to the image."""
    pipeline = flow(**options)
    for weight in pipeline.unet.parameters():
        weight.data *= 0.5  # a smooth flow
    x = images(1)
    with torch.no_grad():
        latents = pipeline.encode(x, solver="rk4", num_inference_steps=12)
        again = pipeline.decode(latents, solver="rk4", num_inference_steps=12)
    assert (latents - x).abs().max() > 0.05
    assert (again - x).abs().max() < (2e-3 if not options else 0.2)


def test_a_latent_walk():
    frames = list(flow().interpolate([1, 2], 3, num_inference_steps=2))
    assert [frame.size for frame in frames] == [(8, 8)] * 3


@pytest.mark.whole
def test_the_likelihood_names_its_errors():
    found = flow().log_likelihood(images(2), tolerance=0.05)
    assert found.kind == "estimate"
    assert "adaptive solver" in found.method
    assert "2 probes, their standard error" in found.method
    assert "network calls" in found.method
    fixed = flow().log_likelihood(images(2), solver="euler", num_ode_steps=2, num_probes=1)
    assert "euler solver, 2 network calls; 1 probe;" in fixed.method


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "dopri"}, "solver is 'dopri'"),
        ({"solver": "adaptive", "num_inference_steps": 5}, "The adaptive solver chooses its steps"),
        ({"tolerance": 0.1}, "tolerance is for"),
        ({"solver": "adaptive", "tolerance": 0.0}, "tolerance is 0.0"),
        ({"stochasticity": 1.0}, "stochasticity is for"),
        ({"solver": "stochastic", "stochasticity": -1.0}, "stochasticity is -1.0"),
        ({"timestep_spacing": "trailing"}, "timestep_spacing is 'trailing'"),
        ({"guidance_scale": 2.0}, "guidance_scale needs a class-conditional"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"guidance_interval": (0.9, 0.1)}, "guidance_interval is"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
    ],
)
def test_calls_that_are_refused(options, message):
    pipeline = flow()
    pipeline.unet.register_forward_hook(lambda *_: pytest.fail("the network was called"))
    with pytest.raises(UsageError, match=message):
        pipeline(seeds=[0], **options)


def test_other_calls_that_are_refused():
    pipeline, x = flow(), images(1)
    with pytest.raises(UsageError, match="draws noise"):
        pipeline.encode(x, solver="stochastic")
    with pytest.raises(UsageError, match="draws noise"):
        pipeline.decode(x, solver="stochastic")
    with pytest.raises(UsageError, match="num_probes is 0"):
        pipeline.log_likelihood(x, num_probes=0)
    with pytest.raises(UsageError, match="values in between"):
        pipeline.log_likelihood(x * 0.999)
    with pytest.raises(UsageError, match="half|float32"):
        pipeline.to(torch.bfloat16).log_likelihood(x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unet.out_channels": 2}, "--unet.out_channels is 2"),
        ({"scheduler.shift": 0.0}, "--scheduler.shift is 0.0"),
        ({"scheduler.interpolant": "circle"}, "interpolant"),
        ({"scheduler.prediction_type": "epsilon"}, "prediction_type"),
    ],
)
def test_models_that_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        flow(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_distribution": "normal"}, "--objective.time_distribution"),
        ({"coupling": "ot"}, "--objective.coupling"),
        ({"logit_std": 0.0}, "--objective.logit_std"),
        ({"logit_mean": float("inf")}, "--objective.logit_mean"),
        ({"conditioning_dropout_prob": 1.0}, "conditioning_dropout_prob"),
    ],
)
def test_objectives_that_are_refused(options, message):
    pipeline = flow()
    with pytest.raises(UsageError, match=message):
        FlowMatchingObjective(pipeline.unet, pipeline.scheduler, **options)


@pytest.mark.parametrize("options", [{}, {"scheduler.interpolant": "trigonometric"}])
def test_the_diagnosis_is_the_loss_by_time(options):
    """Of a network that says 0: E (α' x + σ' ε)² at each time."""
    pipeline, x = flow(**options), images(4)
    for weight in pipeline.unet.conv_out.parameters():
        weight.data.zero_()
    values = FlowMatchingObjective.diagnose(pipeline, {"pixel_values": x}).values
    epsilon = SeededNoise.from_seeds(range(4)).normal(1, 8, 8)
    assert values["images"] == 4
    for percent in (10, 50, 90):
        expected = pipeline.interpolant.velocity(x, epsilon, torch.tensor(percent / 100)).square().mean()
        assert values[f"velocity_loss_t{percent}"] == pytest.approx(float(expected), rel=1e-5)
