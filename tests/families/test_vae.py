"""VAE: the laws, options and what is refused, diagnosis, a run."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from hfgen import HFGenPipeline
from hfgen.errors import CheckError, HFGenError, UsageError
from hfgen.noise import StepNoise
from hfgen.testing import FamilyTests
from hfgen_vae.beta import BetaScheduler
from hfgen_vae.vae import VAEObjective, VAEPipeline, pyramid

TINY_MLP = {
    "encoder.class_name": "MLPEncoder",
    "decoder.class_name": "MLPDecoder",
    "encoder.hidden_dims": [16],
    "decoder.hidden_dims": [16],
    "encoder.latent_dim": 4,
}
TINY_CONV = {"encoder.base_channels": 4, "decoder.base_channels": 4, "encoder.latent_dim": 4}


class TestVAE(FamilyTests):
    family = "vae"
    overrides = TINY_CONV | {"likelihood.class_name": "GaussianLikelihood"}
    num_classes = 3

    @pytest.mark.slow  # the toys of test_wrapped.py and Glow train in two processes, and nothing here differs
    def test_two_processes_train_what_one_does(self, data, tmp_path):
        super().test_two_processes_train_what_one_does(data, tmp_path)


class TestMLPBernoulliVAE(FamilyTests):
    family = "vae"
    in_processes = False
    overrides = TINY_MLP | {"likelihood.class_name": "BernoulliLikelihood"}
    sample_size = 5


class TestColorLogisticIWAE(FamilyTests):
    family = "vae"
    in_processes = False
    overrides = TINY_CONV | {"likelihood.class_name": "DiscretizedLogisticLikelihood", "likelihood.num_mixtures": 2}
    sample_size = 13
    in_channels = 3
    objective = {"num_importance_samples": 3, "gradient_estimator": "doubly_reparameterized"}
    training = {"use_ema": True}


def test_a_bounded_mean_is_a_gaussians():
    """2 sigmoid(a) - 1; a Bernoulli's logits are not to be bounded."""
    gaussian = {"likelihood.class_name": "GaussianLikelihood"}
    bounded = VAEPipeline.build(5, 1, **TINY_MLP, **gaussian, **{"decoder.bounded": True})
    free = VAEPipeline.build(5, 1, **TINY_MLP, **gaussian)
    free.decoder.load_state_dict(bounded.decoder.state_dict())
    z = torch.randn(3, 4) * 9
    torch.testing.assert_close(bounded.decode(z), 2 * free.decode(z).sigmoid() - 1)
    with pytest.raises(UsageError, match=r"decoder\.bounded is for a Gaussian mean; BernoulliLikelihood"):
        VAEPipeline.build(5, 1, **TINY_MLP, **{"decoder.bounded": True})


# --- options --------------------------------------------------------------------------------------------------------


def test_beta_rises_and_starts_anew():
    rising = BetaScheduler(beta=4.0, warmup_steps=3)
    assert [rising.beta_at(step) for step in range(5)] == [1, 2, 3, 4, 4]
    cycling = BetaScheduler(warmup_steps=1, cycle_steps=3)
    assert [cycling.beta_at(step) for step in range(6)] == [0.5, 1, 1, 0.5, 1, 1]
    assert [BetaScheduler().beta_at(step) for step in range(2)] == [1, 1]


def test_free_bits_hold_on_the_batch_mean():
    """One image below lambda does not count where the mean is above; below it, there is no gradient."""
    kl = torch.tensor([[0.0, 0.1], [4.0, 0.3]], requires_grad=True)
    loss = BetaScheduler(beta=2.0, free_bits=0.5).regularizer(kl, step=0)
    assert loss.item() == pytest.approx(2 * (2.0 + 0.5))
    loss.backward()
    assert kl.grad.tolist() == [[1, 0], [1, 0]]


def test_the_beta_schedule_is_in_the_loss_and_in_the_folder(tmp_path):
    torch.manual_seed(0)
    options = {"beta_scheduler.beta": 3.0, "beta_scheduler.warmup_steps": 9}
    pipeline = VAEPipeline.build(4, 1, **TINY_MLP, **options)
    objective = VAEObjective(pipeline.encoder, pipeline.decoder, pipeline.likelihood, pipeline.beta_scheduler)
    batch = {"pixel_values": torch.rand(4, 1, 4, 4) * 2 - 1}
    for step, beta in ((0, 0.3), (9, 3.0)):
        objective.noise, objective.step = StepNoise(0, 0, slice(0, 4), 4), step
        loss, metrics = (update := next(objective.training_step(batch))).loss, update.metrics
        assert loss.item() == pytest.approx(
            (-metrics["elbo"] + (beta - 1) * metrics["kl_divergence"]).item(), rel=1e-5
        )
    pipeline.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "beta_scheduler" / "scheduler_config.json").read_text())
    assert (saved["beta"], saved["warmup_steps"]) == (3.0, 9)
    assert HFGenPipeline.from_pretrained(tmp_path).beta_scheduler.config.beta == 3.0


