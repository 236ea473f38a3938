"""Flows: bits per dimension against values known without training, and probabilities that sum to what they must."""

import itertools
import math

import pytest
import torch

from hfgen import PriorScheduler
from hfgen.data.load import load_images
from hfgen.errors import CheckError, UsageError
from hfgen.likelihood import bits_per_dim, levels_to_images
from hfgen.noise import SeededNoise, StepNoise
from hfgen.settings.resolve import resolve
from hfgen.testing import make_data
from hfgen.training.trainer import Trainer
from hfgen_flow.bijections import ActNorm, Preprocess, initialize
from hfgen_flow.couplings import CheckerboardCoupling
from hfgen_flow.dequantization import UniformDequantizer, VariationalDequantizer
from hfgen_flow.flow import FlowObjective, log_probability
from hfgen_flow.glow import Glow, GlowPipeline
from hfgen_flow.realnvp import RealNVPPipeline

VARIATIONAL = {"dequantizer.class_name": "VariationalDequantizer", "dequantizer.hidden_channels": 4}


def initialized(pipeline):
    """Its actnorms as they are count as initialized."""
    for model in pipeline.models().values():
        for part in model.modules():
            if isinstance(part, ActNorm):
                part.initialized.fill_(True)
    return pipeline


def identity(family, size, **options):
    """A flow whose latents are the preprocessed image: couplings and actnorms as they start, no rotation."""
    if options.get("scheduler.distribution") == "uniform":  # which is refused of a flow, but exact of this one
        pipeline = identity(family, size, **{n: v for n, v in options.items() if n != "scheduler.distribution"})
        pipeline.scheduler = PriorScheduler([size**2], "uniform")
        return pipeline
    if family == "realnvp":
        tiny = {"flow.num_scales": 1, "flow.num_couplings": 1, "flow.hidden_channels": 2, "flow.num_blocks": 0}
        return initialized(RealNVPPipeline.build(size, 1, **{**tiny, **options}))
    tiny = {"flow.num_levels": 1, "flow.num_steps": 1, "flow.coupling": "none", "flow.convolution": "plain"}
    pipeline = GlowPipeline.build(size, 1, **{**tiny, **options})
    for step in pipeline.flow.levels[0].steps:
        step.mix.convolution.weight.data = torch.eye(len(step.mix.convolution.weight))
    return initialized(pipeline)


FLOWS = ["realnvp", "glow"]


def bounds(pipeline, levels, u):
    """ln p(v) - ln q(u|x) - D ln n of given noise: what `log_likelihood` takes the mean of exp of, float64."""
    flow, dequantizer = pipeline.flow, pipeline.dequantizer
    with torch.no_grad():
        v, log_q = dequantizer(levels, u)
        latents, log_det = flow(v)
        log_prior = pipeline.scheduler.log_prob(latents)
    return log_probability(log_prior, log_det, log_q, levels[0].numel(), pipeline.num_values).double()


def all_bytes(count=1):
    """Images of 16x16 pixels, of which each is another byte."""
    return (torch.arange(256) / 127.5 - 1).view(1, 1, 16, 16).expand(count, -1, -1, -1)


def midpoints(count):
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


# --- the table ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_bits", [8, 5, 1])
@pytest.mark.parametrize("family", FLOWS)
def test_uniform_bytes_have_as_many_bits_as_they_are_written_with(family, num_bits):
    options = {"flow.preprocessing": "unit", "scheduler.distribution": "uniform", "dequantizer.num_bits": num_bits}
    found = identity(family, 16, **options).log_likelihood(all_bytes(3), num_importance_samples=2)
    assert found.num_values == 2**num_bits
    assert found.bits_per_dim.tolist() == pytest.approx([num_bits] * 3, abs=1e-5)


@pytest.mark.parametrize(
    ("preprocessing", "alpha", "expected"),
    [("logit_2alpha", 0.05, 8.152003), ("logit_alpha", 0.05, 8.074001), ("logit_halfalpha", 1e-5, 8.000014)],
)
@pytest.mark.parametrize("family", FLOWS)
def test_the_logistic_base_is_uniform_after_a_logit(family, preprocessing, alpha, expected):
    """For every image and every draw: the density is that of the part of [0, 1] that the logit is given."""
    options = {"flow.preprocessing": preprocessing, "flow.alpha": alpha, "scheduler.distribution": "logistic"}
    found = identity(family, 16, **options).log_likelihood(all_bytes(4))
    assert found.bits_per_dim.tolist() == pytest.approx([expected] * 4, abs=1e-4)


