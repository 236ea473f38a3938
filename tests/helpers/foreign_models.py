"""Models of other libraries, and their conversion by the command line."""

import os
from pathlib import Path

import command_line
import diffusers
import torch
from torch import nn

from hfgen import HFGenPipeline

HERE = Path(__file__).parents[1] / "conversion" / "converted"

CLOSE = {"atol": 1e-5, "rtol": 0}


class TutorialGenerator(nn.Module):
    """As the tutorial's: 4 -> 8 -> 16 pixels here, each width half of the one before."""

    def __init__(self, nz=5, ngf=3, nc=2, kernel=4, bias=False):
        super().__init__()
        self.main = nn.Sequential(
            *(nn.ConvTranspose2d(nz, 2 * ngf, kernel, 1, 0, bias=False), nn.BatchNorm2d(2 * ngf), nn.ReLU(True)),
            *(nn.ConvTranspose2d(2 * ngf, ngf, 4, 2, 1, bias=False), nn.BatchNorm2d(ngf), nn.ReLU(True)),
            *(nn.ConvTranspose2d(ngf, nc, 4, 2, 1, bias=bias), nn.Tanh()),
        )

    def forward(self, z):
        return self.main(z)


class TutorialDiscriminator(nn.Module):
    def __init__(self, ndf=2, nc=2):
        super().__init__()
        self.main = nn.Sequential(
            *(nn.Conv2d(nc, ndf, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)),
            *(nn.Conv2d(ndf, 2 * ndf, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * ndf), nn.LeakyReLU(0.2, inplace=True)),
            *(nn.Conv2d(2 * ndf, 1, 4, 1, 0, bias=False), nn.Sigmoid()),
        )

    def forward(self, x):
        return self.main(x)


def random(model, seed=0):
    """With other values in each tensor, BatchNorm's statistics too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                drawn = torch.randn(tensor.shape, generator=generator) / 3
                tensor.copy_(drawn.abs() + 0.5 if name.endswith("running_var") else drawn)
    return model.eval()


def hfgen(*words):
    """Exit code and output of `hfgen convert`."""
    done = command_line.hfgen("convert", *words)
    return done.code, done.out + done.err


def converted(source, target, *options):
    code, output = hfgen(source, target, "--allow_pickle", *options)
    assert code == 0, output
    assert {path.name for path in Path(target).iterdir()} >= {"README.md", "model_index.json"}
    assert not list(Path(target).glob(".*"))
    return HFGenPipeline.from_pretrained(target)


def refused(words, source, target, *options, code=2):
    """With this message, and nothing is left."""
    found, output = hfgen(source, target, *options)
    assert found == code, output
    assert words in " ".join(output.split()), output
    assert len(output.strip().splitlines()) <= 6, output
    assert not Path(target).exists()


def bytes_of(*shape):
    """A tensor of few bytes: what a network would hold as four for each element."""
    return torch.zeros(shape, dtype=torch.int8)


def saved_by_diffusers(folder, **options):
    """A tiny pipeline of plain diffusers, saved."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    pipeline = diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler(num_train_timesteps=10))
    pipeline.save_pretrained(folder, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class Bomb:
    """Unpickled in the ordinary way, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)