def test_the_bound_that_is_reported_has_no_beta():
    torch.manual_seed(0)
    pipeline = VAEPipeline.build(4, 1, **TINY_MLP)
    x = torch.zeros(2, 1, 4, 4)
    before = pipeline.log_likelihood(x).nats
    pipeline.beta_scheduler = BetaScheduler(beta=9.0)
    assert torch.equal(before, pipeline.log_likelihood(x).nats)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"likelihood.class_name": "BernouliLikelihood"}, "Did you mean 'BernoulliLikelihood'"),
        ({"encoder.class_name": "MLPEncoder", "encoder.base_channels": 4}, "unknown option 'base_channels'"),
        ({"encoder.latent_dim": 4, "decoder.latent_dim": 5}, "latent_dim"),
        ({"scheduler.distribution": "uniform"}, "must be normal"),
        ({"beta_scheduler.beta": -1.0}, "beta_scheduler.beta is -1"),
        ({"beta_scheduler.cycle_steps": 3, "beta_scheduler.warmup_steps": 5}, "less than the warm-up"),
        ({"decoder.out_channels": 7}, "cannot be set"),
        ({"encoder.latent_dim": 0}, "--encoder.latent_dim .* is 0"),
        ({"encoder.class_name": ["MLPEncoder"]}, "class_name is"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UsageError, match=message):
        VAEPipeline.build(8, 1, **options)


def test_wrong_objectives():
    pipeline = VAEPipeline.build(8, 1, **TINY_CONV, **{"beta_scheduler.beta": 2.0})
    parts = (pipeline.encoder, pipeline.decoder, pipeline.likelihood, pipeline.beta_scheduler)
    with pytest.raises(UsageError, match="no KL term to weigh"):
        VAEObjective(*parts, num_importance_samples=5)
    with pytest.raises(UsageError, match="at least 1"):
        VAEObjective(*parts, num_importance_samples=0)


@pytest.mark.parametrize("options", [TINY_MLP, TINY_CONV], ids=["mlp", "conv"])
@pytest.mark.parametrize(
    ("labels", "message"),
    [(None, "give class_labels"), ([0, 1], "2 class_labels for 3 images"), ([0, 1, 3], "must lie in 0..2")],
)
def test_wrong_labels(options, labels, message):
    pipeline, x = VAEPipeline.build(8, 1, num_classes=3, **options), torch.zeros(3, 1, 8, 8)
    for call in (pipeline.encode, pipeline.log_likelihood, pipeline.elbo, pipeline.reconstruct):
        with pytest.raises(UsageError, match=message):
            call(x, labels)
    with pytest.raises(UsageError, match=message):
        pipeline.decode(torch.zeros(3, 4), labels)
    torch.testing.assert_close(pipeline.encode(x, [0, 1, 2]), pipeline.encode(x, torch.tensor([0, 1, 2])))
    with pytest.raises(UsageError, match="takes no class_labels"):
        VAEPipeline.build(8, 1, **options).encode(x, [0, 0, 0])


def test_large_images_pass_the_decoder_in_parts(monkeypatch):
    """No more elements at a time than the limit, and the same bound."""
    pipeline, x = VAEPipeline.build(8, 1, **TINY_MLP), torch.zeros(2, 1, 8, 8)
    whole, rows = pipeline.log_likelihood(x, num_importance_samples=100), []
    monkeypatch.setattr("hfgen_vae.variational.ELEMENTS", 64 * 7)
    pipeline.decoder.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    parts = pipeline.log_likelihood(x, num_importance_samples=100)
    assert max(rows) == 7
    torch.testing.assert_close(parts.nats, whole.nats, rtol=1e-5, atol=1e-5)


def test_it_trains_without_a_beta_schedule():
    pipeline = VAEPipeline.build(8, 1, **TINY_MLP)
    objective = VAEObjective(pipeline.encoder, pipeline.decoder, pipeline.likelihood)
    objective.noise = StepNoise(0, 0, slice(0, 2), 2)
    assert next(objective.training_step({"pixel_values": torch.zeros(2, 1, 8, 8)})).loss.isfinite()