@pytest.mark.parametrize(
    ("level", "z", "log_det", "bits"),
    [
        (0, -2.908035, -2.636213, 11.229193),
        (255, 2.908035, -2.636213, 11.229193),
        (127, -0.007031, -4.264231, 7.477769),
        (128, 0.007031, -4.264231, 7.477769),
    ],
)
def test_single_pixels_at_half(level, z, log_det, bits):
    """Latent and ln-Jacobian of (level + u) / 256, u = 1/2, which has -ln 256 of the latter."""
    v, log_q = UniformDequantizer()(torch.full((1, 1, 1, 1), float(level)), torch.full((1, 1, 1, 1), 0.5))
    y, found = Preprocess("logit_2alpha", 0.05)(v)
    assert y.item() == pytest.approx(z, abs=1e-4)
    assert found.item() - math.log(256) == pytest.approx(log_det, abs=1e-4)
    log_prior = PriorScheduler([1]).log_prob(y.flatten(1))
    nats = log_probability(log_prior, found, log_q, 1, 256)
    assert bits_per_dim(nats, 1).item() == pytest.approx(bits, abs=1e-4)


@pytest.mark.parametrize("family", FLOWS)
@pytest.mark.parametrize(
    ("preprocessing", "expected"), [("logit_2alpha", 8.207529), ("glow", 9.385860), ("unit", 8.566197)]
)
def test_uniform_bytes_under_a_normal_base(family, preprocessing, expected):
    """The mean over u by quadrature; and `log_likelihood`'s own draws, within four standard errors of it."""
    pipeline = identity(family, 16, **{"flow.preprocessing": preprocessing, "flow.alpha": 0.05})
    u = midpoints(32).float()[:, None, None, None].expand(-1, 1, 16, 16)
    levels = torch.arange(256.0).view(1, 1, 16, 16).expand(32, -1, -1, -1)
    nats = bounds(pipeline, levels, u)
    assert bits_per_dim(nats.mean(), 256).item() == pytest.approx(expected, abs=1e-4)
    drawn = pipeline.log_likelihood(all_bytes(64)).bits_per_dim
    assert drawn.mean().item() == pytest.approx(expected, abs=4 * drawn.std().item() / 8)


@pytest.mark.parametrize(
    ("preprocessing", "bits"), [("unit", 7.0), ("glow", 8.0), ("logit_2alpha", None), ("logit_halfalpha", None)]
)
def test_the_constants_of_the_conventions(preprocessing, bits):
    """-log2 of the width that a byte has where the prior stands: 8 of v - 1/2, 7 of 2 v - 1; a logit's are no
    constant: ln scale - ln y - ln(1 - y) - ln 256."""
    alpha = 0.05
    v = (torch.arange(256, dtype=torch.float64)[:, None, None, None] + 0.5) / 256
    log_det = Preprocess(preprocessing, alpha)(v)[1] - math.log(256)
    if bits is not None:
        assert (-log_det / math.log(2)).tolist() == pytest.approx([bits] * 256, abs=1e-12)
        return
    low, scale = {"logit_2alpha": (alpha, 1 - 2 * alpha), "logit_halfalpha": (alpha / 2, 1 - alpha)}[preprocessing]
    y = (low + scale * v).flatten()
    torch.testing.assert_close(log_det, math.log(scale) - y.log() - (1 - y).log() - math.log(256))


def test_the_same_alpha_is_another_map_under_another_name():
    """The top pixel with u -> 1: (a) reaches a logit of 6.29, (b) 2.91 at its middle."""
    top = torch.full((1, 1, 1, 1), 255.5 / 256, dtype=torch.float64)
    found = [Preprocess(name, 0.05)(top)[0].item() for name in ("logit_alpha", "logit_2alpha")]
    assert found == pytest.approx([6.29, 2.91], abs=0.01)


def test_an_objective_s_loss_is_those_bits():
    options = {"flow.preprocessing": "logit_2alpha", "flow.alpha": 0.05, "scheduler.distribution": "logistic"}
    pipeline = identity("realnvp", 16, **options)
    objective = FlowObjective(pipeline.flow, pipeline.dequantizer, pipeline.scheduler)
    objective.noise = StepNoise(0, 0, slice(0, 2), 2)
    update = next(objective.training_step({"pixel_values": all_bytes(2)}))
    assert update.loss.item() == pytest.approx(8.152003, abs=1e-4)
    assert update.loss_name == "bits_per_dim"


