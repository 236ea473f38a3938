"""Edited and filled-in images of Gaussian data, for which every sampler is a closed recursion."""

import math

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from gaussian_diffusion import GaussianDenoiser, process_of
from gaussian_flow import S, velocity

from hfgen import Given, SeededNoise, UsageError
from hfgen_diffusion import solvers
from hfgen_diffusion.ddpm import DDPMPipeline
from hfgen_diffusion.flow_matching import FlowMatchingPipeline
from hfgen_diffusion.flow_scheduler import InterpolantScheduler

RHO = 0.8  # correlation of two pixels


class PixelImpulses:
    """1 for one pixel of one image in each draw: images then hold the weights of all numbers that were drawn.

    Image 0 has no noise at all, and so is the mean.
    """

    def __init__(self, count, width):
        self.count, self.width, self.next = count, width, 1

    def __len__(self):
        return self.count

    def normal(self, *shape):
        found = torch.zeros(self.count, *shape, dtype=torch.float64)
        for pixel in range(self.width):
            found[self.next, ..., pixel] = 1
            self.next += 1
        return found


def unet(width):
    """Of one row of pixels; it is never called."""
    blocks = {
        "attention_head_dim": None,
        "block_out_channels": [4],
        "down_block_types": ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"],
    }
    return UNet2DModel(
        sample_size=(1, width), in_channels=1, out_channels=1, norm_num_groups=1, layers_per_block=1, **blocks
    )


def ddpm(scheduler, denoise=None, width=1):
    pipeline = DDPMPipeline(unet(width), scheduler)
    process = process_of(DDPMScheduler)
    pipeline.denoiser = lambda *_: denoise(process) if denoise else GaussianDenoiser(process)
    return pipeline


def flow(of_data=None, width=1, **config):
    pipeline = FlowMatchingPipeline(unet(width), InterpolantScheduler(**config))
    pipeline.velocity = lambda *_: of_data or velocity(path=config.get("interpolant", "linear"))
    return pipeline


def drawn(pipeline, given, draws=1, width=1, **options):
    """(the mean, the standard deviation) of each pixel, exactly.

    Args:
        given: strength, and what else is given.
        draws: of noise; more than are made do no harm.
    """
    noise = PixelImpulses(1 + draws * width, width)
    image = torch.ones(len(noise), 1, 1, width, dtype=torch.float64)
    mask = None if "mask" not in given else given["mask"].expand_as(image)
    found = pipeline.sample(noise, given=Given(image, **{**given, "mask": mask}), **options)
    mean = found[0].flatten()
    return mean, (found[1:] - found[0]).square().sum(0).sqrt().flatten()


# --- SDEdit ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strength", "gain", "noise"), [(0.25, 0.832050, 0.277350), (0.5, 0.447214, 0.447214), (0.75, 0.164399, 0.493197)]
)
@pytest.mark.parametrize("solver", ["rk4", "heun", "adaptive"])
def test_an_edit_along_the_flow(solver, strength, gain, noise):
    """What is left of the image, and what was drawn: (1 - t) s/c and t s/c; their squares make s² whole."""
    options = {"tolerance": 1e-6} if solver == "adaptive" else {"num_inference_steps": 100}
    found = drawn(flow(), {"strength": strength}, solver=solver, **options)
    assert [float(value) for value in found] == pytest.approx([gain, noise], abs=2e-4)
    assert float(found[0]) ** 2 * S**2 + float(found[1]) ** 2 == pytest.approx(S**2, abs=2e-4)


@pytest.mark.parametrize(
    ("strength", "gain", "noise"), [(0.3, 0.375550, 0.463401), (0.5, 0.144490, 0.494753), (0.7, 0.041841, 0.499562)]
)
def test_an_edit_along_the_levels_of_a_diffusion(strength, gain, noise):
    """It begins at the level that the strength says: 299, 499, 699 of 1,000."""
    scheduler = DDIMScheduler(clip_sample=False)
    found = drawn(ddpm(scheduler), {"strength": strength}, num_inference_steps=1000)
    assert [float(value) for value in found] == pytest.approx([gain, noise], rel=6e-3)


ODE = (0.375550, 0.144490)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of NumPy, in diffusers
@pytest.mark.parametrize("name", solvers.SOLVERS)
@pytest.mark.whole
def test_an_edit_by_the_other_solvers(name):
    """The image's share is the ODE's, or less where noise is drawn on the way; the spread is the data's with it."""
    if name == "LMSDiscreteScheduler":
        pytest.importorskip("scipy")
    scheduler = getattr(diffusers, name).from_config(DDPMScheduler(beta_start=1e-4, beta_end=0.02).config)
    pipeline = ddpm(scheduler, width=4096)
    for strength, ode in zip((0.3, 0.5), ODE, strict=True):
        given = Given(torch.ones(1, 1, 1, 4096), strength)
        found = pipeline.sample(SeededNoise.from_seeds([0]), num_inference_steps=100, given=given)
        gain, spread = float(found.mean()), float(found.std())
        assert math.hypot(gain * S, spread) == pytest.approx(S, rel=0.1)
        assert gain < 0.5 * ode if "Ancestral" in name else gain == pytest.approx(ode, rel=0.07)
    if name != "PNDMScheduler":  # which cannot list its first level; one step from there leaves little of the image
        given = Given(torch.ones(1, 1, 1, 4096), 0.5)
        assert pipeline.sample(SeededNoise.from_seeds([0]), num_inference_steps=2, given=given).mean() < 0.5
    for strength in (1e-9, 0.002):
        given = Given(torch.ones(1, 1, 1, 4096), strength)
        found = pipeline.sample(SeededNoise.from_seeds([0]), num_inference_steps=20, given=given)
        assert (found - 1).abs().max() < (0.05 if strength < 0.001 else 0.1)


