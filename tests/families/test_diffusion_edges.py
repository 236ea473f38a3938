"""Edge cases of diffusion: odd numbers of steps, offsets, guidance, solvers, schedules that cannot be."""

import importlib.util

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel, UniPCMultistepScheduler
from tiny_diffusion import TINY, images, tiny

from hfgen.errors import UsageError
from hfgen.noise import StepNoise
from hfgen_diffusion.ddim import DDIMPipeline
from hfgen_diffusion.ddpm import DDPMPipeline
from hfgen_diffusion.objective import DDPMObjective
from hfgen_diffusion.solvers import SOLVERS
from hfgen_diffusion.timesteps import timesteps_of


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace", "quadratic"])
@pytest.mark.whole
def test_any_number_of_steps_has_its_levels(spacing):
    """Trailing, in floating point, would list one below 0 of 61, 103, 121 ... of 1,000."""
    scheduler = DDIMScheduler()
    for count in (*range(1, 130), 206, 333, 999, 1000):
        listed = timesteps_of(scheduler, count, spacing)
        assert len(listed) == count or spacing == "quadratic"
        assert listed == sorted(set(listed), reverse=True)
    assert timesteps_of(scheduler, 1, "quadratic") == [800]


def test_a_start_from_a_level_that_is_not_noise_is_told():
    pipeline = DDIMPipeline(tiny().unet, DDIMScheduler(num_train_timesteps=100, beta_end=0.2))
    with pytest.warns(UserWarning, match="the first level, 0, should still hold 100 %"):
        pipeline(num_inference_steps=1)
    pipeline(num_inference_steps=1, timestep_spacing="trailing")


def test_an_offset_leaves_the_whole_chain_whole():
    pipeline = tiny(**{"scheduler.steps_offset": 1})
    torch.testing.assert_close(
        pipeline(seeds=[1], output_type="pt").images, tiny()(seeds=[1], output_type="pt").images
    )


@pytest.mark.whole
def test_the_levels_of_encode_are_the_schedulers_own(tmp_path):
    """Whatever class it is of, and the same when it was saved and loaded; of schedules that DDIM does not know too."""
    pipeline = tiny(**{"scheduler.num_train_timesteps": 100})
    pipeline.scheduler = UniPCMultistepScheduler.from_config(pipeline.scheduler.config)
    latents = pipeline.encode(images(2), num_inference_steps=5)
    pipeline.save_pretrained(tmp_path)
    again = DDPMPipeline.from_pretrained(tmp_path).encode(images(2), num_inference_steps=5)
    torch.testing.assert_close(latents, again, rtol=0, atol=1e-5)
    sigmoid = tiny(**{"scheduler.beta_schedule": "sigmoid", "scheduler.beta_end": 0.5})
    assert sigmoid.reconstruct(images(2)).shape == images(2).shape
    for call in (pipeline.encode, pipeline.decode):
        with pytest.raises(UsageError, match="num_inference_steps is 101"):
            call(images(2), num_inference_steps=101)


def test_guidance_leaves_the_variance_alone():
    pipeline = tiny(3, **{"scheduler.variance_type": "learned_range"})
    x, t, label = torch.randn(2, 1, 8, 8), torch.tensor(4), torch.tensor([1, 2])
    with torch.no_grad():
        conditional, guided = (pipeline.denoiser(label, w)(x, t) for w in (1.0, 4.0))
    torch.testing.assert_close(conditional[:, 1:], guided[:, 1:])
    assert (conditional[:, :1] - guided[:, :1]).abs().max() > 0


