"""AutoencoderKL: the laws, its networks, its loss, what a VAE can do."""

import math

import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from hfgen import PriorScheduler
from hfgen.errors import UsageError
from hfgen.noise import StepNoise
from hfgen.settings.options import build_objective
from hfgen.testing import FamilyTests
from hfgen.testing.laws import make_data
from hfgen_vae.autoencoder_kl import AutoencoderKLPipeline, autoencode, image_generators
from hfgen_vae.beta import BetaScheduler
from hfgen_vae.likelihoods import GaussianLikelihood

TINY = {"vae.block_out_channels": [4, 8], "vae.norm_num_groups": 2}


class TestAutoencoderKL(FamilyTests):
    family = "autoencoder_kl"
    in_shards = True  # its training reads the moments by a hook inside the wrapped network
    overrides = TINY
    sample_size = 8
    training = {"use_ema": True}

    @pytest.mark.slow  # a quarter of a minute, in shards; Glow trains so each time
    def test_two_processes_train_what_one_does(self, data, tmp_path):
        super().test_two_processes_train_what_one_does(data, tmp_path)


class TestColorBernoulliAutoencoderKL(FamilyTests):
    family = "autoencoder_kl"
    in_processes = False
    overrides = {
        "vae.block_out_channels": [4, 4, 8],
        "vae.use_quant_conv": False,
        "vae.latent_channels": 2,
        "likelihood.class_name": "BernoulliLikelihood",
    }
    sample_size = 12
    in_channels = 3


# --- networks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "channels", "latent_shape"),
    [(28, 1, [4, 7, 7]), (32, 3, [4, 8, 8]), (64, 3, [4, 8, 8]), (256, 3, [4, 32, 32])],
)
def test_default_configs(size, channels, latent_shape):
    configs = AutoencoderKLPipeline.default_configs(size, channels, None, {})
    assert configs["scheduler"] == {"latent_shape": latent_shape}
    assert configs["vae"]["in_channels"] == configs["vae"]["out_channels"] == channels
    assert configs["vae"]["sample_size"] == size


@pytest.mark.parametrize(("channels", "groups"), [([128, 256, 512], 32), ([16, 32, 64], 4), ([6, 12], 1), ([3], 1)])
def test_groups_divide_the_channels_and_are_not_single_ones(channels, groups):
    vae = AutoencoderKLPipeline.default_configs(16, 1, None, {"vae": {"block_out_channels": channels}})["vae"]
    assert vae["norm_num_groups"] == groups


def test_the_likelihood_says_how_many_channels_come_out():
    options = {"likelihood.class_name": "DiscretizedLogisticLikelihood", "likelihood.num_mixtures": 2}
    pipeline = AutoencoderKLPipeline.build(8, 3, **TINY, **options)
    assert pipeline.vae.config.out_channels == 18
    assert pipeline.decode(torch.randn(2, 4, 4, 4)).shape == (2, 3, 8, 8)


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (30, {}, "cannot make 30x30.*halve the side 2 times.\n.*--resolution 28 or 32"),
        (2, {}, "cannot make 2x2.*\n.*--resolution 4,"),
        (100, {}, "cannot make 100x100.*\n.*--resolution 96 or 104"),
        (8, {"vae.block_out_channels": []}, "at least one"),
        (8, {**TINY, "vae.norm_num_groups": 3}, r"norm_num_groups is 3.*\[4, 8\]"),
        (8, {**TINY, "vae.down_block_types": ["DownEncoderBlock2D"]}, "down_block_types names 1 .* of 2"),
        (8, {**TINY, "scheduler.latent_shape": [4, 2, 2]}, r"latent_shape .* is \[4, 4, 4\]"),
        (8, {**TINY, "scheduler.distribution": "uniform"}, "must be normal"),
        (8, {**TINY, "vae.out_channels": 2}, "vae.out_channels is 2, but for these data it is 1"),
    ],
)
def test_what_cannot_be_built_is_said(size, options, message):
    with pytest.raises(UsageError, match=message):
        AutoencoderKLPipeline.build(size, 1, **options)


