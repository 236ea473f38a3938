"""A tiny GAN, the command that measures, and a cache of its own for features of real images."""

import pytest
import torch
from measuring import TINY

from hfgen.registry import get_family


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Features of real images are kept, but for this module alone."""
    from hfgen.evaluation import real_images

    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("cache")
    patch.setattr(real_images, "cache_folder", lambda: folder)
    yield folder
    patch.undo()


@pytest.fixture(scope="module")
def gan(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs") / "gan"
    get_family("dcgan").load().build(28, 1, **TINY).save_pretrained(folder)
    return folder
