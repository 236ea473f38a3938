"""Trainers of tiny networks: `make` on blobs in one file, `make_on_splits` on folders with two splits."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_trainings import BLOBS, config_of
from torch import nn

from hfgen.data.load import load_images
from hfgen.registry import get_family
from hfgen.settings.resolve import resolve
from hfgen.testing import make_data
from hfgen.training.start import find_held_out
from hfgen.training.trainer import Trainer


@pytest.fixture
def data(tmp_path):
    return str(make_data(tmp_path / "blobs.npz", 16, 1))


@pytest.fixture
def make(data):
    """A trainer of a tiny family with two networks; `no_norm` takes the BatchNorm out."""

    def build(folder=None, no_norm=False, **settings):
        family = get_family("dcgan").load()
        settings = {"train_batch_size": 8, "max_train_steps": 4, "num_validation_images": 4, **settings}
        arguments = resolve([("test", settings)], "dcgan", family).arguments
        torch.manual_seed(0)
        pipeline = family.build(16, 1, **BLOBS)
        if no_norm:
            for block in [*pipeline.generator.blocks, *pipeline.discriminator.blocks]:
                block[1] = nn.Identity()
        return Trainer(pipeline, load_images(data), arguments, folder)

    return build


@pytest.fixture
def splits(tmp_path):
    """Folders of images: 24 to train on, 12 to validate on."""
    for split, seed, count in (("train", 0, 24), ("test", 1, 12)):
        random = np.random.default_rng(seed)
        (tmp_path / "data" / split).mkdir(parents=True)
        for i in range(count):
            pixels = (random.random((16, 16)) < 0.3).astype(np.uint8) * 255
            Image.fromarray(pixels).save(tmp_path / "data" / split / f"{i}.png")
    return str(tmp_path / "data")


@pytest.fixture
def make_on_splits(splits):
    def build(folder=None, family="dcgan", held_out=False, **settings):
        config = config_of(splits, family, **settings)
        torch.manual_seed(0)
        pipeline_class = get_family(family).load()
        pipeline = pipeline_class.build(16, 1, **{k: v for k, v in config.components.items() if k != "objective"})
        images = load_images(splits)
        test = find_held_out(config, pipeline, images) if held_out else None
        return Trainer(pipeline, images, config.arguments, folder, held_out=test)

    return build