def test_it_takes_no_labels():
    with pytest.raises(UsageError, match="no class-conditional form"):
        AutoencoderKLPipeline.build(8, 1, 10, **TINY)


# --- the loss -------------------------------------------------------------------------------------------------------


@pytest.fixture
def pipeline():
    torch.manual_seed(0)
    pipeline = AutoencoderKLPipeline.build(8, 1, **TINY)
    for parameter in pipeline.vae.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return pipeline


@pytest.fixture
def images():
    return torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def objective_of(pipeline, rows=slice(0, 6)):
    objective = build_objective(pipeline.objective_class, pipeline.components, {})
    objective.noise = StepNoise(0, 0, rows, 6)
    return objective


@pytest.mark.parametrize("use_quant_conv", [True, False])
def test_the_moments_are_those_of_the_encoder(images, use_quant_conv):
    pipeline = AutoencoderKLPipeline.build(8, 1, **TINY, **{"vae.use_quant_conv": use_quant_conv})
    generators = [torch.Generator().manual_seed(seed) for seed in range(6)]
    parameters, mean, logvar = autoencode(pipeline.vae, images, generators)
    q = pipeline.vae.encode(images).latent_dist
    torch.testing.assert_close((mean, logvar), (q.mean, q.logvar))
    noise = torch.stack([torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(6)])
    z = mean + torch.exp(0.5 * logvar) * noise
    torch.testing.assert_close(parameters, pipeline.vae.decode(z).sample)
    assert not pipeline.vae.encoder._forward_hooks
    assert not use_quant_conv or not pipeline.vae.quant_conv._forward_hooks


def test_the_kl_divergence_is_the_one_of_diffusers(pipeline, images):
    update = next(objective_of(pipeline).training_step({"pixel_values": images}))
    q = pipeline.vae.encode(images).latent_dist
    assert isinstance(q, DiagonalGaussianDistribution)
    assert q.kl().shape == (6,)
    torch.testing.assert_close(update.metrics["kl_divergence"], q.kl().mean().detach())


@pytest.mark.parametrize(("options", "step", "beta"), [({}, 0, 1.0), ({"beta": 3.0, "warmup_steps": 3}, 1, 1.5)])
def test_the_loss_by_hand(pipeline, images, options, step, beta):
    """Gaussian with sigma^2 = 0.25: sums over pixels and latents, the mean over images."""
    pipeline.likelihood = GaussianLikelihood(sigma=0.5)
    pipeline.beta_scheduler = BetaScheduler(**options)
    objective = objective_of(pipeline)
    objective.step = step
    update = next(objective.training_step({"pixel_values": images}))
    with torch.no_grad():
        q = pipeline.vae.encode(images).latent_dist
        seeds = StepNoise(0, 0, slice(0, 6), 6).integers(2**62)
        z = torch.cat([q.mean[i : i + 1] + q.std[i : i + 1] * normal(seeds[i]) for i in range(6)])
        error = (images - pipeline.vae.decode(z).sample).square().sum((1, 2, 3))
        reconstruction = (error / (2 * 0.25) + 64 / 2 * math.log(2 * math.pi * 0.25)).mean()
    torch.testing.assert_close(update.loss, reconstruction + beta * q.kl().mean())
    torch.testing.assert_close(update.metrics["elbo"], -reconstruction - q.kl().mean())


def normal(seed):
    return torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(int(seed)))


def test_each_image_has_noise_of_its_own(pipeline, images):
    """Whether it comes alone, in a micro-batch or in the whole batch."""
    first = [g.initial_seed() for g in image_generators(StepNoise(0, 0, slice(0, 6), 6))]
    assert len(set(first)) == 6
    for rows in (slice(0, 3), slice(3, 6), slice(4, 5)):
        assert [g.initial_seed() for g in image_generators(StepNoise(0, 0, rows, 6))] == first[rows]
    whole = next(objective_of(pipeline).training_step({"pixel_values": images})).loss
    parts = [
        next(objective_of(pipeline, rows).training_step({"pixel_values": images[rows]})).loss
        for rows in (slice(0, 3), slice(3, 6))
    ]
    torch.testing.assert_close(sum(parts) / 2, whole, rtol=1e-6, atol=1e-5)


