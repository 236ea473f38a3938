"""What flow matching saves, plain diffusers' DDPMPipeline reads where it can, and the other way round."""

import json

import diffusers
import numpy as np
import pytest
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler
from plain_diffusers import SEEDS, in_plain_diffusers, plainly_drawn
from tiny_diffusion import tiny

from hfgen import HFGenPipeline
from hfgen.errors import UsageError
from hfgen_diffusion.ddpm import DDPMPipeline
from hfgen_diffusion.flow_matching import FlowMatchingPipeline
from hfgen_diffusion.flow_scheduler import times_of

SMALL = {"unet.block_out_channels": [8, 8], "unet.layers_per_block": 1}


def flow(num_classes=None, **options):
    scheduler = {"scheduler.num_train_timesteps": 1000}
    return tiny(num_classes, FlowMatchingPipeline, **{**SMALL, **scheduler, **options})


def drawn(pipeline, **options):
    return pipeline(seeds=SEEDS, output_type="np", **options).images


def test_plain_diffusers_draws_the_same_images(processes, tmp_path):
    """Without hfgen; through the class that the index names, or diffusers' own."""
    pipeline = flow(**{"scheduler.shift": 2.0})
    pipeline.save_pretrained(tmp_path / "saved")
    calls = {name: (name, {"num_inference_steps": 6}) for name in ("DiffusionPipeline", "DDPMPipeline")}
    ours = drawn(pipeline, num_inference_steps=6)
    assert ours.std() > 0.1
    for images in in_plain_diffusers(processes, tmp_path / "saved", tmp_path, **calls).values():
        assert np.abs(images - ours).max() < 1e-5
    again = HFGenPipeline.from_pretrained(tmp_path / "saved")
    assert type(again) is FlowMatchingPipeline
    assert np.abs(drawn(again, num_inference_steps=6) - ours).max() == 0


@pytest.mark.parametrize("scheduler_class", [FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler])
@pytest.mark.whole
def test_a_plain_repository_draws_the_same_images_here(tmp_path, scheduler_class):
    plain = diffusers.DDPMPipeline(flow().unet, scheduler_class(shift=3.0))
    plain.set_progress_bar_config(disable=True)
    plain.save_pretrained(tmp_path)
    loaded = HFGenPipeline.from_pretrained(tmp_path)
    assert (type(loaded), type(loaded.scheduler)) == (FlowMatchingPipeline, scheduler_class)
    assert type(FlowMatchingPipeline.from_pretrained(tmp_path)) is FlowMatchingPipeline
    difference = plainly_drawn(plain, num_inference_steps=5) - drawn(loaded, num_inference_steps=5)
    assert np.abs(difference).max() < 1e-5


def test_a_plain_ddpm_stays_one(tmp_path):
    diffusers.DDPMPipeline(flow().unet, diffusers.DDPMScheduler()).save_pretrained(tmp_path)
    assert type(HFGenPipeline.from_pretrained(tmp_path)) is DDPMPipeline


@pytest.mark.parametrize(
    ("num_classes", "options", "named"),
    [
        (None, {}, "DDPMPipeline"),
        (2, {}, "FlowMatchingPipeline"),
        (None, {"scheduler.prediction_type": "sample"}, "FlowMatchingPipeline"),
        (None, {"scheduler.interpolant": "trigonometric"}, "FlowMatchingPipeline"),
    ],
)
def test_the_index_names_diffusers_class_where_that_samples_rightly(tmp_path, num_classes, options, named):
    pipeline = flow(num_classes, **options)
    pipeline.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["_class_name"] == named
    assert type(HFGenPipeline.from_pretrained(tmp_path)) is FlowMatchingPipeline


def test_a_shift_is_that_of_plain_diffusers():
    plain = FlowMatchEulerDiscreteScheduler(shift=2.0)
    plain.set_timesteps(4)
    scheduler = flow(**{"scheduler.shift": 2.0}).scheduler
    assert type(scheduler) is FlowMatchEulerDiscreteScheduler
    assert times_of(scheduler, 4) == plain.sigmas.tolist()


def test_schedulers_that_are_refused():
    unet = flow().unet
    with pytest.raises(UsageError, match="does not sample from flow matching"):
        FlowMatchingPipeline(unet, diffusers.DDPMScheduler())
    with pytest.raises(UsageError, match="stochastic_sampling"):
        FlowMatchingPipeline(unet, FlowMatchEulerDiscreteScheduler(stochastic_sampling=True))
    with pytest.raises(UsageError, match="says nothing of a diffusion's noise levels"):
        DDPMPipeline(unet, FlowMatchEulerDiscreteScheduler())
