"""Flows as a user meets them: training with a known answer, certificates, latents, errors."""

import json
import math

import pytest
import torch
from diffusers import DDPMScheduler

from hfgen import HFGenPipeline, PriorScheduler, load_images
from hfgen.errors import CheckError, LoadError, UsageError
from hfgen.registry import get_family
from hfgen.run_folder import read_metrics
from hfgen.settings.options import nest_options
from hfgen.settings.resolve import resolve
from hfgen.testing import make_data
from hfgen.training import run
from hfgen.training.trainer import Trainer
from hfgen_flow.bijections import ActNorm
from hfgen_flow.precision import without_tf32

SIZE = 8
TINY = {
    "glow": {"flow.num_levels": 1, "flow.num_steps": 2, "flow.hidden_channels": 8},
    "realnvp": {"flow.num_couplings": 2, "flow.hidden_channels": 6, "flow.num_blocks": 1},
}
FAMILIES = sorted(TINY)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(make_data(tmp_path_factory.mktemp("data") / "blobs.npz", SIZE, 1, count=64))


def train(family, data, folder):
    """A tiny pipeline, trained."""
    cls = get_family(family).load()
    settings = {"train_batch_size": 16, "max_train_steps": 60, "checkpointing_steps": 0, "logging_steps": 20}
    settings |= {"num_validation_images": 4, "validation_steps": 0, "use_ema": False}
    settings |= {"dataset_name": data, **nest_options(TINY[family])}
    run.train(resolve([("test", settings)], family, cls), cls, folder, say=lambda line: None)
    return HFGenPipeline.from_pretrained(folder)