# --- RePaint --------------------------------------------------------------------------------------------------------


def of_two_pixels(process):
    """The best prediction of the noise in two pixels of N(0, [[1, ρ], [ρ, 1]])."""
    covariance = torch.tensor([[1.0, RHO], [RHO, 1.0]], dtype=torch.float64)

    def denoise(x, t):
        alpha = process.alphas_cumprod[t]
        inverse = torch.linalg.inv(alpha * covariance + (1 - alpha) * torch.eye(2, dtype=torch.float64))
        return (1 - alpha).sqrt() * x @ inverse

    return denoise


RIGHT_PIXEL = torch.tensor([False, True]).view(1, 1, 1, 2)
LEVELS = {count: [999 - round(i * 1000 / count) for i in range(count)] for count in (50, 250)}


@pytest.mark.parametrize(
    ("count", "times", "mean", "variance"),
    [(50, 1, 0.480724, 0.429125), (50, 5, 0.715965, 0.290822), (250, 1, 0.496176, 0.477432)],
)
def test_filling_in_one_of_two_pixels(count, times, mean, variance):
    """The truth is 0.8 and 0.36: going back and forth mends the mean, and more steps the variance."""
    scheduler = DDIMScheduler(clip_sample=False)
    given = {"strength": 1.0, "mask": RIGHT_PIXEL, "jump_n_sample": times}
    draws = 3 * count * times
    found = drawn(ddpm(scheduler, of_two_pixels, 2), given, draws, 2, eta=1.0, timesteps=LEVELS[count])
    assert float(found[0][1]) == pytest.approx(mean, abs=2e-6)
    assert float(found[1][1]) ** 2 == pytest.approx(variance, abs=2e-6)
    assert float(found[0][0]) == 1.0
    assert float(found[1][0]) == 0.0


def along_the_flow(x, t):
    """The best velocity of the same two pixels."""
    covariance = torch.tensor([[1.0, RHO], [RHO, 1.0]], dtype=torch.float64)
    alpha, sigma = 1 - float(t), float(t)
    inverse = torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(2, dtype=torch.float64))
    return (x.double() @ inverse @ (sigma * torch.eye(2, dtype=torch.float64) - alpha * covariance)).to(x)


class Normal:
    """N(0, 1) of many images at once."""

    generators = ()

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def normal(self, *shape):
        return torch.randn(self.count, *shape)


def filled_in(pipeline, count=4000, **options):
    noise = Normal(count)
    given = Given(torch.ones(count, 1, 1, 2), 1.0, RIGHT_PIXEL.expand(count, 1, 1, 2), 1, 5)
    return pipeline.sample(noise, num_inference_steps=25, given=given, **options)


@pytest.mark.whole
@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler"])
def test_the_other_solvers_fill_in_too(name):
    """Each step that is taken again begins without a history: of the orders 1 and 2, and with LMS's own order."""
    if name == "LMSDiscreteScheduler":
        pytest.importorskip("scipy")
    config = DDPMScheduler(beta_start=1e-4, beta_end=0.02).config
    scheduler = getattr(diffusers, name).from_config(config, timestep_spacing="trailing")
    found = filled_in(
        ddpm(scheduler, lambda process: lambda x, t: of_two_pixels(process)(x.double(), t.long()).to(x), 2)
    )
    assert (found[..., 0] == 1).all()
    assert float(found[..., 1].mean()) == pytest.approx(0.65, abs=0.04)
    assert float(found[..., 1].var()) == pytest.approx(0.37, abs=0.09)


@pytest.mark.whole
@pytest.mark.parametrize("solver", ["euler", "rk4", "stochastic"])
def test_a_flow_fills_in(solver):
    found = filled_in(flow(along_the_flow, 2), solver=solver)
    assert (found[..., 0] == 1).all()
    assert float(found[..., 1].mean()) == pytest.approx(0.68, abs=0.06)
    assert float(found[..., 1].var()) == pytest.approx(0.38, abs=0.09)


def test_what_has_no_steps_that_can_be_taken_again_refuses_a_mask():
    given = Given(torch.ones(1, 1, 1, 2), 1.0, RIGHT_PIXEL)
    noise = SeededNoise.from_seeds([0])
    scheduler = diffusers.PNDMScheduler.from_config(DDPMScheduler().config)
    with pytest.raises(UsageError, match="A PNDMScheduler counts its steps"):
        ddpm(scheduler, of_two_pixels, 2).sample(noise, given=given)
    with pytest.raises(UsageError, match="The adaptive solver chooses its own steps"):
        flow(along_the_flow, 2).sample(noise, solver="adaptive", given=given)
