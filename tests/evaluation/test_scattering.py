"""Wavelet scattering against closed forms, and what a Fréchet distance of its features sees."""

import math
import tomllib
from pathlib import Path

import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate

from hfgen.errors import UsageError
from hfgen.evaluation.extractors import with_channels
from hfgen.evaluation.sample_metrics import fid
from hfgen_extractors.scattering import ANGLES, FREQUENCY, SCALES, SIDE, Scattering, filters


@pytest.fixture(scope="module")
def net():
    return Scattering.load()


def sinusoid(y, x):
    """A wave with these whole numbers of periods across the image."""
    steps = 2 * math.pi * torch.arange(SIDE) / SIDE
    return torch.cos(y * steps[:, None] + x * steps[None])[None, None]


def scenes(count, seed, scale=8):
    """Smooth random images in color, (N, 3, 64, 64), uint8."""
    noise = torch.rand(count, 3, scale, scale, generator=torch.Generator().manual_seed(seed))
    return (interpolate(noise, (SIDE, SIDE), mode="bicubic").clamp(0, 1) * 255).round().to(torch.uint8)


def test_wavelets_have_no_mean_and_give_no_energy():
    bank = filters()
    assert bank.shape == (SCALES, ANGLES, SIDE, SIDE)
    assert bank[..., 0, 0].abs().max() < 1e-6
    mirrored = bank.flip(2, 3).roll((1, 1), (2, 3))
    gain = (bank**2 + mirrored**2).sum((0, 1)) / 2
    assert gain.max() == pytest.approx(1, abs=1e-5)
    middle = torch.fft.fftfreq(SIDE).abs()
    rings = (middle[:, None] ** 2 + middle[None] ** 2).sqrt()
    assert gain[(rings > 0.06) & (rings < 0.4)].min() > 0.15, "no frequency between the scales is missed"


@pytest.mark.parametrize("scale", range(SCALES))
@pytest.mark.parametrize("angle", range(ANGLES))
def test_a_sinusoid_lands_in_its_wavelet(net, scale, angle):
    """Its modulus is constant, so that the average of order 1 is the filter's gain, and order 2 has almost nothing."""
    turn = math.pi * angle / ANGLES
    y, x = (round(f(turn) * FREQUENCY / 2**scale * SIDE / (2 * math.pi)) for f in (math.sin, math.cos))
    first, second = net.scatter(sinusoid(y, x))
    assert first[0, 0].argmax() == scale * ANGLES + angle
    gain, back = (float(filters()[scale, angle, a % SIDE, b % SIDE].abs()) for a, b in ((y, x), (-y, -x)))
    assert float(first[0, 0].max()) == pytest.approx(gain / 2, abs=back + 1e-3)
    assert second.max() < 0.2 * first.max()


def test_moduli_hold_no_more_energy_than_the_image(net):
    x = torch.rand(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    first, second = net.scatter(x)
    assert ((first**2).sum(2) + (second**2).sum(2) <= (x - x.mean((2, 3), keepdim=True)).square().mean((2, 3))).all()
    again, twice = net.scatter(3 * x + 1)
    torch.testing.assert_close(again, 3 * first, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(twice, 3 * second, rtol=1e-4, atol=1e-6)


def test_a_shift_changes_nothing_but_the_layout(net):
    x = torch.rand(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    first, second = net.scatter(x)
    for move, tolerance in (((8, 24), 1e-5), ((3, 5), 2e-2)):
        for before, after in zip((first, second), net.scatter(x.roll(move, (2, 3))), strict=True):
            torch.testing.assert_close(after, before, rtol=tolerance, atol=tolerance * float(before.mean()))
    half = torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8)
    half[..., :32] = 255
    left, right = net.extract(half), net.extract(half.flip(3))
    assert (left[:, :48] - right[:, :48]).abs().max() > 0.5


def test_a_gray_image_is_one_of_equal_colors_and_any_side_is_taken(net):
    gray = scenes(2, 0)[:, :1]
    features = net.extract(gray)
    assert torch.equal(features, net.extract(gray.expand(-1, 3, -1, -1)))
    brightness, *colors = features[:, 48:].unflatten(1, (3, 112)).unbind(1)
    assert brightness.mean() > 0.1
    assert all(color.abs().max() < 0.01 for color in colors)
    large = torch.nn.functional.interpolate(gray.float(), (96, 80), mode="nearest").to(torch.uint8)
    assert net.extract(large).shape == net.extract(gray[..., :20, :9]).shape == (2, 384)
    with pytest.raises(UsageError, match="these have 2 channels"):
        net.extract(torch.zeros(1, 2, 8, 8, dtype=torch.uint8))


def test_alpha_is_put_on_white():
    clear = torch.tensor([10, 20, 30, 0], dtype=torch.uint8).reshape(1, 4, 1, 1)
    assert with_channels(clear, 3).flatten().tolist() == [255, 255, 255]
    opaque = torch.tensor([10, 20, 30, 255], dtype=torch.uint8).reshape(1, 4, 1, 1)
    assert with_channels(opaque, 3).flatten().tolist() == [10, 20, 30]
    assert with_channels(opaque, 4) is opaque


@pytest.mark.whole
def test_the_distance_sees_blur_noise_color_texture_and_layout(net):
    real, other = scenes(80, 0), scenes(80, 1)
    blurred = avg_pool2d(other.float(), 5, 1, 2, count_include_pad=False).round().to(torch.uint8)
    generator = torch.Generator().manual_seed(2)
    noisy = (other + 12 * torch.randn(other.shape, generator=generator)).clamp(0, 255).to(torch.uint8)
    layout = torch.cat([(other[..., :32] * 0.6).to(torch.uint8), other[..., 32:]], 3)
    wrong = {"blur": blurred, "noise": noisy, "color": other[:, [1, 0, 2]] // 2, "texture": scenes(80, 3, 12)}
    features = net.extract(real)
    floor = fid(features, net.extract(other)).value
    for name, images in {**wrong, "layout": layout}.items():
        assert fid(features, net.extract(images)).value > 1.5 * floor, name


def test_it_is_registered_and_takes_no_weights():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["hfgen.extractors"][Scattering.name] == "hfgen_extractors.scattering:Scattering"
    with pytest.raises(UsageError, match="no weights"):
        Scattering.load("x.safetensors")
