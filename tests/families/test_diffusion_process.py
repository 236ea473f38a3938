"""The forward process against constants and diffusers' own schedules, and the schedulers that are refused."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler, HeunDiscreteScheduler
from gaussian_diffusion import GaussianDenoiser, process_of
from rounding import gamma

from hfgen.errors import UsageError
from hfgen_diffusion import bound, sampling
from hfgen_diffusion.ddpm import DDPMPipeline
from hfgen_diffusion.process import END, ForwardProcess, betas_of, snr
from hfgen_diffusion.timesteps import check_timesteps, quadratic, steps, timesteps_of

PREDICTIONS = ["epsilon", "sample", "v_prediction"]


# --- constants ------------------------------------------------------------------------------------------------------


def test_linear_schedule():
    process = process_of(DDPMScheduler)
    alphas = process.alphas_cumprod
    assert alphas.dtype == torch.float64
    assert alphas.shape == (1001,)
    assert alphas[[0, 499, 999]].tolist() == pytest.approx([0.9999, 0.0785872429, 4.0358297654e-5], rel=1e-9)
    assert float(snr(alphas[0])) == pytest.approx(9999, abs=1e-6)  # 9997.3 of diffusers, in float32
    assert snr(alphas[[129, 130]]).tolist() == pytest.approx([5.0647, 4.9832], abs=1e-4)


def test_cosine_schedule():
    process = process_of(DDPMScheduler, beta_schedule="squaredcos_cap_v2")
    alphas = process.alphas_cumprod
    assert 1 - float(alphas[0]) == pytest.approx(4.12842e-5, abs=1e-10)
    assert float(alphas[499]) == pytest.approx(0.4938435, abs=1e-7)
    assert float(alphas[999]) == pytest.approx(2.43e-9, abs=5e-12)
    assert float(betas_of(DDPMScheduler(beta_schedule="squaredcos_cap_v2"))[-1]) == 0.999


def test_posterior_variances():
    process = process_of(DDPMScheduler)
    t = torch.tensor([0, 1, 487, 999])
    log_variance = bound.small_log_variance(process, t).flatten()
    assert log_variance[:2].tolist() == pytest.approx([-9.816725] * 2, abs=1e-6)  # that of 1 stands in for that of 0
    expected = [5.4531877e-5, 0.0097915720, 0.0199999835]
    assert log_variance[1:].exp().tolist() == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(("t", "p", "expected"), [(420, 400, 0.14771), (980, 960, 0.32460)])
def test_variance_of_ddim_at_eta_1(t, p, expected):
    process = process_of(DDIMScheduler)
    a_t, a_p = process.alpha_bar(t), process.alpha_bar(p)
    assert math.exp(sampling.log_variance_of("fixed_small", a_t, a_p, None)) == pytest.approx(expected, abs=1e-5)


# --- schedules ------------------------------------------------------------------------------------------------------

CONFIGS = [
    {"beta_schedule": "linear"},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 50},
    {"beta_schedule": "sigmoid"},
    {"beta_schedule": "laplace"},
    {"trained_betas": [0.1, 0.2, 0.4], "num_train_timesteps": 3},
    {"beta_schedule": "linear", "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
]


@pytest.mark.parametrize("config", CONFIGS)
def test_schedules_are_those_of_diffusers(config):
    scheduler = DDPMScheduler(**config)
    assert betas_of(scheduler).dtype == torch.float64
    # β = 1 - ᾱ_t / ᾱ_{t-1} of what is near 1, in float32
    torch.testing.assert_close(betas_of(scheduler).float(), scheduler.betas, rtol=1e-3, atol=gamma(16))
    alphas = ForwardProcess(scheduler).alphas_cumprod[:-1].float()
    torch.testing.assert_close(alphas, scheduler.alphas_cumprod, rtol=2e-4, atol=1e-7)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of NumPy, in diffusers
def test_a_schedule_that_only_another_scheduler_has():
    scheduler = HeunDiscreteScheduler(beta_schedule="exp")
    alphas = ForwardProcess(scheduler).alphas_cumprod[:-1].float()
    torch.testing.assert_close(alphas, scheduler.alphas_cumprod, rtol=2e-4, atol=1e-7)


def test_the_end_is_the_image():
    assert process_of(DDPMScheduler).alpha_bar(END) == 1
    assert process_of(DDIMScheduler).alpha_bar(END) == 1
    held = process_of(DDIMScheduler, set_alpha_to_one=False)
    assert held.alpha_bar(END) == held.alpha_bar(0) == pytest.approx(0.9999)


def test_an_end_that_ddpm_does_not_know_leaves_its_last_step_alone():
    """`from_config` keeps `set_alpha_to_one` of a DDIM's config in a DDPM's, whose `step` has no such thing."""
    scheduler = DDPMScheduler.from_config(DDIMScheduler(set_alpha_to_one=False).config)
    process = ForwardProcess(scheduler)
    x = torch.linspace(-0.9, 0.9, 12).view(1, 3, 2, 2)
    given = sampling.ancestral(lambda x, t: 0.3 * x, process, x, [(0, END)], None, "none", "fixed_small")
    torch.testing.assert_close(given, scheduler.step(0.3 * x, 0, x).prev_sample, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(given, (x - 0.01 * 0.3 * x) / 0.9999**0.5, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction"])
def test_noise_alone_at_the_last_level(prediction_type):
    process = process_of(DDIMScheduler, rescale_betas_zero_snr=True, prediction_type=prediction_type)
    assert process.alpha_bar(999) == pytest.approx(0, abs=1e-12)
    assert process.alpha_bar(0) == pytest.approx(process_of(DDIMScheduler).alpha_bar(0), abs=1e-12)
    x = torch.tensor([-2.0, 0.5, 1.0]).view(1, 1, 1, 3).double()
    way = list(steps(timesteps_of(DDIMScheduler(), 100, "trailing")))
    y = sampling.ddim(GaussianDenoiser(process), process, x, way, "none")
    assert y.isfinite().all()
    torch.testing.assert_close(y, 0.5 * x, rtol=0.04, atol=0)


# --- predictions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_the_target_says_what_the_image_and_the_noise_were(prediction_type):
    process = process_of(DDPMScheduler, prediction_type=prediction_type)
    generator = torch.Generator().manual_seed(0)
    t = torch.tensor([0, 10, 300, 600])
    x0 = (torch.rand(4, 3, 5, 5, generator=generator) * 2 - 1).double()
    epsilon = torch.randn(4, 3, 5, 5, generator=generator).double()
    x_t = process.add_noise(x0, epsilon, t)
    scheduler = DDPMScheduler()
    scheduler.alphas_cumprod = process.alphas_cumprod[:-1]
    torch.testing.assert_close(x_t, scheduler.add_noise(x0, epsilon, t))
    target = process.target(x0, epsilon, t)
    for clip in ("none", "x0", "x0_and_epsilon"):  # nothing is out of range
        found_x0, found_epsilon = process.predict(target, x_t, *process.scales(t), clip)
        torch.testing.assert_close(found_x0, x0, atol=1e-12, rtol=0)
        torch.testing.assert_close(found_epsilon, epsilon, atol=1e-12, rtol=0)


def test_the_target_of_v_is_that_of_diffusers():
    process = process_of(DDPMScheduler, prediction_type="v_prediction")
    t = torch.tensor([5, 700])
    x0, epsilon = torch.randn(2, 2, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scheduler = DDPMScheduler()
    scheduler.alphas_cumprod = process.alphas_cumprod[:-1]
    torch.testing.assert_close(process.target(x0, epsilon, t), scheduler.get_velocity(x0, epsilon, t))


def test_clip_modes():
    process = process_of(DDPMScheduler, clip_sample_range=0.5)
    x_t, output = torch.tensor([1.0, 0.2]), torch.tensor([0.25, 0.1])
    signal, noise = 0.8, 0.6
    bare = [(1.0 - 0.15) / 0.8, (0.2 - 0.06) / 0.8]
    x0, epsilon = process.predict(output, x_t, signal, noise, "none")
    assert x0.tolist() == pytest.approx(bare)
    assert epsilon.tolist() == pytest.approx([0.25, 0.1])
    x0, epsilon = process.predict(output, x_t, signal, noise, "x0")
    assert x0.tolist() == pytest.approx([0.5, bare[1]])
    assert epsilon.tolist() == pytest.approx([0.25, 0.1])
    x0, epsilon = process.predict(output, x_t, signal, noise, "x0_and_epsilon")
    assert x0.tolist() == pytest.approx([0.5, bare[1]])
    assert epsilon.tolist() == pytest.approx([(1 - 0.8 * 0.5) / 0.6, 0.1])


def test_thresholding_is_that_of_diffusers():
    scheduler = DDPMScheduler(thresholding=True, sample_max_value=2.0, dynamic_thresholding_ratio=0.9)
    process = ForwardProcess(scheduler)
    assert process.default_clip == "x0"
    x_t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 3
    x0, _ = process.predict(torch.zeros_like(x_t), x_t, 0.8, 0.6, "x0")
    torch.testing.assert_close(x0, scheduler._threshold_sample(x_t / 0.8))
    assert not torch.allclose(x0, (x_t / 0.8).clamp(-1, 1), atol=0.1)


def test_the_default_clip_is_the_schedulers():
    assert process_of(DDPMScheduler).default_clip == "x0"
    assert process_of(DDPMScheduler, clip_sample=False).default_clip == "none"


# --- levels ---------------------------------------------------------------------------------------------------------


def test_quadratic_timesteps():
    assert quadratic(1000, 10) == [800, 632, 483, 355, 246, 158, 88, 39, 9, 0]
    for count in (1, 2, 50, 100, 1000):
        found = quadratic(1000, count)
        assert check_timesteps(found, 1000) == found
        assert found[0] == 800
        assert found[-1] == 0 or count == 1


@pytest.mark.parametrize("scheduler", [DDPMScheduler(), DDIMScheduler()])
def test_listed_timesteps(scheduler):
    assert timesteps_of(scheduler, 10) == [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]
    assert timesteps_of(scheduler, 10, "trailing") == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]
    assert timesteps_of(scheduler, 10, "linspace") == [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]
    assert timesteps_of(scheduler, 10, "quadratic") == quadratic(1000, 10)
    assert timesteps_of(scheduler, 1000) == list(range(999, -1, -1))


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace", "quadratic"])
@pytest.mark.parametrize("count", [1, 2, 7, 13, 50, 999, 1000])
def test_every_step_falls_to_the_next_and_the_last_to_the_end(spacing, count):
    for scheduler in (DDPMScheduler(), DDIMScheduler(), DDIMScheduler(steps_offset=1)):
        if scheduler.config.steps_offset and count == 1000:
            continue  # which would begin at level 1000
        listed = timesteps_of(scheduler, count, spacing)
        way = list(steps(listed))
        assert len(way) == len(listed)
        assert all(0 <= t < 1000 and END <= p < t for t, p in way)
        assert way[-1][1] == END


def test_timesteps_that_are_refused():
    for count in (0, -1, 1001):
        with pytest.raises(UsageError, match="num_inference_steps"):
            timesteps_of(DDPMScheduler(), count)
    with pytest.raises(UsageError, match="Did you mean 'trailing'"):
        timesteps_of(DDPMScheduler(), 10, "trailin")
    for wrong in ([], [1, 2], [5, 5], [1000, 0], [3, -1]):
        with pytest.raises(UsageError, match="timesteps"):
            check_timesteps(wrong, 1000)
    assert timesteps_of(DDIMScheduler(steps_offset=1), 1000) == list(range(1000))[::-1]


# --- schedulers with a fault ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"variance_type": "learned"}, "Use learned_range"),
        ({"variance_type": "fixed_smal"}, "Did you mean 'fixed_small'"),
        ({"prediction_type": "eps"}, "prediction_type is 'eps'"),
        ({"rescale_betas_zero_snr": True}, "Use --scheduler.prediction_type v_prediction or sample"),
    ],
)
def test_refused(config, message):
    """Of which none is an error of diffusers before it samples."""
    with pytest.raises(UsageError, match=message):
        ForwardProcess(DDPMScheduler(**config))


def test_diffusers_takes_an_unknown_variance_type_for_fixed_small():
    output, x = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    given = [
        DDPMScheduler(variance_type=name).step(output, 500, x, torch.Generator().manual_seed(0)).prev_sample
        for name in ("fixed_small", "fixed_smal")
    ]
    assert torch.equal(*given)


def test_a_scheduler_without_noise_levels_is_refused():
    with pytest.raises(UsageError, match="noise levels"):
        ForwardProcess(FlowMatchEulerDiscreteScheduler())


def tiny(scheduler, **options):
    """A pipeline of 8 levels whose network is untrained, with another scheduler's config put in."""
    unet = {"unet.block_out_channels": [8, 8], "unet.layers_per_block": 1, "scheduler.num_train_timesteps": 8}
    torch.manual_seed(0)
    pipeline = DDPMPipeline.build(8, 1, **unet)
    beta = {"num_train_timesteps": 8, "beta_start": 0.01, "beta_end": 0.5}
    return DDPMPipeline(pipeline.unet.eval(), scheduler(**beta, **options))