def test_the_label_that_stands_for_none_is_the_models_own():
    """Not guessed from its embeddings; a plain model has none, and learns from every label."""
    for options in ({"unet.num_class_embeds": 10}, {"unet.class_embed_type": "timestep"}):
        with pytest.raises(UsageError, match="follows from the data's classes"):
            tiny(3, **options)
    with pytest.raises(UsageError, match="follows from the data's classes"):
        tiny(None, **{"unet.num_class_embeds": 5})
    pipeline = tiny(3)
    plain = UNet2DModel(**{k: v for k, v in pipeline.unet.config.items() if not k.startswith("_")})
    objective = DDPMObjective(plain, pipeline.scheduler, conditioning_dropout_prob=0.9)
    objective.noise = StepNoise(0, 0, slice(0, 50), 50)
    labels = torch.arange(50) % 4
    assert torch.equal(objective.labels({"class_labels": labels}, objective.noise), labels)
    with pytest.raises(UsageError, match="only None .class labels. is supported"):
        DDPMPipeline(UNet2DModel(**{**plain.config, "class_embed_type": "timestep"}), pipeline.scheduler)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.whole
def test_solvers_draw_by_default_and_refuse_what_leads_them_astray(name):
    """Of closely listed levels some make NaN, some saturated images, some an IndexError."""
    if name == "LMSDiscreteScheduler" and importlib.util.find_spec("scipy") is None:
        pytest.skip("diffusers' LMS needs scipy")
    pipeline = tiny(**{"scheduler.num_train_timesteps": 20})
    pipeline.scheduler = getattr(diffusers, name).from_config(pipeline.scheduler.config)
    image = pipeline(seeds=[1], output_type="pt").images
    assert image.isfinite().all()
    assert image.std() > 0
    for count in (0, 11, 30):
        with pytest.raises(UsageError, match=f"num_inference_steps is {count}"):
            pipeline(num_inference_steps=count)


def test_four_channels_with_a_learned_variance():
    torch.manual_seed(0)
    pipeline = DDPMPipeline.build(8, 4, **{**TINY, "scheduler.variance_type": "learned_range"})
    pipeline.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    assert pipeline(num_inference_steps=3).images[0].mode == "RGBA"


def test_schedules_and_networks_that_cannot_be_are_refused():
    unet = tiny().unet
    for options, said in (
        ({"trained_betas": [0.1] * 5}, "--scheduler.num_train_timesteps is 1000 for 5 betas"),
        ({"beta_start": 0.0}, r"The scheduler's betas lie in \[0"),
        ({"beta_end": 2.0}, r"The scheduler's betas lie in .* 2\]"),
        ({"num_train_timesteps": 1}, "at least 2"),
    ):
        with pytest.raises(UsageError, match=said):
            DDPMPipeline(unet, DDPMScheduler(**options))
    with pytest.raises(UsageError, match="noise levels"):
        DDPMPipeline(unet, diffusers.IPNDMScheduler())
    with pytest.raises(UsageError, match="sample_size is not set"):
        DDPMPipeline(UNet2DModel(**{**unet.config, "sample_size": None}), DDPMScheduler())
    for options, said in (({"timesteps": [7.5]}, "whole numbers"), ({"noise": 3}, "takes no noise")):
        with pytest.raises(UsageError, match=said):
            tiny()(**options)
    with pytest.raises(UsageError, match="needs pipeline.to"):
        tiny().to(torch.bfloat16).log_likelihood(images(1))
    with pytest.raises(UsageError, match="not for method probability_flow"):
        tiny().log_likelihood(images(1), method="probability_flow", num_timesteps=3)


def test_thresholding_does_not_need_the_schedulers_own():
    pipeline = tiny(**{"scheduler.thresholding": True})
    pipeline.scheduler = diffusers.PNDMScheduler.from_config(pipeline.scheduler.config)
    assert pipeline.log_likelihood(images(1)).nats.isfinite().all()


def test_a_ddim_made_with_a_ddpms_scheduler_is_one():
    pipeline = tiny()
    ddim = DDIMPipeline(pipeline.unet, pipeline.scheduler)
    assert isinstance(ddim.scheduler, DDIMScheduler)
    assert ddim.scheduler.config.beta_end == pipeline.scheduler.config.beta_end
