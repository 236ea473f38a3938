"""Diffusion pipelines small enough to train and sample within a test, and images for them."""

import torch

from hfgen_diffusion.ddpm import DDPMPipeline

TINY = {"unet.block_out_channels": [8, 16], "scheduler.num_train_timesteps": 10}
BATCH = 6


def tiny(num_classes=None, family=DDPMPipeline, **overrides):
    torch.manual_seed(0)
    return family.build(8, 1, num_classes, **{**TINY, **overrides})


def images(count=BATCH, channels=1):
    generator = torch.Generator().manual_seed(3)
    return torch.randint(256, (count, channels, 8, 8), generator=generator) / 127.5 - 1


def float32_error(scheduler):
    """How far apart one image, in [0, 1], may come from two orders of the same float32 arithmetic.

    A network's output, of size 1, differs by some rounding errors, here 32. The estimate of the clean image has it
    times sqrt((1 - alpha_bar) / alpha_bar), which is largest at the first level; clipped or not, later steps add less.
    """
    first = float(scheduler.alphas_cumprod.double()[-1])
    return 32 * torch.finfo(torch.float32).eps * max(1.0, ((1 - first) / first) ** 0.5)
