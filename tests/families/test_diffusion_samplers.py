"""Samplers against diffusers step by step, and on Gaussian data against closed forms.

On Gaussian data every sampler is linear: the standard deviation of its images is exact, from its answer to impulses.
"""

import math
from itertools import pairwise

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from gaussian_diffusion import GaussianDenoiser, S, process_of, spread, uniform_in_log_snr
from rounding import images_apart

from hfgen.errors import UsageError
from hfgen.noise import SeededNoise
from hfgen_diffusion import sampling, solvers
from hfgen_diffusion.ddpm import DDPMPipeline
from hfgen_diffusion.process import END, ForwardProcess
from hfgen_diffusion.timesteps import steps, timesteps_of

pytestmark = pytest.mark.whole  # a thousand small chains

PREDICTIONS = ["epsilon", "sample", "v_prediction"]
SPACINGS = [("leading", 10), ("leading", 1000), ("trailing", 13), ("linspace", 7)]


class OneGenerator:
    """Noise as diffusers draws it for a whole batch."""

    def __init__(self, count, seed=0, dtype=torch.float32):
        self.count, self.dtype, self.generator = count, dtype, torch.Generator().manual_seed(seed)

    def __len__(self):
        return self.count

    def normal(self, *shape):
        return torch.randn(self.count, *shape, generator=self.generator, dtype=self.dtype)


# --- diffusers' own numbers -----------------------------------------------------------------------------------------


def deterministic_sample():
    """Of diffusers' scheduler tests, (4, 3, 8, 8)."""
    return (torch.arange(768).reshape(3, 8, 8, 4) / 768).permute(3, 0, 1, 2)


def deterministic_model(x, t):
    return x * t / (t + 1)


@pytest.mark.parametrize(
    ("config", "total", "mean"),
    [
        ({}, 172.0067, 0.223967),
        ({"prediction_type": "v_prediction"}, 52.5302, 0.068399),
        ({"beta_start": 0.01, "set_alpha_to_one": True}, 149.8295, 149.8295 / 768),
        ({"beta_start": 0.01, "set_alpha_to_one": False}, 149.0784, 149.0784 / 768),
    ],
)
def test_goldens_of_ddim(config, total, mean):
    scheduler = DDIMScheduler(**config)
    process = ForwardProcess(scheduler)
    way = steps(timesteps_of(scheduler, 10))
    x = sampling.ddim(deterministic_model, process, deterministic_sample(), way, process.default_clip)
    assert float(x.abs().sum()) == pytest.approx(total, abs=2e-3)
    assert float(x.abs().mean()) == pytest.approx(mean, abs=5e-6)


@pytest.mark.parametrize(
    ("config", "total", "mean"), [({}, 258.961, 0.337189), ({"prediction_type": "v_prediction"}, 202.030, 0.263060)]
)
def test_goldens_of_ddpm(config, total, mean):
    scheduler = DDPMScheduler(**config)
    process = ForwardProcess(scheduler)
    way, clip = steps(timesteps_of(scheduler, 1000)), process.default_clip
    x = sampling.ancestral(
        deterministic_model, process, deterministic_sample(), way, OneGenerator(4), clip, process.variance_type
    )
    assert float(x.abs().sum()) == pytest.approx(total, abs=1e-2)
    assert float(x.abs().mean()) == pytest.approx(mean, abs=1e-5)


# --- diffusers, step by step ----------------------------------------------------------------------------------------


def random_pair(channels, dtype=torch.float64):
    """x and a network's output."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 4, 4, generator=generator)
    return x.to(dtype), (torch.randn(2, channels, 4, 4, generator=generator).clamp(-2, 2) / 2).to(dtype)


def in_double(scheduler, process):
    """diffusers' formulas without the rounding of its β, which is 5e-4 of a step at t = 1."""
    scheduler.alphas_cumprod = process.alphas_cumprod[:-1]
    if isinstance(scheduler, DDIMScheduler):
        scheduler.final_alpha_cumprod = process.alphas_cumprod[-1]
    else:
        scheduler.one = process.alphas_cumprod[-1]
    return scheduler


