"""The scale of FID and its like on images spoilt in known ways."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from hfgen import load_images
from hfgen.evaluation.real_images import RealImages, features_of
from hfgen.evaluation.sample_metrics import authenticity, fid, kid, manifold
from hfgen_extractors.digitnet import DigitNet


def corruptions(images, labels):
    """As reference images are spoilt: each by a name, in the order in which FID must rate them."""
    rng = np.random.default_rng(0)
    noisy = (images + rng.normal(0, 0.2 * 255, images.shape)).clip(0, 255).round()
    return {
        "copies": images,
        "no class 8": images[labels != 8],
        "blur .7": gaussian_filter(images, (0, 0, 0.7, 0.7)).round(),
        "noise .2": noisy,
        "blur 1": gaussian_filter(images, (0, 0, 1, 1)).round(),
        "only class 1": images[labels == 1],
        "uniform noise": rng.integers(0, 256, images.shape),
        "black": 0 * images,
    }


@pytest.mark.slow
def test_the_scale():
    extractor = DigitNet.load()
    real_images = load_images("mnist-mini", "test")
    real = features_of(RealImages.of(real_images), extractor)
    train = load_images("mnist-mini", "train")
    rows = list(range(0, 10_000, 5))
    images = ((train.tensor(rows) + 1) * 127.5).round().numpy().astype(np.float64)
    fakes = corruptions(images, train.labels[rows].numpy())
    features = {name: extractor.extract(torch.from_numpy(x).to(torch.uint8)) for name, x in fakes.items()}
    values = [fid(real, x).value for x in features.values()]
    assert values == sorted(values), dict(zip(features, values, strict=True))
    golden = {"copies": 0.9394, "no class 8": 2.116, "blur .7": 10.62, "noise .2": 14.11, "uniform noise": 116.3}
    found = dict(zip(features, values, strict=True))
    assert {name: found[name] for name in golden} == pytest.approx(golden, rel=0.01)  # of the shipped weights
    assert kid(real, features["blur .7"], 500).value == pytest.approx(0.4838, rel=0.01)
    assert values[2] > 5 * values[0]
    assert kid(real, features["copies"], 500).value < kid(real, features["no class 8"], 500).value
    repeated = features["copies"][:20].repeat(100, 1)
    found = manifold(real, repeated, 5, 2000)
    assert found["coverage"].value < 0.2
    assert found["recall"].value < 0.01
    assert authenticity(features["copies"], features["copies"]).value == 0
    assert authenticity(features["copies"], real).value > 0.5


@pytest.mark.whole
def test_geometry_matters_more_than_many_models():
    """Padding and cropping changes nothing; there and back by bilinear resizing is worse than a fair blur."""
    extractor = DigitNet.load()
    pixels = RealImages.of(load_images("mnist-mini", "test")).pixels
    real = extractor.extract(pixels)
    padded = torch.nn.functional.pad(pixels, (2, 2, 2, 2))[..., 2:-2, 2:-2]
    assert fid(real, extractor.extract(padded.contiguous())).value == pytest.approx(0, abs=1e-6)
    bigger = torch.nn.functional.interpolate(pixels.float(), (32, 32), mode="bilinear", antialias=True)
    back = torch.nn.functional.interpolate(bigger, (28, 28), mode="bilinear", antialias=True)
    assert fid(real, extractor.extract(back.round().to(torch.uint8))).value > 2