# --- probabilities sum to the base's mass ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preprocessing", "alpha", "distribution", "expected"),
    [
        ("logit_2alpha", 0.05, "logistic", 0.900000),
        ("logit_2alpha", 0.05, "normal", 0.996765),
        ("logit_2alpha", 1e-5, "normal", 1.0),
        ("glow", 0.05, "normal", 0.382925),
        ("unit", 0.05, "uniform", 1.0),
    ],
)
def test_one_pixel_of_two_bits(preprocessing, alpha, distribution, expected):
    """P(x), the integral over u, summed over the four images: the base's mass in the image box."""
    options = {"flow.preprocessing": preprocessing, "flow.alpha": alpha, "scheduler.distribution": distribution}
    pipeline = identity("realnvp", 1, **options, **{"dequantizer.num_bits": 2})
    pipeline.flow.double()
    u = midpoints(2000)[:, None, None, None]
    nats = torch.stack([bounds(pipeline, torch.full_like(u, level), u) for level in range(4)])
    probabilities, lower = nats.exp().mean(1), nats.mean(1).exp()
    assert probabilities.sum().item() == pytest.approx(expected, abs=1e-4)
    assert (lower <= probabilities + 1e-12).all()
    if (preprocessing, alpha, distribution) == ("logit_2alpha", 0.05, "normal"):
        assert probabilities.tolist() == pytest.approx([0.164555, 0.333827, 0.333827, 0.164555], abs=1e-5)
        assert lower.sum().item() == pytest.approx(0.947540, abs=1e-4)


@pytest.mark.whole
def test_many_importance_samples_come_to_the_same_probabilities():
    """By `log_likelihood` itself: its K draws estimate each P(x)."""
    options = {"flow.preprocessing": "logit_2alpha", "flow.alpha": 0.05, "dequantizer.num_bits": 2}
    pipeline = identity("realnvp", 1, **options)
    images = levels_to_images(torch.arange(4.0).view(4, 1, 1, 1), 4)
    found = pipeline.log_likelihood(images, num_importance_samples=20000).nats.exp()
    assert found.tolist() == pytest.approx([0.164555, 0.333827, 0.333827, 0.164555], abs=5e-3)


TINY_FLOWS = {
    "realnvp": (RealNVPPipeline, {"flow.num_scales": 2, "flow.num_couplings": 2}),
    "spline": (RealNVPPipeline, {"flow.num_scales": 1, "flow.num_couplings": 2, "flow.coupling": "spline"}),
    "variational": (RealNVPPipeline, {"flow.num_scales": 1, "flow.num_couplings": 2, **VARIATIONAL}),
    "glow": (GlowPipeline, {"flow.num_levels": 1, "flow.num_steps": 2}),
    "linear": (GlowPipeline, {"flow.num_levels": 1, "flow.num_steps": 2, "flow.coupling": "none"}),
}
SIXTEEN = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4))).view(16, 1, 2, 2)


def random_flow(name, **options):
    """Of 2x2 pixels of one bit, with random weights."""
    torch.manual_seed(3)
    cls, tiny = TINY_FLOWS[name]
    pipeline = cls.build(2, 1, **{"dequantizer.num_bits": 1, "flow.hidden_channels": 4, **tiny, **options})
    for model in pipeline.models().values():
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.06)
    return initialized(pipeline)


def sixteen_probabilities(pipeline, count=2**12):
    """P(x) of all images, each the mean over the same low-discrepancy draws of u."""
    u = torch.quasirandom.SobolEngine(4, scramble=True, seed=0).draw(count).view(count, 1, 2, 2)
    return torch.stack([bounds(pipeline, x.expand(count, -1, -1, -1), u).exp().mean() for x in SIXTEEN])


@pytest.mark.parametrize("name", TINY_FLOWS)
@pytest.mark.whole
def test_sixteen_probabilities_sum_to_one(name):
    """A logit with a small alpha reaches all of the space, so sixteen probabilities sum to 1."""
    pipeline = random_flow(name, **{"flow.preprocessing": "logit_2alpha", "flow.alpha": 1e-6})
    found = sixteen_probabilities(pipeline)
    assert found.max() > 1.3 * found.min(), "no more than a uniform flow"
    assert found.sum().item() == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize(("name", "preprocessing"), [("spline", "logit_2alpha"), ("glow", "unit"), ("linear", "glow")])
@pytest.mark.whole
def test_what_is_missing_lies_outside_the_box(name, preprocessing):
    """The sum is the share of the prior's samples that the inverse maps to images: no log-determinant in that."""
    pipeline = random_flow(name, **{"flow.preprocessing": preprocessing, "flow.alpha": 0.1})
    found = sixteen_probabilities(pipeline).sum().item()
    count = 20000
    with torch.no_grad():
        z = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
        v = pipeline.flow.inverse(z).flatten(1)
    mass = ((v >= 0) & (v < 1)).all(1).double().mean().item()
    assert 0.001 < mass < 0.999
    assert found == pytest.approx(mass, abs=4 * math.sqrt(mass * (1 - mass) / count) + 1e-3 * mass)


