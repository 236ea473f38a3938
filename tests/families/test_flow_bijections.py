"""Flows: each log-determinant against autograd's Jacobian, each inverse, whole models, the dequantizer."""

import math
import random
from functools import partial
from typing import get_args

import pytest
import torch
from flow_cases import initialized, normal, scrambled, uniform
from torch.nn.functional import pixel_unshuffle

from hfgen.testing.latents import jacobian_of
from hfgen_flow.bijections import (
    ActNorm,
    AlternateSqueeze,
    DiagonalNormal,
    InvertibleConv1x1,
    Logit,
    NormalizedConv1x1,
    Preprocess,
    Preprocessing,
    Sigmoid,
    Squeeze,
)
from hfgen_flow.couplings import (
    AdditiveTransform,
    AffineTransform,
    ChannelCoupling,
    CheckerboardCoupling,
    SigmoidTransform,
    SplineTransform,
)
from hfgen_flow.dequantization import UniformDequantizer, VariationalDequantizer
from hfgen_flow.glow import Glow, SplitPrior, TopPrior
from hfgen_flow.networks import ConvNetwork, ResidualNetwork
from hfgen_flow.realnvp import RealNVP

TRANSFORMS = {
    "affine": AffineTransform,
    "sigmoid": lambda num_channels: SigmoidTransform(),
    "additive": lambda num_channels: AdditiveTransform(),
    "spline": lambda num_channels: SplineTransform(4, 2.0),
}
small_network = partial(ConvNetwork, hidden_channels=6)
LN_SIGMOID_2 = -0.126928


def jacobians(function, x, *conditions):
    """ln|det| of the map x -> the first that the function returns, of each image by itself, (B,)."""

    def one(i):
        rest = [None if condition is None else condition[i : i + 1] for condition in conditions]
        return torch.linalg.slogdet(jacobian_of(lambda image: function(image, *rest)[0], x[i : i + 1]).double())[1]

    return torch.stack([one(i) for i in range(len(x))])


def check_bijection(module, x, *conditions):
    """Log-determinant and inverse, in both precisions; the input stays as it was."""
    for dtype, determinant, inverse in ((torch.float64, 1e-9, 1e-9), (torch.float32, 1e-4, 1e-3)):
        module, given = module.to(dtype), [part.to(dtype) for part in (x, *conditions)]
        kept = given[0].clone()
        with torch.no_grad():
            y, log_det = module(*given)
            back = module.inverse(y, *given[1:])
        assert y.dtype == log_det.dtype == back.dtype == dtype
        assert log_det.shape == x.shape[:1]
        assert back.shape == x.shape
        assert torch.equal(given[0], kept)
        assert (back - given[0]).abs().max() <= inverse
        expected = jacobians(module, *given)
        torch.testing.assert_close(log_det.double(), expected, rtol=determinant, atol=determinant)


# --- layers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.05, 1e-5])
@pytest.mark.parametrize("name", get_args(Preprocessing))
def test_preprocess(name, alpha):
    module, v = Preprocess(name, alpha), 0.02 + 0.96 * uniform(2, 2, 3, 3)
    check_bijection(module, v)


