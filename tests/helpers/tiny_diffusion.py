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