def assert_equal_steps(given, expected, tolerance):
    """Of the largest value: unclipped x̂_0 at t = 999 is 157 times the error of the noise."""
    torch.testing.assert_close(given, expected, atol=tolerance * max(1.0, float(expected.abs().max())), rtol=0)


def mostly_double(*cases):  # with a type and the largest difference
    return [*[(*case, torch.float64, 1e-11) for case in cases], (*cases[0], torch.float32, 3e-4)]


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_small_log", "fixed_large", "learned_range"])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize(("spacing", "count", "dtype", "tolerance"), mostly_double(*SPACINGS))
def test_ancestral_steps_are_those_of_diffusers(
    prediction_type, variance_type, clip, spacing, count, dtype, tolerance
):
    scheduler = DDPMScheduler(
        prediction_type=prediction_type, variance_type=variance_type, clip_sample=clip, timestep_spacing=spacing
    )
    process = ForwardProcess(scheduler)
    if dtype == torch.float64:
        in_double(scheduler, process)
    x, output = random_pair(6 if variance_type == "learned_range" else 3, dtype)
    scheduler.set_timesteps(count)
    way = list(steps(timesteps_of(scheduler, count)))
    for t, p in way[:: max(1, count // 3)] + way[-2:]:
        if p == END and t > 0:
            continue  # where diffusers adds noise after the last step: see test_diffusion_process.py
        generator = torch.Generator().manual_seed(t)
        expected = scheduler.step(output, t, x, generator).prev_sample
        noise = OneGenerator(2, t, dtype)
        given = sampling.ancestral(
            lambda x, t: output, process, x, [(t, p)], noise, process.default_clip, process.variance_type
        )
        assert_equal_steps(given, expected, tolerance)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("clip", ["none", "x0", "x0_and_epsilon"])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    ("spacing", "count", "to_one", "dtype", "tolerance"),
    mostly_double(("leading", 10, True), ("leading", 13, False), ("trailing", 10, True), ("trailing", 50, False)),
)
def test_ddim_steps_are_those_of_diffusers(prediction_type, clip, eta, spacing, count, to_one, dtype, tolerance):
    scheduler = DDIMScheduler(
        prediction_type=prediction_type, clip_sample=clip != "none", timestep_spacing=spacing, set_alpha_to_one=to_one
    )
    process = ForwardProcess(scheduler)
    if dtype == torch.float64:
        in_double(scheduler, process)
    x, output = random_pair(3, dtype)
    scheduler.set_timesteps(count)
    for t, p in steps(timesteps_of(scheduler, count)):
        if p == END and eta and not to_one:
            continue  # diffusers adds noise on the way to ᾱ_0, after which nothing takes it away
        again = clip == "x0_and_epsilon"
        generator = torch.Generator().manual_seed(t)
        expected = scheduler.step(output, t, x, eta, again, generator).prev_sample
        noise = OneGenerator(2, t, dtype)
        given = sampling.ddim(lambda x, t: output, process, x, [(t, p)], clip, eta, noise)
        assert_equal_steps(given, expected, tolerance)


def test_eta_1_in_all_steps_is_fixed_small():
    """The same map of x and of the noise: of the same noise, the same images."""
    process = process_of(DDIMScheduler)
    x, output = random_pair(3)
    way = list(steps(range(999, -1, -1)))
    for step in way[::37]:
        ddim = sampling.ddim(lambda x, t: output, process, x, [step], "none", 1.0, OneGenerator(2))
        ancestral = sampling.ancestral(lambda x, t: output, process, x, [step], OneGenerator(2), "none", "fixed_small")
        torch.testing.assert_close(ddim, ancestral, atol=1e-9, rtol=1e-9)


# --- Gaussian data --------------------------------------------------------------------------------------------------


def spread_of(sampler, spacing, count):
    """Of `"ddim"`, `"eta 1"`, `"fixed_small"` or `"fixed_large"` on Gaussian data."""
    process = process_of(DDIMScheduler)
    listed = timesteps_of(DDIMScheduler(), count, spacing)
    denoise = GaussianDenoiser(process)

    def draw(x, noise):
        way = steps(listed)
        if sampler.startswith("fixed"):
            return sampling.ancestral(denoise, process, x, way, noise, "none", sampler)
        return sampling.ddim(denoise, process, x, way, "none", 1.0 if sampler == "eta 1" else 0.0, noise)

    return spread(draw, 0 if sampler == "ddim" else len(listed) - 1)


SPREADS = [
    *[("ddim", "leading", *row) for row in [(5, 0.269333), (10, 0.374128), (50, 0.472439)]],
    *[("ddim", "leading", *row) for row in [(100, 0.485981), (1000, 0.498495)]],
    *[("ddim", "trailing", *row) for row in [(5, 0.262543), (10, 0.369955), (13, 0.397521), (50, 0.471403)]],
    *[("ddim", "trailing", *row) for row in [(100, 0.485447), (1000, 0.498495)]],
    *[("ddim", "linspace", *row) for row in [(5, 0.225045), (10, 0.361612), (50, 0.471915)]],
    *[("ddim", "linspace", *row) for row in [(100, 0.485848), (1000, 0.498495)]],
    *[("ddim", "quadratic", *row) for row in [(5, 0.346563), (10, 0.424521), (50, 0.485274), (100, 0.492696)]],
    *[("eta 1", "leading", *row) for row in [(10, 0.333263), (1000, 0.496110)]],
    *[("eta 1", "trailing", *row) for row in [(10, 0.333475), (1000, 0.496110)]],
    ("eta 1", "linspace", 10, 0.322835),
    *[("fixed_small", "leading", *row) for row in [(10, 0.333263), (1000, 0.496110)]],
    *[("fixed_small", "trailing", *row) for row in [(10, 0.333475), (1000, 0.496110)]],
    ("fixed_small", "linspace", 10, 0.322835),
    *[("fixed_large", "leading", *row) for row in [(10, 0.589025), (1000, 0.500752)]],
    *[("fixed_large", "trailing", *row) for row in [(10, 0.493901), (1000, 0.500752)]],
    ("fixed_large", "linspace", 10, 0.598766),
]


@pytest.mark.parametrize(("sampler", "spacing", "count", "expected"), SPREADS)
def test_spread(sampler, spacing, count, expected):
    assert spread_of(sampler, spacing, count) == pytest.approx(expected, abs=1e-6)


def plain_spread(scheduler, count):
    """By diffusers' own steps, of the same denoiser, from many pixels of variance 1."""
    denoise = GaussianDenoiser(process_of(DDIMScheduler))
    scheduler.set_timesteps(count)
    x = standard_normal(2**16)
    generator = torch.Generator().manual_seed(0)
    for t in scheduler.timesteps:
        x = scheduler.step(denoise(x, t), t, x, generator=generator).prev_sample
    return float(x.std())


@pytest.mark.parametrize(
    ("scheduler", "count", "expected", "tolerance"),
    [
        (DDIMScheduler(timestep_spacing="linspace", clip_sample=False), 10, 0.418918, 5e-6),
        (DDIMScheduler(timestep_spacing="linspace", clip_sample=False), 50, 0.479260, 5e-6),
        (DDIMScheduler(timestep_spacing="trailing", clip_sample=False), 13, 0.406355, 5e-6),
        (DDPMScheduler(variance_type="fixed_large", timestep_spacing="trailing", clip_sample=False), 10, 0.590, 5e-3),
    ],
)
def test_what_diffusers_makes_of_the_settings_that_are_warned_of(scheduler, count, expected, tolerance):
    assert plain_spread(scheduler, count) == pytest.approx(expected, abs=tolerance)


def standard_normal(count):
    """Pixels of one image, of mean 0 and variance 1 exactly, (1, 1, 1, count), float64."""
    x = torch.randn(1, 1, 1, count, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x -= x.mean()
    return x / x.square().mean().sqrt()


# --- the ODE, and the way up ----------------------------------------------------------------------------------------

GAINS = [(10, 0.559999), (20, 0.752743), (50, 0.893112), (100, 0.945052), (200, 0.972125), (1000, 0.994358)]


@pytest.mark.parametrize(("count", "expected"), GAINS)
def test_inversion_and_back(count, expected):
    process = process_of(DDIMScheduler)
    denoise, listed = GaussianDenoiser(process), timesteps_of(DDIMScheduler(), count)
    x = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    latents = sampling.invert_ddim(denoise, process, x, pairwise(listed[::-1]))
    back = sampling.ddim(denoise, process, latents, pairwise(listed), "none")
    assert float(back) == pytest.approx(expected, abs=1e-6)


def test_the_error_of_encode_and_decode_falls_with_the_steps():
    """As table 2 of the paper; from the image itself, and back to it."""
    process = process_of(DDIMScheduler)
    denoise = GaussianDenoiser(process)
    x, errors = torch.ones(1, 1, 1, 1, dtype=torch.float64), []
    for count in (10, 20, 50, 100, 200):
        listed = timesteps_of(DDIMScheduler(), count)
        latents = sampling.invert_ddim(denoise, process, x, pairwise([END, *listed[::-1]]))
        back = sampling.ddim(denoise, process, latents, steps(listed), "none")
        errors.append(abs(float(back) - 1))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.05 < 0.4 < errors[0]


def test_inversion_is_the_inverse_of_a_network_that_ignores_x():
    """ε̂ of the level that is left and of the one that is entered are then the same, and the maps exact inverses."""
    process = process_of(DDIMScheduler)
    x, output = random_pair(3)
    listed = timesteps_of(DDIMScheduler(), 20)
    latents = sampling.invert_ddim(lambda x, t: output, process, x, pairwise([END, *listed[::-1]]))
    assert latents.std() > 0.3
    back = sampling.ddim(lambda x, t: output, process, latents, steps(listed), "none")
    torch.testing.assert_close(back, x, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_ddim_converges_to_the_ode(prediction_type):
    """dy/dσ = ε̂ with y = x / √ᾱ has y ~ √(s² + σ²) here, and its Euler steps an error that halves with their size."""
    errors = []
    for count in (125, 250, 500, 2000):
        scheduler = uniform_in_log_snr(DDIMScheduler, count, prediction_type=prediction_type)
        process = ForwardProcess(scheduler)
        x = torch.ones(1, 1, 1, 1, dtype=torch.float64)
        y = sampling.ddim(GaussianDenoiser(process), process, x, pairwise(range(count - 1, -1, -1)), "none")
        first, last = process.alpha_bar(count - 1), process.alpha_bar(0)
        exact = math.sqrt((last * S**2 + 1 - last) / (first * S**2 + 1 - first))
        errors.append(abs(float(y) / exact - 1))
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.1)
    assert errors[2] / errors[3] == pytest.approx(4, abs=0.1)
    assert errors[3] < 4e-3


# --- diffusers' other solvers ---------------------------------------------------------------------------------------


def solver(name, **config):
    """With β said: `from_config` leaves out what is a default, and Heun's and KDPM2's defaults are others."""
    if name == "LMSDiscreteScheduler":
        pytest.importorskip("scipy")
    return getattr(diffusers, name).from_config(DDPMScheduler(beta_start=1e-4, beta_end=0.02).config, **config)


def solved(scheduler, denoise, x, count=50, seed=0):
    scheduler = solvers.usable(scheduler)
    scheduler.set_timesteps(count)
    options = solvers.step_options(scheduler, SeededNoise.from_seeds([seed]))
    return sampling.solve(denoise, scheduler, x * scheduler.init_noise_sigma, iter, options)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of NumPy, in diffusers
@pytest.mark.parametrize("name", solvers.SOLVERS)
def test_spread_of_the_other_solvers(name):
    """Those of the first order are as far off as DDIM and DDPM are; all come closer with more steps."""
    of_first_order = {"EulerDiscreteScheduler": 0.06, "EulerAncestralDiscreteScheduler": 0.13}
    x, denoise = standard_normal(2**13), GaussianDenoiser(process_of(DDPMScheduler))
    few, many = (abs(float(solved(solver(name), denoise, x, count).std()) / S - 1) for count in (50, 120))
    assert few < of_first_order.get(name, 0.03)
    assert many < max(0.02, few / 2)  # of 8,192 pixels the spread is known to 0.8 %


def test_euler_is_ddim():
    x, denoise = standard_normal(2**10), GaussianDenoiser(process_of(DDPMScheduler))
    given = float(solved(solver("EulerDiscreteScheduler"), denoise, x).square().mean().sqrt())
    assert given == pytest.approx(spread_of("ddim", "leading", 50), rel=2e-3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of NumPy, in diffusers
@pytest.mark.parametrize("name", [n for n in solvers.SOLVERS if "Euler" in n or n[:4] in ("Heun", "KDPM", "LMSD")])
def test_solvers_that_scale_their_input_are_wrong_without_it(name):
    scheduler, denoise = solver(name), GaussianDenoiser(process_of(DDPMScheduler))
    scheduler.set_timesteps(20)
    assert scheduler.init_noise_sigma > 10
    x, generator = standard_normal(2**12), torch.Generator().manual_seed(0)
    options = {"generator": generator} if solvers.step_options(scheduler, SeededNoise([generator])) else {}
    scheduler.is_scale_input_called = True
    for t in scheduler.timesteps:
        x = scheduler.step(denoise(x, t), t, x, **options).prev_sample
    assert float(x.std()) > 100 * S


def test_solvers_that_are_refused():
    for name in ("DDIMInverseScheduler", "LCMScheduler"):
        with pytest.raises(UsageError, match="does not draw from a model such as this one"):
            solvers.usable(getattr(diffusers, name)())


# --- each image for itself ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unet():
    options = {"unet.block_out_channels": [8], "unet.layers_per_block": 1, "scheduler.num_train_timesteps": 8}
    options |= {"unet.down_block_types": ["DownBlock2D"], "unet.up_block_types": ["UpBlock2D"]}
    torch.manual_seed(0)
    return DDPMPipeline.build(8, 3, **options).unet.eval()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of NumPy, in diffusers
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("DDPMScheduler", {}),
        ("DDPMScheduler", {"num_inference_steps": 3}),
        ("DDIMScheduler", {"num_inference_steps": 4, "eta": 1.0}),
        *[(name, {"num_inference_steps": 4}) for name in solvers.SOLVERS],
    ],
)
@pytest.mark.filterwarnings("ignore:the first level")
def test_an_image_depends_on_its_seed_alone(unet, name, options):
    if name == "LMSDiscreteScheduler":
        pytest.importorskip("scipy")
    scheduler = getattr(diffusers, name).from_config(
        DDPMScheduler(num_train_timesteps=16, beta_start=0.01, beta_end=0.4).config
    )
    pipeline = DDPMPipeline(unet, scheduler)

    def drawn(pipeline, seeds=(5, 6, 7)):
        return pipeline(seeds=list(seeds), output_type="pt", **options).images

    three, other = drawn(pipeline), drawn(pipeline, [5, 6, 8])
    close = {"atol": images_apart(pipeline, drawn), "rtol": 0}
    torch.testing.assert_close(three[1:2], drawn(pipeline, [6]), **close)
    assert not torch.allclose(three[0], three[1], atol=0.05)
    torch.testing.assert_close(three[:2], other[:2], **close)


@pytest.mark.parametrize("steps_offset", [0, 1])
def test_inversion_ends_where_sampling_ends(steps_offset):
    """Where that is the level 0 (`set_alpha_to_one` false), of a noise that is the same everywhere it is exact."""
    config = {"beta_start": 0.00085, "beta_end": 0.012, "set_alpha_to_one": False, "steps_offset": steps_offset}
    scheduler = DDIMScheduler(**config)
    process, x = ForwardProcess(scheduler), torch.randn(2, 1, 3, 3, dtype=torch.float64)

    def constant(x, t):
        return torch.full_like(x, 0.7)

    levels = timesteps_of(scheduler, 10)
    latents = sampling.invert_ddim(constant, process, x, pairwise([-1, *reversed(levels)]))
    again = sampling.ddim(constant, process, latents, steps(levels), "none")
    assert (again - x).abs().max() < 1e-9
