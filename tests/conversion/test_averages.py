"""Checkpoints of diffusers' training script: networks, and the weights that its EMAModel averaged."""

import json

import pytest
import torch
from diffusers import UNet2DModel
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file

from hfgen import HFGenPipeline
from hfgen.errors import LoadError
from hfgen.repository.fit import check_config

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """`unet`, its average after two million steps, and the optimizer's pickle."""
    folder = tmp_path_factory.mktemp("averages") / "checkpoint-500"
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)}
    unet = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, norm_num_groups=2, **blocks)
    average = EMAModel(unet.parameters(), model_cls=UNet2DModel, model_config=unet.config)
    average.optimization_step = 2_000_000
    average.save_pretrained(folder / "unet_ema")
    unet.save_pretrained(folder / "unet")
    torch.save({}, folder / "optimizer.bin")
    return folder


def test_an_average_of_many_steps_is_converted(checkpoint, tmp_path, hfgen, recwarn):
    done = hfgen("convert", checkpoint / "unet_ema", tmp_path / "out", "--model", "ddpm")
    assert done.code == 0, done.err
    config = json.loads((tmp_path / "out" / "unet" / CONFIG).read_text())
    assert "optimization_step" not in config
    assert "decay" not in config
    read, written = (load_file(path / WEIGHTS) for path in (checkpoint / "unet_ema", tmp_path / "out" / "unet"))
    assert all(torch.equal(read[name], written[name]) for name in read)
    assert "optimization_step" not in done.err + "".join(str(warning.message) for warning in recwarn)


def test_of_a_checkpoint_its_folders_are_named(checkpoint, tmp_path, hfgen):
    done = hfgen("convert", checkpoint, tmp_path / "out", "--model", "ddpm")
    assert done.code == 2
    assert "checkpoint-500/unet, checkpoint-500/unet_ema" in done.err
    assert "unet_ema holds the averaged weights" in done.err


def test_numbers_that_a_class_does_not_take_are_no_sizes(checkpoint):
    large = {"optimization_step": 2**40, "global_step": 2**40, "sample_size": 8}
    check_config(large, "unet/config.json", UNet2DModel)
    with pytest.raises(LoadError, match="optimization_step"):
        check_config(large, "unet/config.json")
    with pytest.raises(LoadError, match="norm_num_groups is 1099511627776; hfgen accepts at most"):
        check_config({"norm_num_groups": 2**40}, "unet/config.json", UNet2DModel)


def test_an_average_is_loaded_where_it_stands_in_a_pipeline(checkpoint, tmp_path, hfgen):
    assert hfgen("convert", checkpoint / "unet", tmp_path / "out", "--model", "ddpm").code == 0
    for name in (CONFIG, WEIGHTS):
        (tmp_path / "out" / "unet" / name).write_bytes((checkpoint / "unet_ema" / name).read_bytes())
    assert HFGenPipeline.from_pretrained(tmp_path / "out").unet.config.sample_size == 8