# --- importance samples ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, VARIATIONAL], ids=["uniform", "variational"])
def test_the_bound_of_k_draws_is_the_log_mean_of_single_ones(options):
    pipeline = random_flow("realnvp", **options, **{"dequantizer.num_bits": 3})
    levels = torch.randint(8, (5, 1, 2, 2), generator=torch.Generator().manual_seed(0)).float()
    found = pipeline.log_likelihood(levels_to_images(levels, 8), seeds=[9, 4, 7, 1, 2], num_importance_samples=6)
    assert (found.kind, found.num_importance_samples, found.num_values) == ("lower bound", 6, 8)
    u = SeededNoise.from_seeds([9, 4, 7, 1, 2]).uniform(6, 1, 2, 2)
    single = torch.stack([bounds(pipeline, levels, u[:, k]) for k in range(6)], dim=1)
    torch.testing.assert_close(found.nats, single.logsumexp(1) - math.log(6), rtol=0, atol=1e-5)
    assert single.std(1).min() > 1e-3


@pytest.mark.whole
def test_the_bound_rises_with_k():
    """On average over the draws of one image; K = 1 is the mean of ln p, and many come to ln P."""
    pipeline = random_flow("realnvp", **{"flow.preprocessing": "logit_2alpha", "flow.alpha": 0.05})
    image = (SIXTEEN[5:6] * 2 - 1).expand(2000, -1, -1, -1)
    found = [pipeline.log_likelihood(image, num_importance_samples=k).nats for k in (1, 3, 10)]
    means = [float(nats.mean()) for nats in found]
    assert means == sorted(means)
    assert means[1] - means[0] > 3 * float(found[0].std()) / math.sqrt(2000), "no draw matters"
    exact = sixteen_probabilities(pipeline)[5].log().item()
    assert means[-1] <= exact + 1e-3
    many = pipeline.log_likelihood(image[:20], num_importance_samples=1000).nats.mean().item()
    assert many == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize("num_bits", [8, 3])
def test_a_variational_dequantizer_starts_as_the_uniform_one(num_bits):
    """Also after its actnorms have seen a batch."""
    torch.manual_seed(0)
    levels, u = torch.randint(2**num_bits, (6, 3, 4, 4)).float(), torch.rand(6, 3, 4, 4)
    learned, uniform = VariationalDequantizer(4, 3, num_bits), UniformDequantizer(num_bits)
    for _ in range(2):
        v, log_q = learned(levels, u)
        torch.testing.assert_close(v, uniform(levels, u)[0], rtol=0, atol=1e-6)
        assert log_q.abs().max() < 1e-3  # of 48 terms that cancel in float32
        assert (uniform(levels, u)[1] == 0).all()
        initialize(learned, levels, u)
    assert learned.double()(levels.double(), u.double())[1].abs().max() < 1e-9
    assert all(isinstance(coupling, CheckerboardCoupling) for coupling in learned.couplings)


# --- what is no number, no byte, or no level ------------------------------------------------------------------------


def poisoned(where):
    pipeline = random_flow("glow")
    flow = pipeline.flow
    step = flow.levels[0].steps[0]
    tensor = {
        "actnorm": step.mix.actnorm.bias,
        "convolution": step.mix.convolution.log_s,
        "network": step.coupling.network.second.weight,
        "prior": flow.top.moments,
    }[where]
    tensor.data.flatten()[0] = math.nan
    return pipeline


@pytest.mark.parametrize("where", ["actnorm", "convolution", "network", "prior"])
def test_nan_is_an_error_and_is_not_dropped(where):
    with pytest.raises(CheckError, match="log-likelihood of image 0 is nan"):
        poisoned(where).log_likelihood(SIXTEEN * 2 - 1)


def test_one_nan_among_many_draws_is_an_error():
    """Of one image, and of one of its draws."""
    pipeline = random_flow("realnvp")
    original, calls = pipeline.scheduler.log_prob, []

    def broken(latents):
        found = original(latents)
        calls.append(len(found))
        found[7] = math.nan
        return found

    pipeline.scheduler.log_prob = broken
    with pytest.raises(CheckError, match="log-likelihood of image 1 is nan"):
        pipeline.log_likelihood(SIXTEEN[:3] * 2 - 1, num_importance_samples=5)
    assert calls == [15]


