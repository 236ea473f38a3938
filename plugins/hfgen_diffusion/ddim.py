"""Denoising diffusion implicit models (Song et al. 2021, arXiv:2010.02502): a DDPM, sampled in few steps."""

from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel

from hfgen_diffusion.ddpm import DDPMPipeline
from hfgen_diffusion.jit import JiT


class DDIMPipeline(DDPMPipeline):
    """A DDPM that samples by DDIM, by default deterministically in 50 steps; plain `DDIMPipeline` reads it.

    References:
        Song, Meng & Ermon (2021), Denoising diffusion implicit models, arXiv:2010.02502
    """

    description = "Denoising diffusion implicit model (DDIM) with diffusers' UNet, readable by plain diffusers"
    scheduler_defaults = {"clip_sample": True}

    def __init__(self, unet: UNet2DModel | JiT, scheduler: DDIMScheduler) -> None:
        if isinstance(scheduler, DDPMScheduler):  # as plain diffusers' DDIMPipeline
            scheduler = DDIMScheduler.from_config(scheduler.config)
        super().__init__(unet, scheduler)