@pytest.mark.whole
def test_fixed_large_log_is_nan_in_diffusers_and_fixed_large_here():
    x, generator = torch.ones(1, 1, 2, 2), torch.Generator().manual_seed(0)
    scheduler = DDPMScheduler(variance_type="fixed_large_log")
    assert scheduler.step(torch.zeros_like(x), 500, x, generator).prev_sample.isnan().all()
    with pytest.warns(UserWarning, match="fixed_large_log is NaN"):
        images = tiny(DDPMScheduler, variance_type="fixed_large_log")(seeds=[0, 1], output_type="pt").images
    expected = tiny(DDPMScheduler, variance_type="fixed_large")(seeds=[0, 1], output_type="pt").images
    other = tiny(DDPMScheduler, variance_type="fixed_small")(seeds=[0, 1], output_type="pt").images
    assert torch.equal(images, expected)
    assert not torch.equal(images, other)


def test_learned_variances_are_nan_in_diffusers_where_they_are_negative():
    x = torch.ones(1, 1, 2, 2)
    output = torch.full((1, 2, 2, 2), -0.5)
    given = DDPMScheduler(variance_type="learned").step(output, 500, x, torch.Generator().manual_seed(0))
    assert given.prev_sample.isnan().all()


def test_noise_alone_and_epsilon_is_not_finite_in_diffusers():
    scheduler = DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False)
    scheduler.set_timesteps(10)
    x = torch.ones(1, 1, 2, 2)
    assert not scheduler.step(0.5 * x, 999, x).prev_sample.isfinite().any()