@pytest.mark.parametrize(("size", "channels"), [(1, 1), (4, 1), (7, 3), (8, 1), (13, 3), (28, 1), (33, 2)])
@pytest.mark.parametrize("likelihood", ["BernoulliLikelihood", "GaussianLikelihood", "DiscretizedLogisticLikelihood"])
def test_any_shape_and_likelihood(size, channels, likelihood):
    pipeline = VAEPipeline.build(size, channels, likelihood={"class_name": likelihood}, **TINY_CONV)
    x = torch.randint(2, (2, channels, size, size)) * 2.0 - 1
    assert pipeline.reconstruct(x).shape == x.shape
    assert pipeline.log_likelihood(x, num_importance_samples=3).nats.isfinite().all()


def test_the_likelihood_follows_the_images_unless_told():
    kinds = [type(VAEPipeline.build(8, channels, **TINY_CONV).likelihood).__name__ for channels in (1, 3)]
    assert kinds == ["BernoulliLikelihood", "GaussianLikelihood"]
    assert VAEPipeline.build(8, 1, **TINY_CONV, **{"likelihood.sigma": 0.5}).likelihood.config.sigma == 0.5


def test_the_pyramid_ends_at_7_or_below():
    assert pyramid(28, 32) == ([28, 14, 7], [32, 64])
    assert pyramid(256, 8) == ([256, 128, 64, 32, 16, 8, 4], [8, 16, 32, 64, 64, 64])


# --- what is told ---------------------------------------------------------------------------------------------------


def test_posterior_collapse_is_seen():
    pipeline = VAEPipeline.build(8, 1, **TINY_MLP)
    nn.init.zeros_(pipeline.encoder.to_moments.weight)
    nn.init.zeros_(pipeline.encoder.to_moments.bias)
    examples = {"pixel_values": torch.rand(50, 1, 8, 8) * 2 - 1}
    values, warnings, *_ = VAEObjective.diagnose(pipeline, examples)
    assert values["active_units"] == 0
    assert values["kl_per_dimension"] == [0] * 4
    assert "posterior collapse" in warnings[0]
    assert "warmup_steps" in warnings[0]


def test_active_units_are_counted():
    """Latents that follow the image's mean by different factors."""
    pipeline = VAEPipeline.build(2, 1, **TINY_MLP | {"encoder.hidden_dims": []})
    with torch.no_grad():
        pipeline.encoder.to_moments.weight.zero_()
        pipeline.encoder.to_moments.weight[:3] = torch.tensor([0.0, 0.02, 0.5])[:, None]
    x = torch.rand(400, 1, 1, 1).expand(400, 1, 2, 2) * 2 - 1
    values, warnings, *_ = VAEObjective.diagnose(pipeline, {"pixel_values": x})
    assert values["active_units"] == 1
    assert len(values["kl_per_dimension"]) == 4
    assert values["kl_divergence"] == pytest.approx(sum(values["kl_per_dimension"]), abs=1e-4)
    assert not warnings


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, x: p.log_likelihood(x, num_importance_samples=0), "is 0; expected a whole number"),
        (lambda p, x: p.log_likelihood(x, num_importance_samples=1.5), "is 1.5; expected a whole number"),
        (lambda p, x: p.log_likelihood(x, num_importance_samples=True), "is True; expected a whole number"),
        (lambda p, x: p.log_likelihood(x, seeds=5), "seeds must be whole numbers, one for each image; got 5"),
        (lambda p, x: p.encode(x, seeds=[1.5, 2]), "seeds must be whole numbers"),
        (lambda p, x: p.encode(x[:0]), "No image was given"),
        (lambda p, x: p.encode(list(x)), "Images are a list; expected a tensor"),
        (lambda p, x: p.decode(torch.zeros(2, 5)), r"Latents are of shape \(2, 5\); expected a tensor \(B, 4\)"),
        (lambda p, x: p.decode([1]), "Latents are list"),
    ],
)
def test_wrong_calls(call, message):
    with pytest.raises(UsageError, match=message):
        call(VAEPipeline.build(8, 1, **TINY_MLP), torch.zeros(2, 1, 8, 8))


def test_images_that_seem_to_lie_in_0_1_are_told():
    with pytest.warns(UserWarning, match=r"All images lie in \[0, 1\]; expected \[-1, 1\]"):
        VAEPipeline.build(8, 1, **TINY_MLP).encode(torch.linspace(0, 1, 128).reshape(2, 1, 8, 8))


