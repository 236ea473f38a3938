"""Reflow: the laws, and the flow of Gaussian data that is learned from a first one's pairs in closed form."""

import json

import pytest
import torch
from gaussian_flow import Quantiles, S, velocity
from torch import nn

from hfgen import HFGenPipeline
from hfgen.errors import UsageError
from hfgen.testing import FamilyTests
from hfgen_diffusion.flow_matching import FlowMatchingPipeline
from hfgen_diffusion.flow_solvers import euler
from hfgen_diffusion.reflow import ReflowObjective, ReflowPipeline

UNET = {"unet.block_out_channels": [8, 8], "unet.layers_per_block": 1}
JIT = {"unet.class_name": "JiT", "unet.patch_size": 4, "unet.hidden_size": 16, "unet.num_layers": 1}
JIT |= {"unet.num_attention_heads": 1, "unet.bottleneck_dim": 8}


def teacher(num_classes=None, **options):
    torch.manual_seed(1)
    return FlowMatchingPipeline.build(8, 1, num_classes, **(options or UNET))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    teacher(**JIT).save_pretrained(folder)
    return str(folder)


class TestReflow(FamilyTests):
    family = "reflow"
    sample_size = 8
    tolerance = 1e-4
    objective = {"teacher_steps": 2}
    in_shards = True

    @pytest.fixture(autouse=True)
    def _source(self, saved):
        type(self).overrides = {"teacher.from_pretrained": saved, **JIT}


class Straight(nn.Module):
    """v* after reflow of N(0, s²): the pairs are (ε, sε), so v*(x) = (1 - s) x / ((1 - t) s + t)."""

    def forward(self, x_t, t, class_labels=None, return_dict=False):
        t = (t / 1000).view(-1, 1, 1, 1)
        return ((1 - S) * x_t / ((1 - t) * S + t),)


class Crossing(nn.Module):
    """v* before it, of independent pairs."""

    def forward(self, x_t, t, class_labels=None, return_dict=False):
        return (velocity()(x_t, t.double() / 1000).to(x_t),)


def loss_of(network, count=256, **options):
    first = teacher()
    first.velocity = lambda *_: velocity()
    objective = ReflowObjective(network, first.scheduler, first, teacher_steps=50, **options)
    objective.noise = Quantiles(torch.randn(4 * count, 1, 8, 8))
    (update,) = objective.training_step({"pixel_values": torch.zeros(4 * count, 1, 8, 8)})
    return update.loss.item()


def test_pairs_of_gaussian_data_do_not_cross():
    """The least loss is 0, that of the flow with which it began is not, and one Euler step gives the spread s."""
    assert loss_of(Straight()) < 1e-4
    assert loss_of(Straight(), teacher_solver="rk4") < 1e-6
    assert loss_of(Crossing()) > 0.05
    noise = torch.randn(1000, 1, 1, 1, dtype=torch.float64)
    (drawn,) = euler(lambda state, t: Straight()(state[0], 1000 * t), (noise,), 1.0, 0.0)
    torch.testing.assert_close(drawn, S * noise)
    (crossed,) = euler(lambda state, t: Crossing()(state[0], 1000 * t), (noise,), 1.0, 0.0)
    assert crossed.abs().max() < 1e-6  # the mean of the data


def test_it_starts_from_the_teachers_weights_and_predicts_what_it_does(saved):
    given = {"teacher.from_pretrained": saved, "unet.from_pretrained": f"{saved}/unet"}
    pipeline = ReflowPipeline.build(8, 1, **given)
    assert pipeline.scheduler.config.prediction_type == "sample"
    assert all(map(torch.equal, pipeline.unet.parameters(), pipeline.teacher.unet.parameters()))
    assert (
        type(ReflowPipeline.build(8, 1, **{"teacher.from_pretrained": saved}, **UNET).unet).__name__ == "UNet2DModel"
    )


def test_what_is_saved_has_no_teacher_and_plain_diffusers_may_read_it(tmp_path):
    teacher().save_pretrained(tmp_path / "first")
    first = str(tmp_path / "first")
    pipeline = ReflowPipeline.build(
        8, 1, **{"teacher.from_pretrained": first, "unet.from_pretrained": f"{first}/unet"}
    )
    pipeline.save_pretrained(tmp_path / "second")
    index = json.loads((tmp_path / "second" / "model_index.json").read_text())
    assert (index["_class_name"], "teacher" in index) == ("DDPMPipeline", False)
    again = HFGenPipeline.from_pretrained(tmp_path / "second")
    assert (type(again), again.teacher) == (ReflowPipeline, None)


def test_the_teacher_is_given_the_classes_of_the_batch():
    first, seen = teacher(2), []
    first.decode = lambda latents, labels, **options: seen.append((labels.tolist(), options)) or latents
    student = teacher(2)
    objective = ReflowObjective(student.unet, student.scheduler, first, guidance_scale=2.0, teacher_steps=3)
    objective.noise = Quantiles(torch.randn(4, 1, 8, 8))
    batch = {"pixel_values": torch.zeros(4, 1, 8, 8), "class_labels": torch.tensor([0, 1, 1, 0])}
    next(objective.training_step(batch))
    assert seen == [([0, 1, 1, 0], {"guidance_scale": 2.0, "num_inference_steps": 3, "solver": "heun"})]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher_steps": 0}, "--objective.teacher_steps is 0"),
        ({"teacher_solver": "adaptive"}, "--objective.teacher_solver is 'adaptive'"),
        ({"guidance_scale": 2.0}, "--objective.guidance_scale is 2.0"),
    ],
)
def test_objectives_that_are_refused(options, message):
    first = teacher()
    with pytest.raises(UsageError, match=message):
        ReflowObjective(first.unet, first.scheduler, first, **options)


@pytest.mark.parametrize(
    ("size", "num_classes", "options", "message"),
    [
        (12, None, {}, "The teacher's images are 1x8x8, and these are 1x12x12"),
        (8, 2, {}, "The teacher has no classes, and this model 2"),
        (8, None, {"scheduler.interpolant": "trigonometric"}, "--scheduler.interpolant is trigonometric"),
    ],
)
def test_teachers_that_are_refused(saved, size, num_classes, options, message):
    with pytest.raises(UsageError, match=message):
        ReflowPipeline.build(size, 1, num_classes, **{"teacher.from_pretrained": saved, **JIT, **options})