@pytest.mark.parametrize("name", get_args(Preprocessing))
def test_preprocess_takes_what_dequantization_gives(name):
    """Finite at 0 and just below 1, also with an alpha that is nothing to 1 in float32, and never decreasing."""
    module = Preprocess(name, 1e-8)
    v = torch.tensor([0.0, 2.0**-32, 0.5, 1 - 2.0**-23, 1 - 2.0**-24])[:, None, None, None]
    y, log_det = module(v)
    assert y.isfinite().all()
    assert log_det.isfinite().all()
    assert (y.diff(dim=0) >= 0).all()
    torch.testing.assert_close(module(v.double())[1].float(), log_det, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("module", "x"),
    [
        (Squeeze(), normal(2, 3, 4, 4)),
        (Squeeze(3), normal(2, 1, 6, 6)),
        (AlternateSqueeze(), normal(2, 1, 4, 4)),
        (AlternateSqueeze(), normal(2, 3, 2, 2)),
        (Logit(), 0.01 + 0.98 * uniform(2, 2, 3, 3)),
        (Sigmoid(), normal(2, 2, 3, 3) * 2),
        (scrambled(ActNorm(3), 0.5), normal(2, 3, 4, 4)),
        (DiagonalNormal(), normal(2, 2, 3, 3)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_fixed_layers(module, x):
    conditions = (normal(*x.shape, seed=2), normal(*x.shape, seed=3)) if isinstance(module, DiagonalNormal) else ()
    check_bijection(module, x, *conditions)


@pytest.mark.parametrize("channels", [1, 2, 5, 12])
@pytest.mark.parametrize("parametrization", ["lu", "plain"])
@pytest.mark.parametrize("layer", [InvertibleConv1x1, NormalizedConv1x1])
def test_convolutions(layer, parametrization, channels):
    torch.manual_seed(0)
    check_bijection(scrambled(layer(channels, parametrization), 0.1), normal(2, channels, 3, 3))


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("parity", [0, 1])
@pytest.mark.parametrize(("channels", "size", "context"), [(1, 4, 0), (3, 3, 0), (2, 4, 1)])
def test_checkerboard_couplings(transform, parity, channels, size, context):
    make = TRANSFORMS[transform]
    module = CheckerboardCoupling(channels, size, parity, make(channels), small_network, context)
    conditions = (normal(2, context, size, size, seed=2),) if context else ()
    check_bijection(scrambled(module), normal(2, channels, size, size), *conditions)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("channels", "kept"), [(4, 2), (5, 2), (5, 3), (2, 1)])
@pytest.mark.whole
def test_channel_couplings(transform, reverse, channels, kept):
    make_network = partial(ResidualNetwork, hidden_channels=5, num_blocks=1)
    transform = TRANSFORMS[transform](channels - kept)
    module = ChannelCoupling(channels, transform, make_network, kept, reverse=reverse)
    check_bijection(scrambled(module), normal(2, channels, 3, 3))


def test_which_part_a_coupling_keeps():
    """And that the rest depends on it, by the context too."""
    x, seen = normal(2, 2, 4, 4).float(), normal(2, 1, 4, 4, seed=2).float()
    place = torch.arange(4)
    for parity in (0, 1):
        coupling = scrambled(CheckerboardCoupling(2, 4, parity, AffineTransform(2), small_network, 1))
        kept = (place[:, None] + place) % 2 == parity
        y = coupling(x, seen)[0]
        assert torch.equal((y == x).all(0).all(0), kept)
        assert not torch.equal(coupling(x, seen + 1)[0], y)
        assert torch.equal(coupling(torch.where(kept, x, x + 1), seen)[0][..., kept], x[..., kept])
    for reverse in (False, True):
        coupling = scrambled(ChannelCoupling(5, AffineTransform(3), small_network, 2, reverse=reverse))
        same = (coupling(normal(2, 5, 4, 4).float())[0] == normal(2, 5, 4, 4).float()).flatten(2).all(2).all(0)
        assert same.tolist() == ([False] * 3 + [True] * 2 if reverse else [True] * 2 + [False] * 3)


def test_squeezes_put_sub_pixels_where_the_papers_do():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    y = Squeeze()(x)[0]
    assert y[0].flatten(1).tolist() == [[0, 2, 8, 10], [1, 3, 9, 11], [4, 6, 12, 14], [5, 7, 13, 15]]
    alternate = AlternateSqueeze()(x)[0]
    assert alternate[0].flatten(1).tolist() == [[0, 2, 8, 10], [5, 7, 13, 15], [1, 3, 9, 11], [4, 6, 12, 14]]
    x = torch.arange(2 * 3 * 16.0).view(2, 3, 4, 4)
    assert torch.equal(Squeeze()(x)[0], pixel_unshuffle(x, 2))
    place = torch.arange(4)
    even = (place[:, None] + place) % 2 == 0
    for image, squeezed in zip(x, AlternateSqueeze()(x)[0], strict=True):
        assert set(squeezed[:6].flatten().tolist()) == set(image[:, even].flatten().tolist())
        assert squeezed[:3, 0, 0].tolist() == image[:, 0, 0].tolist()  # all channels of one sub-pixel together


@pytest.mark.parametrize("parametrization", ["lu", "plain"])
def test_a_normalized_convolution_is_actnorm_then_convolution(parametrization):
    torch.manual_seed(0)
    module, x = scrambled(NormalizedConv1x1(5, parametrization)).double(), normal(3, 5, 4, 4)
    y, log_det = module(x)
    between, first = module.actnorm(x)
    expected, second = module.convolution(between)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(log_det, first + second, rtol=1e-12, atol=1e-12)


def test_both_convolutions_agree_where_the_matrix_is_the_same():
    torch.manual_seed(0)
    lu, plain, x = scrambled(InvertibleConv1x1(6)).double(), InvertibleConv1x1(6, "plain").double(), normal(2, 6, 3, 3)
    plain.weight.data.copy_(lu.matrix(torch.float64))
    for found, expected in zip(lu(x), plain(x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(lu.inverse(x), plain.inverse(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(lu(x)[0], torch.einsum("oc,bchw->bohw", lu.matrix(x.dtype), x))


@pytest.mark.parametrize("parametrization", ["lu", "plain"])
def test_a_convolution_starts_as_a_rotation(parametrization):
    torch.manual_seed(0)
    convolution, x = InvertibleConv1x1(24, parametrization), normal(2, 24, 8, 8).float()
    matrix = convolution.matrix(torch.float64)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(24, dtype=torch.float64), atol=1e-5, rtol=0)
    y, log_det = convolution(x)
    assert log_det.abs().max() < 2e-3  # 64 pixels of 24 float32 terms
    assert (convolution.inverse(y) - x).abs().max() < 1e-5


def test_priors_are_bijections_of_what_they_stand_for():
    """A split's of the second half given the first; the top's of all, by class."""
    split, top = scrambled(SplitPrior(5)).double(), scrambled(TopPrior(3, 4)).double()
    x, z, labels = normal(2, 5, 3, 3), normal(2, 3, 3, 3), torch.tensor([1, 3])
    kept, eps, log_det = split(x)
    assert torch.equal(kept, x[:, :2])
    torch.testing.assert_close(split.inverse(kept, eps), x, rtol=1e-12, atol=1e-12)
    both = jacobians(lambda one: (torch.cat(split(one)[:2], dim=1),), x)
    torch.testing.assert_close(log_det, both, rtol=1e-9, atol=1e-9)
    mean, logs = (top.moments + top.of_class[3]).detach()
    eps, log_det = top(z, labels)
    torch.testing.assert_close(eps[1], (z[1] - mean[:, None, None]) / logs.exp()[:, None, None])
    assert log_det[1].item() == pytest.approx(-9 * logs.sum().item(), abs=1e-12)
    torch.testing.assert_close(top.inverse(eps, labels), z, rtol=1e-12, atol=1e-12)


# --- at initial weights ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", ["affine", "additive", "spline"])
def test_couplings_start_as_the_identity(transform):
    make, x = TRANSFORMS[transform], normal(3, 3, 4, 4).float()
    boards = CheckerboardCoupling(3, 4, 1, make(3), small_network)
    channels = ChannelCoupling(3, make(2), partial(ResidualNetwork, hidden_channels=5, num_blocks=1), 1)
    for coupling in (boards, channels):
        y, log_det = coupling(x)
        tolerance = 1e-5 if transform == "spline" else 0.0
        torch.testing.assert_close(y, x, rtol=0, atol=tolerance)
        torch.testing.assert_close(log_det, torch.zeros(3), rtol=0, atol=10 * tolerance)


def test_glow_s_affine_coupling_starts_as_a_constant_contraction():
    x = normal(3, 5, 4, 4).float()
    coupling = ChannelCoupling(5, SigmoidTransform(), small_network, 2)
    y, log_det = coupling(x)
    torch.testing.assert_close(y[:, 2:], x[:, 2:] * torch.sigmoid(torch.tensor(2.0)))
    assert (log_det / (3 * 16)).tolist() == pytest.approx([LN_SIGMOID_2] * 3, abs=1e-6)


def test_an_untrained_glow_is_made_of_rotations_and_that_contraction():
    flow, v = initialized(Glow(8, 1, num_levels=2, num_steps=3, hidden_channels=4)), uniform(2, 1, 8, 8).float()
    moved = 3 * (64 // 2) + 3 * (32 // 2)  # half of each level's values, in each of its steps
    assert flow(v)[1].tolist() == pytest.approx([moved * LN_SIGMOID_2] * 2, abs=2e-3)


# --- whole models ---------------------------------------------------------------------------------------------------


def drawn_flow(seed):
    """A flow of random options, its classes, and what they are."""
    pick = random.Random(seed)
    preprocessing, coupling = pick.choice(get_args(Preprocessing)), pick.choice(["affine", "additive", "spline"])
    options = {
        "in_channels": pick.randint(1, 3),
        "hidden_channels": pick.randint(2, 6),
        "coupling": coupling,
        "preprocessing": preprocessing,
        "alpha": pick.choice([0.05, 1e-3]),
        "num_bins": pick.randint(2, 6),
        "spline_bound": pick.choice([1.0, 3.0]),
    }
    if pick.random() < 0.5:
        scales = pick.randint(1, 3)
        options |= {"num_scales": scales, "num_couplings": pick.randint(1, 3), "num_blocks": pick.randint(0, 2)}
        size = 2 ** (scales - 1) * pick.choice([1, 2] if scales > 1 else [2, 3, 4])
        return RealNVP(size, **options), None, options
    factor = pick.choice([2, 2, 3])
    levels = 1 if factor == 3 else pick.randint(1, 3)
    size = factor**levels * pick.choice([1, 1, 2] if factor**levels < 4 else [1])
    classes = pick.choice([None, 3])
    options |= {"num_levels": levels, "num_steps": pick.randint(1, 3), "squeeze_factor": factor}
    options |= {"coupling": pick.choice([coupling, "none"]), "convolution": pick.choice(["lu", "plain"])}
    return Glow(size, num_classes=classes, **options), classes, options


@pytest.mark.parametrize("seed", [pytest.param(i, marks=pytest.mark.slow if i > 7 else ()) for i in range(25)])
@pytest.mark.whole
def test_any_flow_is_a_bijection_with_the_determinant_that_it_says(seed):
    torch.manual_seed(seed)
    flow, classes, options = drawn_flow(seed)
    size, channels = flow.config.sample_size, flow.config.in_channels
    scrambled(flow, 0.05 if options["coupling"] == "spline" else 0.1, seed)  # float32 bears no slopes of e^-10
    v = 0.01 + 0.98 * uniform(2, channels, size, size, seed=seed)
    labels = None if classes is None else torch.tensor([0, classes - 1])
    for dtype, determinant, inverse in ((torch.float64, 1e-9, 1e-9), (torch.float32, 1e-4, 1e-3)):
        x = v.to(dtype)
        flow.to(dtype)
        with torch.no_grad():
            latents, log_det = flow(x, labels)
            back = flow.inverse(latents, labels)
        assert latents.shape == (2, channels * size**2), options
        assert latents.dtype == log_det.dtype == back.dtype == dtype
        assert (back - x).abs().max() <= inverse, options
        if dtype == torch.float64:
            with torch.no_grad():
                there = flow(back, labels)[0]
            assert (there - latents).abs().max() <= 1e-9 * latents.abs().max().clamp(min=1), options
        expected = jacobians(flow, x, labels)
        torch.testing.assert_close(log_det.double(), expected, rtol=determinant, atol=determinant, msg=str(options))


@pytest.mark.parametrize(("channels", "size", "num_bits"), [(1, 4, 8), (3, 3, 5), (1, 2, 1)])
def test_the_variational_dequantizer_knows_its_density(channels, size, num_bits):
    """ln q(u|x) = -ln|det du/du0|, of the map of the noise at this image."""
    torch.manual_seed(0)
    module = scrambled(VariationalDequantizer(size, channels, num_bits, hidden_channels=4, num_couplings=3))
    levels = torch.randint(2**num_bits, (2, channels, size, size))

    def turned(u0, x):
        return module(x, u0)

    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
        module, x = module.to(dtype), levels.to(dtype)
        start = (0.02 + 0.96 * uniform(*levels.shape)).to(dtype)
        v, log_q = module(x, start)
        u = v * 2**num_bits - x
        assert ((u > 0) & (u < 1)).all()
        assert (u - start).abs().max() > 0.05
        found = jacobians(turned, start, x) + u[0].numel() * math.log(2**num_bits)  # of u, not of v = (x + u) / n
        torch.testing.assert_close(log_q.double(), -found, rtol=tolerance, atol=tolerance)
        z, context = module.logit(u)[0], x * (2 / (2**num_bits - 1)) - 1
        for coupling in reversed(module.couplings):
            z = coupling.inverse(z, context)
        torch.testing.assert_close(module.sigmoid(z)[0], start, rtol=0, atol=1e-9 if tolerance < 1e-8 else 1e-3)


def test_the_variational_dequantizer_takes_any_noise():
    """Finite at 0 and at 1, where the logit is not."""
    module = scrambled(VariationalDequantizer(2, 1, hidden_channels=4), 0.3)
    start = torch.tensor([0.0, 2.0**-24, 1 - 2.0**-24, 1.0]).view(1, 1, 2, 2)
    v, log_q = module(torch.tensor([0.0, 255, 0, 255]).view(1, 1, 2, 2), start)
    assert log_q.isfinite().all()
    assert ((v >= 0) & (v < 1)).all()
    assert UniformDequantizer()(torch.full((1, 1, 2, 2), 255.0), start)[0].max() < 1