def test_nan_is_an_error():
    pipeline = VAEPipeline.build(8, 1, **TINY_MLP)
    nn.init.constant_(pipeline.decoder.to_parameters.bias, float("nan"))
    with pytest.raises(CheckError, match="log-likelihood of image 0 is nan"):
        pipeline.log_likelihood(torch.zeros(2, 1, 8, 8))


def test_the_encoder_is_called_once_for_each_image():
    pipeline, rows = VAEPipeline.build(8, 1, **TINY_MLP), []
    pipeline.encoder.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    pipeline.log_likelihood(torch.zeros(7, 1, 8, 8), num_importance_samples=350)
    assert sum(rows) == 7


# --- a run ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_folder(hfgen, drawn_plots, tmp_path_factory):
    """Of a tiny VAE, by the command line."""
    from hfgen.testing import make_data

    folder = tmp_path_factory.mktemp("vae")
    data = make_data(folder / "blobs.npz", 8, 1)
    words = [f"--{k}={json.dumps(v)}" for k, v in TINY_MLP.items() if not isinstance(v, str)]
    words += ["--encoder.class_name=MLPEncoder", "--decoder.class_name=MLPDecoder", "--max_train_steps=6"]
    words += ["--train_batch_size=8", "--validation_steps=3", "--logging_steps=1", "--num_validation_images=4"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hfgen.training.run.plot_run", drawn_plots)
        done = hfgen("train", "vae", "--dataset_name", data, "--output_dir", folder / "run", *words)
    assert done.code == 0, done.err
    return folder / "run"


def test_the_diagnosis_is_in_metrics_plots_and_card(run_folder):
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    diagnosed = {line["step"]: line["diagnosis"] for line in lines if "diagnosis" in line}
    assert set(diagnosed) == {3, 6}
    assert len(diagnosed[6]["kl_per_dimension"]) == 4
    assert (run_folder / "plots" / "kl_per_dimension.png").stat().st_size > 1000
    assert (run_folder / "plots" / "loss.png").stat().st_size > 1000
    card = (run_folder / "README.md").read_text()
    assert f"| active units | {diagnosed[6]['active_units']} |" in card
    assert "plots/kl_per_dimension.png" in card
    assert "samples/reconstructions_000006.png" in card
    assert ("**Warning:** posterior collapse" in card) == (diagnosed[6]["active_units"] == 0)


def test_reconstructions_stand_below_their_images(run_folder):
    """The first row of tiles is of training images, the second the pipeline's own reconstructions of them."""
    from PIL import Image

    picture = np.asarray(Image.open(run_folder / "samples" / "reconstructions_000006.png"))
    assert picture.shape == (2 * 8, 4 * 8)  # as many as --num_validation_images
    originals = np.load(run_folder.parent / "blobs.npz")["images"]
    assert np.array_equal(picture[:8, :8], originals[0])
    x = torch.from_numpy(originals[:1]).float()[:, None] / 127.5 - 1
    again = HFGenPipeline.from_pretrained(run_folder).reconstruct(x)
    expected = ((again.detach() + 1) * 127.5).round().clamp(0, 255).numpy()[0, 0]
    assert np.abs(picture[8:16, :8].astype(float) - expected).max() <= 1


def test_the_config_names_the_classes(run_folder):
    import yaml

    config = yaml.safe_load((run_folder / "config.yaml").read_text())
    assert config["encoder"]["class_name"] == "MLPEncoder"
    assert config["likelihood"] == {"class_name": "BernoulliLikelihood", "binarization": "dynamic"}
    assert config["encoder"]["latent_dim"] == config["decoder"]["latent_dim"] == 4  # a default may change
    assert not {"sample_size", "in_channels"} & set(config["encoder"])
    assert config["objective"] == {"num_importance_samples": 1, "gradient_estimator": "reparameterized"}


def test_a_component_of_another_class_is_refused(run_folder, tmp_path):
    import shutil

    folder = shutil.copytree(run_folder, tmp_path / "run")
    index = json.loads((folder / "model_index.json").read_text())
    index["likelihood"] = ["hfgen_vae.vae", "MLPEncoder"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(HFGenError, match="must be a GaussianLikelihood or BernoulliLikelihood or Disc"):
        HFGenPipeline.from_pretrained(folder)


def test_info_shows_every_class_with_its_options():
    from hfgen.commands.info import family_facts

    likelihood = family_facts("vae")["components"]["likelihood"]["class_name"]
    assert list(likelihood) == ["GaussianLikelihood", "BernoulliLikelihood", "DiscretizedLogisticLikelihood"]
    assert "binarization" in likelihood["BernoulliLikelihood"]["options"]