class Laws(FamilyTests):
    """The laws' trainer, for tests of its own."""

    __test__ = False
    family, overrides, sample_size = "autoencoder_kl", TINY, 8


def test_accumulation_is_one_batch(tmp_path):
    """The moving sigma of the likelihood too."""
    data = str(make_data(tmp_path / "blobs.npz", 8, 1))
    whole = Laws().trainer(data, train_batch_size=8, max_train_steps=2)
    parts = Laws().trainer(data, train_batch_size=4, max_train_steps=2, gradient_accumulation_steps=2)
    for trainer in (whole, parts):
        for optimizer in trainer.networks.optimizers.values():
            optimizer.param_groups[0]["eps"] = 1e-3  # Adam makes a step of a gradient that is but rounding
        trainer.train()
    for name, tensor in whole.pipeline.vae.state_dict().items():
        assert (tensor - parts.pipeline.vae.state_dict()[name]).abs().max() <= 1e-5, name
    variances = [trainer.pipeline.likelihood.variance.item() for trainer in (whole, parts)]
    assert variances[0] == pytest.approx(variances[1], rel=1e-5)
    assert variances[0] != 1


def test_mixed_precision(tmp_path):
    """Accelerate's autocast gives the moments in bfloat16; the loss is float32 and near the one in full precision."""
    data = str(make_data(tmp_path / "blobs.npz", 8, 1))
    losses = []
    for precision in ("no", "bf16"):
        trainer = Laws().trainer(data, mixed_precision=precision)
        trainer.objective.noise = StepNoise(0, 0, slice(0, 4), 4)
        seen = []
        with trainer.pipeline.vae.quant_conv.register_forward_hook(
            lambda m, i, output, seen=seen: seen.append(output)
        ):
            update = next(trainer.objective.training_step(next(trainer.batches.steps(0, 1))[0]))
        assert seen[0].dtype == {"no": torch.float32, "bf16": torch.bfloat16}[precision]
        assert update.loss.dtype == torch.float32
        _, mean, logvar = autoencode(trainer.networks.models["vae"], torch.rand(2, 1, 8, 8), [torch.Generator()] * 2)
        assert mean.dtype == logvar.dtype == torch.float32
        losses.append(update.loss.item())
        trainer._leave()
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


# --- what a VAE can do ----------------------------------------------------------------------------------------------


def test_latents_are_maps(pipeline, images):
    latents = pipeline.encode(images)
    assert latents.shape == (6, 4, 4, 4)
    torch.testing.assert_close(pipeline.reconstruct(images), pipeline.vae(images).sample)
    result = pipeline.log_likelihood(images, num_importance_samples=3)
    assert result.kind == "lower bound"
    assert result.nats.shape == (6,)
    diagnosis = pipeline.objective_class.diagnose(pipeline, {"pixel_values": images})
    assert len(diagnosis.values["kl_per_channel"]) == 4
    assert diagnosis.values["latent_dimensions"] == 64
    kl = pipeline.vae.encode(images).latent_dist.kl().mean().item()
    assert sum(diagnosis.values["kl_per_channel"]) == pytest.approx(kl, abs=1e-3)


@pytest.mark.whole
def test_the_bound_tightens_in_expectation(pipeline, images):
    one = [pipeline.log_likelihood(images, num_importance_samples=1, seeds=range(s, s + 6)).nats for s in range(50)]
    many = pipeline.log_likelihood(images, num_importance_samples=200).nats
    elbo, kl = pipeline.elbo(images)
    assert (many > torch.stack(one).mean(0)).all()
    assert elbo.shape == (6,)
    assert kl.shape == (6, 4, 4, 4)


def test_the_scheduler_says_the_size(pipeline):
    pipeline.scheduler = PriorScheduler([4, 6, 8])
    assert pipeline.image_shape == (1, 12, 16)
    assert pipeline(seeds=[0], output_type="pt").images.shape == (1, 1, 12, 16)
