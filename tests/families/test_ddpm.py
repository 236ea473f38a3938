"""DDPM and DDIM: the laws."""

import pytest
import torch

from hfgen.errors import UsageError
from hfgen.registry import get_family
from hfgen.testing import FamilyTests

TINY = {
    "unet.block_out_channels": [8, 16],
    "unet.layers_per_block": 1,
    "scheduler.num_train_timesteps": 4,
    "scheduler.beta_schedule": "squaredcos_cap_v2",
}


class TestDDPM(FamilyTests):
    family = "ddpm"
    overrides = TINY
    sample_size = 8
    tolerance = 1e-4

    @pytest.mark.slow  # the toys of test_wrapped.py and Glow train in two processes, and nothing here differs
    def test_two_processes_train_what_one_does(self, data, tmp_path):
        super().test_two_processes_train_what_one_does(data, tmp_path)


class TestConditionalDDPM(FamilyTests):
    family = "ddpm"
    overrides = {**TINY, "scheduler.variance_type": "learned_range", "scheduler.prediction_type": "v_prediction"}
    sample_size = 8
    in_channels = 3
    num_classes = 3
    in_processes = False
    tolerance = 1e-4


class TestDDIM(FamilyTests):
    family = "ddim"
    overrides = {**TINY, "scheduler.prediction_type": "sample"}
    objective = {"snr_gamma": 5.0}
    sample_size = 12
    num_classes = 2
    in_processes = False  # it trains as DDPM does, and test_diffusers_interop.py loads it in other processes
    tolerance = 1e-4


def test_sampling_leaves_the_weights_as_they_lay():
    """A fused optimizer walks through a network's memory, so drawing a grid must not move it."""
    pipeline = get_family("ddpm").load().build(8, 1, **TINY)
    before = {name: (p.data_ptr(), p.stride()) for name, p in pipeline.unet.named_parameters()}
    laid_out = []
    pipeline.unet.conv_in.register_forward_hook(lambda module, *_: laid_out.append(module.weight.stride()))
    pipeline(seeds=[0])
    assert {name: (p.data_ptr(), p.stride()) for name, p in pipeline.unet.named_parameters()} == before
    assert laid_out[0] == pipeline.unet.conv_in.weight.to(memory_format=torch.channels_last).stride()


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_guidance_scale_that_is_no_number(scale):
    pipeline = get_family("ddpm").load().build(8, 1, 2, **TINY)
    with pytest.raises(UsageError, match="guidance_scale is"):
        pipeline(seeds=[0], guidance_scale=scale)