@pytest.fixture(scope="module", params=FAMILIES)
def trained(request, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "run"
    pipeline = train(request.param, data, folder)
    return pipeline, folder


def gaussian_bits(train_images, test_images):
    """Bits per dimension of test bytes under the Gaussian with the mean and covariance of dequantized training bytes;
    the expectation over u in closed form."""
    a, b = (((x.flatten(1).double() + 1) * 127.5).round() / 256 for x in (train_images, test_images))
    noise = 1 / 12 / 256**2  # the variance of u / 256
    covariance = torch.cov(a.T, correction=0) + noise * torch.eye(a.shape[1])
    lower = torch.linalg.cholesky(covariance)
    z = torch.linalg.solve_triangular(lower, (b - a.mean(0)).T, upper=False)
    quadratic = z.square().sum(0).mean() + noise * torch.cholesky_inverse(lower).diagonal().sum()
    dimensions = a.shape[1]
    nats = 0.5 * (quadratic + dimensions * math.log(2 * math.pi)) + lower.diagonal().log().sum()
    return float(nats / dimensions / math.log(2) + 8)


def linear_data(path):
    """Correlated gray levels of 4x4 images, away from black and white."""
    import numpy as np

    random = np.random.default_rng(0)
    mixing = random.normal(size=(16, 16)) * 4 + np.eye(16) * 12
    levels = (128 + random.normal(size=(2000, 16)) @ mixing.T).round().clip(0, 255)
    np.savez(path, images=levels.reshape(-1, 4, 4).astype("uint8"))
    return str(path)


@pytest.mark.parametrize("convolution", ["lu", pytest.param("plain", marks=pytest.mark.slow)])
def test_a_linear_flow_learns_the_gaussian_of_the_data(tmp_path, convolution):
    """Maximum likelihood among linear flows has a closed form: training must arrive there, and cannot go below."""
    data = linear_data(tmp_path / "linear.npz")
    cls = get_family("glow").load()
    options = {"squeeze_factor": 4, "num_steps": 1, "coupling": "none", "preprocessing": "glow"}
    torch.manual_seed(0)
    overrides = {**options, "convolution": convolution}
    pipeline = cls.build(4, 1, **{f"flow.{name}": value for name, value in overrides.items()})
    settings = {"train_batch_size": 200, "max_train_steps": 400, "learning_rate": 0.05, "lr_scheduler": "cosine"}
    settings |= {"checkpointing_steps": 0, "max_grad_norm": None, "use_ema": False}
    config = resolve([("test", settings)], "glow", cls)
    images = load_images(data)
    Trainer(pipeline, images, config.arguments).train()
    x = images.tensor(range(len(images)))
    expected = gaussian_bits(x, x)
    found = float(pipeline.log_likelihood(x).bits_per_dim.mean())
    assert found == pytest.approx(expected, abs=0.005)
    started = cls.build(4, 1, **{f"flow.{name}": value for name, value in overrides.items()})
    started.flow.levels[0].steps[0].mix.actnorm.initialized.fill_(True)
    assert float(started.log_likelihood(x).bits_per_dim.mean()) > expected + 1, "nothing was to be learned"


@pytest.mark.whole
def test_bits_per_dim_fall_and_images_come_back(trained, data):
    pipeline, folder = trained
    lines = read_metrics(folder)
    assert lines[-1]["bits_per_dim"] < lines[0]["bits_per_dim"] - 0.3
    assert lines[-1]["diagnosis"]["round_trip_changed_values"] == 0
    assert lines[-1]["diagnosis"]["round_trip_error"] < 1e-3
    images = load_images(data).tensor(range(32))
    once = pipeline.reconstruct(images)
    assert torch.equal(((once + 1) * 127.5).round(), ((images + 1) * 127.5).round())


@pytest.mark.whole
def test_a_trained_flow_is_still_a_change_of_variables(trained, data):
    """Its log-determinant is the Jacobian's in float64, and its inverse is one."""
    pipeline = HFGenPipeline.from_pretrained(trained[1], dtype=torch.float64)
    x = load_images(data).tensor(range(1)).double() * 0.99
    with torch.no_grad():
        latents, log_det = pipeline.to_latents(x)
        assert (pipeline.from_latents(latents) - x).abs().max() < 2e-9
    jacobian = torch.autograd.functional.jacobian(lambda image: pipeline.to_latents(image)[0], x, vectorize=True)
    expected = torch.linalg.slogdet(jacobian.reshape(SIZE**2, SIZE**2))[1]
    torch.testing.assert_close(log_det[0], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.whole
def test_the_card_tells_the_certificate(trained):
    card = (trained[1] / "README.md").read_text()
    assert "| round trip error |" in card
    assert "| round trip changed values | 0 |" in card
    assert "| bits per dim |" in card


@pytest.mark.whole
def test_loading_verifies_the_round_trip(trained, tmp_path):
    """A flow that cannot be inverted in float32 is not loaded, unless its user says so."""
    pipeline = HFGenPipeline.from_pretrained(trained[1])
    parts = pipeline.flow.named_modules()
    norm = next(part for name, part in parts if type(part) is ActNorm and "network" not in name)
    norm.logs.data[0] -= 40  # far below what float32 tells apart from what is added to it
    norm.bias.data[0] += 1e7
    pipeline.save_pretrained(tmp_path)
    with pytest.raises(LoadError, match=r"not exact: \d+ pixel values of 4 of its own images changed"):
        HFGenPipeline.from_pretrained(tmp_path)
    trip = HFGenPipeline.from_pretrained(tmp_path, verify=False).round_trip(-torch.ones(1, 1, SIZE, SIZE))
    assert trip.changed_values > 0


@pytest.mark.whole
def test_a_model_that_draws_no_images_is_not_loaded(trained, tmp_path):
    pipeline = HFGenPipeline.from_pretrained(trained[1])
    next(p for p in pipeline.flow.parameters()).data.fill_(math.nan)
    pipeline.save_pretrained(tmp_path)
    with pytest.raises(LoadError, match=r"not finite.*\n?.*verify=False"):
        HFGenPipeline.from_pretrained(tmp_path)


@pytest.mark.whole
def test_the_prior_of_a_flow_is_a_prior(trained):
    pipeline = HFGenPipeline.from_pretrained(trained[1])
    with pytest.raises(UsageError, match="is a PriorScheduler, not a DDPMScheduler"):
        type(pipeline)(pipeline.flow, pipeline.dequantizer, DDPMScheduler())
    pipeline.scheduler = PriorScheduler([4])
    with pytest.raises(UsageError, match="expected a tensor"):
        pipeline(seeds=[0])


def test_tf32_is_off_where_it_matters_and_on_again_after():
    switches = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = [switch.fp32_precision for switch in switches]
    with without_tf32():
        assert [switch.fp32_precision for switch in switches] == ["ieee", "ieee"]
    assert [switch.fp32_precision for switch in switches] == before


def test_half_precision_passes_the_same_check(trained):
    half = HFGenPipeline.from_pretrained(trained[1], dtype=torch.bfloat16)
    assert half(seeds=[0], output_type="pt").images.isfinite().all()
    trip = half.round_trip(torch.zeros(2, 1, SIZE, SIZE) - 1)
    assert trip.changed_values == 0


def test_the_bound_says_how_many_draws_it_is_of(trained, data):
    found = trained[0].log_likelihood(load_images(data).tensor(range(4)), num_importance_samples=8)
    assert "lower bound, 8 importance samples" in str(found)


def test_temperature_reaches_every_level(trained):
    """At temperature 0 all seeds are one image; the latents of every level are multiplied."""
    pipeline = HFGenPipeline.from_pretrained(trained[1])
    pipeline.scheduler.register_to_config(temperature=0.0)
    cold = pipeline(seeds=[0, 1], output_type="pt").images
    assert torch.equal(cold[0], cold[1])


def test_a_walk_through_latents_arrives_at_its_seeds(trained):
    pipeline = trained[0]
    frames = list(pipeline.interpolate([3, 4], num_frames=8))
    assert frames[0].tobytes() == pipeline(seeds=[3]).images[0].tobytes()
    assert len({frame.tobytes() for frame in frames[:5]}) == 5


@pytest.mark.whole
def test_samples_that_are_no_numbers_are_an_error(trained):
    pipeline = HFGenPipeline.from_pretrained(trained[1])
    next(p for p in pipeline.flow.parameters()).data.fill_(math.nan)
    with pytest.raises(CheckError, match=r"Weights are not finite, such as flow\.\S+: the file is damaged"):
        pipeline(seeds=[0])
    with pytest.raises(CheckError, match="The latents are not finite"):
        HFGenPipeline.from_pretrained(trained[1]).decode(torch.full((1, SIZE**2), math.nan))


def test_pictures_that_fail_do_not_end_a_training(data, tmp_path, monkeypatch):
    """The grid of a step may be of a flow that is not finite yet; the losses say whether the training is."""
    monkeypatch.setattr("hfgen.training.validation.draw", raises)
    settings = {"train_batch_size": 16, "max_train_steps": 2, "dataset_name": data, **nest_options(TINY["glow"])}
    cls = get_family("glow").load()
    config = resolve([("test", settings)], "glow", cls)
    torch.manual_seed(0)
    trainer = Trainer(cls.build(SIZE, 1, **TINY["glow"]), load_images(data), config.arguments, tmp_path)
    trainer.train()
    assert read_metrics(tmp_path)[-1]["diagnosis"] == {"warnings": ["of a picture"]}


def raises(*arguments, **options):
    raise CheckError("of a picture")


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_drawn_before_the_first_step(family, tmp_path, hfgen):
    pipeline = get_family(family).load().build(SIZE, 1, **TINY[family])
    with pytest.raises(UsageError, match="not initialized"):
        pipeline(seeds=[0])
    pipeline.save_pretrained(tmp_path)
    done = hfgen("sample", tmp_path, "--output", tmp_path / "grid.png")
    assert done.code == 2
    assert "not initialized" in done.err
    assert not (tmp_path / "grid.png").exists()


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("glow", {"flow.num_levels": 4}, "cannot be divided by 2 4 times"),
        ("glow", {"flow.coupling": "none", "flow.num_steps": 0}, "at least 1"),
        ("glow", {"flow.coupling": "cubic"}, "expected one of 'affine'"),
        ("glow", {"flow.convolution": "qr"}, "expected one of 'lu'"),
        ("glow", {"flow.preprocessing": "logit"}, "logit_2alpha"),
        ("glow", {"flow.alpha": 0.7}, "between 0 and 0.5"),
        ("realnvp", {"flow.num_scales": 6}, "cannot be halved 5 times"),
        ("realnvp", {"flow.coupling": "spline", "flow.num_bins": 1}, "2 to 256 bins"),
        ("realnvp", {"dequantizer.num_bits": 9}, "1 to 8 bits"),
        ("realnvp", {"flow.num_couplings": 0}, "--flow.num_couplings is 0; it must be at least 1"),
        ("glow", {"flow.hidden_channels": 0}, "--flow.hidden_channels is 0; it must be at least 1"),
        ("glow", {"scheduler.distribution": "uniform"}, "normal or logistic"),
        ("realnvp", {"scheduler.latent_shape": [4]}, r"a flow of these images has \[64\]"),
    ],
)
def test_wrong_options_are_refused(family, options, message):
    with pytest.raises(UsageError, match=message):
        get_family(family).load().build(SIZE, 1, **options)


def test_images_that_cannot_be_squeezed_are_refused():
    with pytest.raises(UsageError, match=r"9x9 cannot be divided by 2.\nGive another --resolution"):
        get_family("glow").load().build(9, 1)
    assert get_family("realnvp").load().build(9, 1).flow.config.num_scales == 1


def test_wrong_latents_are_refused(trained):
    for latents in (torch.zeros(1, 1, SIZE, SIZE), torch.zeros(SIZE**2), None):
        with pytest.raises(UsageError, match=r"expected a tensor \(B, 64\)"):
            trained[0].decode(latents)


def test_gray_images_are_spread_by_a_logit_and_others_are_not():
    glow = get_family("glow").load()
    assert glow.build(SIZE, 1).flow.config.preprocessing == "logit_halfalpha"
    assert glow.build(SIZE, 3).flow.config.preprocessing == "glow"
    assert glow.build(SIZE, 1, **{"flow.preprocessing": "unit"}).flow.config.preprocessing == "unit"


def test_the_saved_config_names_what_alpha_alone_does_not(trained):
    config = json.loads((trained[1] / "flow" / "config.json").read_text())
    assert (config["preprocessing"], config["alpha"]) == ("logit_halfalpha", 1e-5)