def trainer_of(pipeline, folder, **settings):
    size = pipeline.flow.config.sample_size
    data = make_data(folder / "blobs.npz", size, 1, count=8)
    settings = {"train_batch_size": 4, "max_train_steps": 3, "logging_steps": 1, **settings}
    arguments = resolve([("test", settings)], "glow", type(pipeline)).arguments
    return Trainer(pipeline, load_images(str(data)), arguments)


def test_training_stops_at_nan(tmp_path):
    run = trainer_of(GlowPipeline.build(8, 1, **{"flow.num_steps": 1, "flow.hidden_channels": 4}), tmp_path)
    steps = run.steps()
    assert next(steps) == 1
    run.pipeline.flow.levels[0].steps[0].coupling.network.last.bias.data[0] = math.nan
    with pytest.raises(CheckError, match="is nan within the 1 steps up to 2; the training stopped"):
        next(steps)


def test_images_between_bytes_are_refused():
    """Resized in floating point, or scaled by 256 instead of 255."""
    pipeline = identity("realnvp", 8)
    gray = torch.randint(256, (2, 1, 16, 16), generator=torch.Generator().manual_seed(0)) / 127.5 - 1
    resized = torch.nn.functional.interpolate(gray, 8, mode="bilinear", antialias=True)
    for call in (pipeline.log_likelihood, pipeline.encode, pipeline.round_trip):
        with pytest.raises(UsageError, match="The likelihood is of bytes.*\n.*not resized"):
            call(resized)
    off = torch.arange(64).view(1, 1, 8, 8) / 128 - 1
    with pytest.raises(UsageError, match="values in between"):
        pipeline.log_likelihood(off)
    assert pipeline.log_likelihood(gray[..., :8, :8]).nats.isfinite().all()


@pytest.mark.parametrize("family", ["realnvp", "glow"])
@pytest.mark.parametrize("num_bits", [8, 5, 1])
def test_samples_take_the_values_that_images_have(family, num_bits):
    options = {"dequantizer.num_bits": num_bits, "scheduler.temperature": 3.0}
    cls = {"realnvp": RealNVPPipeline, "glow": GlowPipeline}[family]
    torch.manual_seed(0)
    small = {"flow.hidden_channels": 2, "flow.preprocessing": "logit_2alpha", "flow.alpha": 0.05}
    pipeline = initialized(cls.build(16, 1, **small, **options))
    images = pipeline(seeds=range(40), output_type="pt").images
    expected = (levels_to_images(torch.arange(2.0**num_bits), 2**num_bits) + 1) / 2
    distance = (images.flatten()[:, None] - expected).abs().min(1).values
    assert distance.max() < 1e-6
    assert images.min() == 0
    assert images.max() == 1
    taken = len((images * 255).round().unique())
    assert 0.8 * 2**num_bits < taken <= 2**num_bits
    pixels = pipeline.log_likelihood(images * 2 - 1)
    assert pixels.nats.isfinite().all()


def test_noise_that_rounds_to_the_next_value_changes_no_pixel():
    """Above 128, x + u is x + 1 in float32 where u is within 2^-18 of 1: one pixel in 131,000."""
    pipeline = identity("realnvp", 28)
    draws = ((seed, SeededNoise.from_seeds([seed]).uniform(1, 28, 28).max()) for seed in range(3000))
    seed = next(seed for seed, highest in draws if highest > 1 - 2.0**-18)
    image = torch.full((1, 1, 28, 28), 200 / 127.5 - 1)
    assert torch.equal(pipeline.decode(pipeline.encode(image, seeds=[seed])), image)


# --- size -----------------------------------------------------------------------------------------------------------


@pytest.mark.whole
def test_the_parameters_of_the_paper_s_cifar_10_model():
    """44.14 million in the paper's code without its border channel: 44,135,856, of which 83,136 are a convolution of
    zeros, 96 -> 96 channels, that makes the top prior's 96 moments; here these themselves are learned. An LU
    convolution holds two matrices and a diagonal, C^2 + C more than its weight."""
    counts = {}
    for convolution in ("plain", "lu"):
        with torch.device("meta"):
            flow = Glow(32, 3, num_levels=3, num_steps=32, hidden_channels=512, convolution=convolution)
        counts[convolution] = sum(parameter.numel() for parameter in flow.parameters())
    assert counts["plain"] == 44_135_856 - (96 * 96 * 9 + 2 * 96) + 96
    assert counts["lu"] == counts["plain"] + 32 * sum(c**2 + c for c in (12, 24, 48))
    assert counts["lu"] == 44_152_272
    assert all(abs(count / 44.14e6 - 1) < 0.003 for count in counts.values())
