"""Tiny networks of two families, and the config of a training of them."""

from hfgen.registry import get_family
from hfgen.settings.resolve import resolve

TINY = {
    "dcgan": {"generator": {"base_channels": 4, "latent_dim": 6}, "discriminator": {"base_channels": 4}},
    "vae": {"encoder": {"base_channels": 4, "latent_dim": 4}, "decoder": {"base_channels": 4}},
}
BLOBS = {"generator.base_channels": 4, "generator.latent_dim": 6, "discriminator.base_channels": 4}


def config_of(data, family="dcgan", **settings):
    layer = {"dataset_name": data, "train_batch_size": 8, "max_train_steps": 6, "num_validation_images": 4}
    layers = [("", {**layer, "logging_steps": 1, "use_ema": True, **TINY[family], **settings})]
    return resolve(layers, family, get_family(family).load())