def linear_pipeline(scheduler):
    """A pipeline whose network says x / 2."""
    pipeline = tiny(DDPMScheduler)
    pipeline.scheduler = scheduler
    pipeline.denoiser = lambda class_labels, guidance_scale=1.0: lambda x, t: 0.5 * x
    return pipeline


def plainly(scheduler, count, x):
    """By diffusers' own steps."""
    scheduler.set_timesteps(count)
    for t in scheduler.timesteps:
        x = scheduler.step(0.5 * x, t, x).prev_sample
    return x


@pytest.mark.parametrize(
    ("spacing", "count", "message"),
    [
        ("linspace", 10, "from 999 to 899, while the next listed step is 888"),
        ("trailing", 13, "while the next listed step is"),
    ],
)
def test_ddim_steps_to_the_next_listed_level_and_says_so(spacing, count, message):
    scheduler = DDIMScheduler(timestep_spacing=spacing, clip_sample=False)
    first = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    with pytest.warns(UserWarning, match="diffusers' DDIMScheduler would step") as caught:
        images = linear_pipeline(scheduler)(seeds=[3], num_inference_steps=count, output_type="pt").images
    assert any(message in str(warning.message) for warning in caught)
    scheduler.set_timesteps(count)
    x = first
    for t, p in steps(scheduler.timesteps.tolist()):
        a_t, a_p = (float(scheduler.alphas_cumprod[i]) if i >= 0 else 1.0 for i in (t, p))
        x0 = (x - (1 - a_t) ** 0.5 * 0.5 * x) / a_t**0.5
        x = a_p**0.5 * x0 + (1 - a_p) ** 0.5 * 0.5 * x
    torch.testing.assert_close(images, (x / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(x, plainly(scheduler, count, first), rtol=1e-2)


@pytest.mark.parametrize(("spacing", "count"), [("leading", 10), ("leading", 13), ("trailing", 10), ("trailing", 1)])
def test_nothing_is_said_where_diffusers_steps_rightly(spacing, count):
    scheduler = DDIMScheduler(timestep_spacing=spacing, clip_sample=False)
    images = linear_pipeline(scheduler)(seeds=[3], num_inference_steps=count, output_type="pt").images
    x = plainly(scheduler, count, torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(3)))
    torch.testing.assert_close(images, (x / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=1e-4)


def test_no_noise_after_the_last_step_of_ddpm():
    scheduler = DDPMScheduler(variance_type="fixed_large", timestep_spacing="trailing")
    with pytest.warns(UserWarning, match="would add noise after its last step, from 99"):
        linear_pipeline(scheduler)(seeds=[3], num_inference_steps=10, output_type="pt")
    scheduler.set_timesteps(10)
    x = torch.ones(1, 1, 2, 2)
    generator = torch.Generator().manual_seed(0)
    assert not torch.equal(*(scheduler.step(x, 99, x, generator).prev_sample for _ in range(2)))
    ours = sampling.ancestral(lambda x, t: x, ForwardProcess(scheduler), x, [(99, END)], None, "none", "fixed_large")
    assert torch.equal(*ours.unique().expand(2, -1))
