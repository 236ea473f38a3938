"""Real images: known by their pixels, their features cached."""

import numpy as np
import pytest
import torch

from hfgen import load_images
from hfgen.evaluation.real import stored_sha256
from hfgen.evaluation.real_images import RealImages, features_of
from hfgen.results.protocol import protocol_of
from hfgen_extractors.digitnet import DigitNet


@pytest.mark.whole
def test_the_reference_is_known_by_its_pixels(tmp_path):
    real = RealImages.of(load_images("mnist-mini", "test"))
    assert protocol_of(real.sha256).name == "mnist-mini-v1"
    np.savez(tmp_path / "copy.npz", images=real.pixels.numpy()[:, 0])
    assert RealImages.of(load_images(str(tmp_path / "copy.npz"))).sha256 == real.sha256
    changed = real.pixels.clone()
    changed[7, 0, 3, 3] ^= 1
    assert protocol_of(stored_sha256(changed)).name == "general-v1"


@pytest.mark.whole
def test_features_of_real_images_are_kept(cache):
    extractor, real = DigitNet.load(), RealImages.of(load_images("mnist-mini", "test"))
    first = features_of(real, extractor)
    extractor.forward = None  # it is not asked again
    assert torch.equal(features_of(real, extractor), first)
    file = next(cache.glob("*"))
    file.write_bytes(b"damaged")
    del extractor.forward
    assert torch.equal(features_of(real, extractor), first)
