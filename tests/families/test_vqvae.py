"""VQ-VAE: the laws, the networks, the loss and the step on any number of processes, codes and bound."""

import itertools
import json
import math

import pytest
import torch

from hfgen.data.load import load_images
from hfgen.errors import UsageError
from hfgen.noise import SeededNoise, StepNoise
from hfgen.settings.resolve import resolve
from hfgen.testing import FamilyTests
from hfgen.testing.laws import make_data
from hfgen.testing.processes import train_in_two_processes
from hfgen.training.start import build
from hfgen.training.trainer import Trainer
from hfgen_vae.codebook import as_rows, commitment_loss, perplexity
from hfgen_vae.vqvae import CodeScheduler, VQDecoder, VQEncoder, VQVAEPipeline
from hfgen_vae.vqvae_layers import sides
from hfgen_vae.vqvae_objective import VQVAEObjective

TINY = {
    "encoder.hidden_channels": 8,
    "decoder.hidden_channels": 8,
    "encoder.residual_channels": 4,
    "decoder.residual_channels": 4,
    "encoder.latent_dim": 4,
    "quantizer.num_embeddings": 16,
}
DENSE = TINY | {"encoder.latent_dim": 2, "quantizer.num_embeddings": 64}  # tells untrained encodings apart


class TestVQVAE(FamilyTests):
    family = "vqvae"
    in_shards = True  # its codebook is of buffers that each step sets, from sums over all processes
    overrides = DENSE
    num_classes = 3


class TestBernoulliVQVAE(FamilyTests):
    family = "vqvae"
    in_processes = False
    overrides = DENSE | {"likelihood.class_name": "BernoulliLikelihood", "encoder.num_halvings": 1}
    sample_size = 5


class TestColorLogisticVQVAE(FamilyTests):
    family = "vqvae"
    in_processes = False
    overrides = DENSE | {"likelihood.class_name": "DiscretizedLogisticLikelihood", "likelihood.num_mixtures": 2}
    sample_size = 13
    in_channels = 3
    objective = {"commitment_cost": 1.0}


@pytest.fixture
def pipeline():
    torch.manual_seed(0)
    return VQVAEPipeline.build(16, 1, **TINY)


@pytest.fixture
def images():
    return torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def objective_of(pipeline, **options):
    parts = (pipeline.encoder, pipeline.quantizer, pipeline.decoder, pipeline.likelihood)
    return VQVAEObjective(*parts, **options)


def step(objective, images, splits=(slice(0, 8),), number=0):
    """One step's updates, of the micro-batches `splits`; the codebook learns, the networks do not."""
    updates = []
    for rows in splits:
        objective.noise = StepNoise(0, number, rows, len(images))
        updates.append(next(objective.training_step({"pixel_values": images[rows]})))
    objective.finish_step()
    return updates


# --- the networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "halvings", "expected"),
    [(28, 2, [28, 14, 7]), (13, 2, [13, 7, 4]), (32, 3, [32, 16, 8, 4]), (5, 1, [5, 3]), (3, 2, [3, 2, 1])],
)
@pytest.mark.parametrize("channels", [1, 4])
def test_any_size_and_channels(size, halvings, expected, channels):
    assert sides(size, halvings) == expected
    shape = {"latent_dim": 3, "hidden_channels": 4, "num_halvings": halvings}
    z_e = VQEncoder(size, channels, **shape)(torch.randn(2, channels, size, size))
    assert z_e.shape == (2, 3, expected[-1], expected[-1])
    assert VQDecoder(size, channels, **shape)(z_e).shape == (2, channels, size, size)


@pytest.mark.parametrize("halvings", [0, 4])
def test_halvings_that_the_side_does_not_allow(halvings):
    with pytest.raises(UsageError, match=f"--encoder.num_halvings .* is {halvings} for images of side 8"):
        sides(8, halvings)


def test_every_pixel_is_seen_where_sides_are_odd():
    """A convolution that rounded the side down would not look at the last row and column."""
    torch.manual_seed(0)
    x = torch.randn(1, 1, 13, 13, requires_grad=True)
    VQEncoder(13, 1)(x).square().sum().backward()
    assert (x.grad != 0).all()


def test_what_one_component_is_told_about_the_latents_holds_for_all():
    pipeline = VQVAEPipeline.build(16, 1, **TINY | {"scheduler.num_embeddings": 16, "decoder.num_halvings": 3})
    assert {part.config.latent_dim for part in (pipeline.encoder, pipeline.quantizer, pipeline.decoder)} == {4}
    assert pipeline.quantizer.config.num_embeddings == pipeline.scheduler.config.num_embeddings == 16
    assert list(pipeline.scheduler.config.code_shape) == [2, 2]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"decoder.latent_dim": 5}, "--decoder.latent_dim are 4, 4, 5; they must be the same"),
        ({"scheduler.num_embeddings": 8}, "num_embeddings is 16, but --scheduler.num_embeddings is 8"),
        ({"scheduler.code_shape": [4, 5]}, r"--scheduler.code_shape is \[4, 5\]"),
        ({"encoder.num_halvings": 1, "decoder.num_halvings": 2}, "gives 8x8 codes, the decoder takes 4x4"),
        ({"quantizer.decay": 1.0}, "decay 1.0"),
        ({"quantizer.num_embeddings": 1}, "--quantizer.num_embeddings is 1, --quantizer.latent_dim 4"),
    ],
)
def test_components_that_do_not_fit(overrides, message):
    with pytest.raises(UsageError, match=message):
        VQVAEPipeline.build(16, 1, **TINY | overrides)


# --- the step -------------------------------------------------------------------------------------------------------


def test_no_gradient_reaches_the_codebook(pipeline, images):
    pipeline.quantizer.codebook.requires_grad_()
    objective = objective_of(pipeline)
    objective.noise = StepNoise(0, 0, slice(0, 8), 8)
    next(objective.training_step({"pixel_values": images})).loss.backward()
    assert pipeline.quantizer.codebook.grad is None
    assert all(p.grad is not None for p in pipeline.encoder.parameters())


def test_the_loss_by_hand(pipeline, images):
    """Sums over pixels and over latents, means over images; the codebook is that from before the step."""
    objective = objective_of(pipeline, commitment_cost=0.3)
    codebook = pipeline.quantizer.codebook.clone()
    with torch.no_grad():
        z_e = pipeline.encoder(images)
        commitment, log_prob = 0.0, 0.0
        z_q = torch.empty_like(z_e)
        for b, y, x in itertools.product(range(8), range(4), range(4)):
            e = min(codebook, key=lambda e: float((e - z_e[b, :, y, x]).norm()))
            commitment += float((e - z_e[b, :, y, x]).square().sum())
            z_q[b, :, y, x] = e
        mean = pipeline.decoder(z_q)
        log_prob = -0.5 * float((images - mean).square().sum()) - 8 * 128 * math.log(2 * math.pi)
    update = step(objective, images)[0]
    assert update.components == ("encoder", "decoder")
    assert update.loss.item() == pytest.approx((0.3 * commitment - log_prob) / 8, rel=1e-5)
    assert update.metrics["commitment_loss"].item() == pytest.approx(commitment / 8, rel=1e-4)
    assert update.metrics["elbo"].item() == pytest.approx(log_prob / 8 - 16 * math.log(16), rel=1e-5)
    assert not torch.equal(pipeline.quantizer.codebook, codebook)


def test_commitment_loss_is_a_sum_over_the_latents():
    assert commitment_loss(torch.ones(2, 3, 4, 5), torch.full((2, 3, 4, 5), 3.0)).tolist() == [240.0, 240.0]


def test_finish_step_tells_of_the_global_batch(pipeline, images):
    """Perplexity is of all micro-batches together, which are known when the step is finished."""
    objective = objective_of(pipeline)
    codes, found = pipeline.encode(images), []
    finish = objective.finish_step
    objective.finish_step = lambda: found.append(finish()) or {}
    step(objective, images, (slice(0, 4), slice(4, 8)))
    [metrics] = found
    assert metrics["perplexity"].item() == pytest.approx(perplexity(codes.flatten().bincount()).item(), rel=1e-5)
    assert metrics["restarted_codes"] > 0


@pytest.mark.parametrize(
    "splits", [(slice(0, 4), slice(4, 8)), (slice(4, 8), slice(0, 4)), (slice(0, 1), slice(1, 8))]
)
def test_micro_batches_give_the_codebook_of_one_batch(images, splits):
    """Restarts included, of which the first step is full; and the same optimal sigma for equal parts."""
    quantizers = []
    for parts in ((slice(0, 8),), splits):
        torch.manual_seed(0)
        pipeline = VQVAEPipeline.build(16, 1, **TINY)
        objective = objective_of(pipeline)
        for number in range(3):
            step(objective, images, parts, number)
        quantizers.append(pipeline.quantizer)
    assert quantizers[0].num_restarts == quantizers[1].num_restarts > 0
    for name, tensor in quantizers[0].state_dict().items():
        torch.testing.assert_close(quantizers[1].state_dict()[name], tensor, msg=name)


def test_restarts_are_vectors_of_the_batch_and_change_with_seed_and_step(images):
    found = []
    for seed, number in ((0, 0), (0, 1), (1, 0)):
        torch.manual_seed(0)
        pipeline = VQVAEPipeline.build(16, 1, **TINY)
        pipeline.quantizer.codebook[1:] += 1e4  # all but one are dead
        objective = objective_of(pipeline)
        objective.noise = StepNoise(seed, number, slice(0, 8), 8)
        next(objective.training_step({"pixel_values": images}))
        objective.finish_step()
        vectors = as_rows(pipeline.encoder(images))
        assert torch.cdist(pipeline.quantizer.codebook[1:], vectors).min(1).values.max() < 1e-2
        assert len(pipeline.quantizer.codebook[1:].unique(dim=0)) == 15, "one vector for two codes"
        found.append(pipeline.quantizer.codebook.clone())
    assert not torch.allclose(found[0], found[1])
    assert not torch.allclose(found[0], found[2])


def test_the_optimal_sigma_is_learned(pipeline, images):
    step(objective_of(pipeline), images)
    assert pipeline.likelihood.num_updates == 1
    assert pipeline.likelihood.variance != 1


SETTINGS = {"max_train_steps": 3, "num_validation_images": 4, "checkpointing_steps": 0, "adam_epsilon": 1e-3}


def codebook_of(data, **arguments):
    """Of a training in this process, with the weights that `hfgen train` would start from."""
    config = resolve(
        [("test", {**SETTINGS, "dataset_name": data, **nested()}), ("", arguments)], "vqvae", VQVAEPipeline
    )
    images = load_images(data)
    pipeline = build(config, VQVAEPipeline, images)
    Trainer(pipeline, images, config.arguments).train()
    return {"likelihood.variance": pipeline.likelihood.variance} | {
        f"quantizer.{name}": tensor for name, tensor in pipeline.quantizer.state_dict().items()
    }


def nested():
    from hfgen.settings.options import nest_options

    return nest_options(TINY)


def test_accumulated_and_whole_batches_train_the_same_codebook(tmp_path):
    data = str(make_data(tmp_path / "blobs.npz", 16, 1))
    whole = codebook_of(data, train_batch_size=8)
    parts = codebook_of(data, train_batch_size=2, gradient_accumulation_steps=4)
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-5, atol=1e-5, msg=name)


def test_two_processes_train_the_codebook_of_one(tmp_path):
    data = str(make_data(tmp_path / "blobs.npz", 16, 1))
    alone = codebook_of(data, train_batch_size=8)
    options = {**SETTINGS, **TINY, "dataset_name": data, "output_dir": str(tmp_path / "run"), "train_batch_size": 4}
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    train_in_two_processes(["--model", "vqvae", *words], tmp_path, in_shards=False)
    assert json.loads((tmp_path / "ddp" / "env.json").read_text())["num_processes"] == 2
    assert alone["quantizer.num_restarts"] > 0
    for rank in (0, 1):
        weights = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)["weights"]
        for name, tensor in alone.items():
            torch.testing.assert_close(weights[name], tensor, rtol=1e-5, atol=1e-5, msg=f"{rank} {name}")


def test_it_learns(tmp_path):
    """Blobs at random places: after 150 steps most of their variance is explained, with most of 16 codes in use."""
    data = str(make_data(tmp_path / "blobs.npz", 16, 1))
    config = resolve([("", {"train_batch_size": 8, "max_train_steps": 150})], "vqvae", VQVAEPipeline)
    torch.manual_seed(0)
    pipeline, images = VQVAEPipeline.build(16, 1, **TINY), load_images(data)
    trainer = Trainer(pipeline, images, config.arguments)
    trainer.train()
    examples = trainer.batches.examples(24)
    with torch.no_grad():
        values, warnings, *_ = VQVAEObjective.diagnose(pipeline, examples)
    assert values["reconstruction_mean_squared_error"] < 0.5 * examples["pixel_values"].var()
    assert values["codebook_usage"] > 0.5
    assert not warnings


# --- codes, bound, diagnosis ----------------------------------------------------------------------------------------


def test_codes(pipeline, images):
    codes = pipeline.encode(images)
    assert (codes.shape, codes.dtype) == ((8, 4, 4), torch.int64)
    torch.testing.assert_close(pipeline.reconstruct(images), pipeline.decode(codes))
    assert torch.equal(pipeline.encode(images[3:5]), codes[3:5])


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(2, 4, 4), "float32"),
        (torch.zeros(2, 3, 4, dtype=torch.int64), r"\(2, 3, 4\); expected int64"),
        (torch.full((2, 4, 4), 16), r"\[16, 16\]; this model has codes 0..15"),
    ],
)
def test_what_is_no_code_is_refused(pipeline, codes, message):
    with pytest.raises(UsageError, match=message):
        pipeline.decode(codes)


def test_images_of_another_range_or_shape_are_refused(pipeline, images):
    for call in (pipeline.encode, pipeline.log_likelihood):
        with pytest.raises(UsageError, match=r"expected \[-1, 1\]"):
            call(images * 255)
        with pytest.raises(UsageError, match="expected \\(B, 1, 16, 16\\)"):
            call(images[:, :, :8])
        with pytest.raises(UsageError, match="3 seeds for 8 images"):
            call(images, seeds=[1, 2, 3])


def test_an_image_is_binarised_by_its_own_seed(images):
    torch.manual_seed(0)
    pipeline = VQVAEPipeline.build(16, 1, **TINY | {"likelihood.class_name": "BernoulliLikelihood"})
    together = pipeline.log_likelihood(images, seeds=range(10, 18)).nats
    torch.testing.assert_close(pipeline.log_likelihood(images[2:3], seeds=[12]).nats, together[2:3])
    assert pipeline.log_likelihood(images[2:3], seeds=[13]).nats != together[2]


def test_a_likelihood_over_bytes_refuses_what_lies_between(images):
    pipeline = VQVAEPipeline.build(16, 1, **TINY | {"likelihood.class_name": "DiscretizedLogisticLikelihood"})
    with pytest.raises(UsageError, match="256 levels"):
        pipeline.log_likelihood(images)


def test_the_bound_against_the_sum_over_all_codes():
    """3^4 = 81 codes: ln p(x) is exact, the bound is its term at the encoder's codes and so below it."""
    torch.manual_seed(0)
    small = {"encoder.latent_dim": 2, "quantizer.num_embeddings": 3, "encoder.num_halvings": 1}
    likelihood = {"likelihood.class_name": "BernoulliLikelihood", "likelihood.binarization": "threshold"}
    pipeline = VQVAEPipeline.build(4, 1, **TINY | small | likelihood)
    images = torch.rand(5, 1, 4, 4) * 2 - 1
    every = torch.tensor(list(itertools.product(range(3), repeat=4))).view(81, 2, 2)
    with torch.no_grad():
        parameters = pipeline.decoder(pipeline.quantizer.embed(every))
        x = torch.where(images >= 0, 1.0, -1.0)
        log_joint = pipeline.likelihood.log_prob(parameters, x[:, None]).double() - 4 * math.log(3)
    bound = pipeline.log_likelihood(images)
    place = (pipeline.encode(images).flatten(1) * torch.tensor([27, 9, 3, 1])).sum(1)
    torch.testing.assert_close(bound.nats, log_joint[torch.arange(5), place], rtol=1e-5, atol=1e-5)
    assert (bound.nats < log_joint.logsumexp(1)).all()
    assert (bound.kind, bound.num_importance_samples) == ("lower bound", None)
    torch.testing.assert_close(bound.bits_per_dim, -bound.nats / (16 * math.log(2)))


def test_a_density_has_no_bits_per_dim(pipeline, images):
    with pytest.raises(UsageError, match="density"):
        _ = pipeline.log_likelihood(images).bits_per_dim


def test_labels_are_needed_where_the_decoder_takes_them(images):
    pipeline = VQVAEPipeline.build(16, 1, 3, **TINY)
    codes = pipeline.encode(images)
    labels = torch.arange(8) % 3
    for call in (pipeline.decode, pipeline.reconstruct, pipeline.log_likelihood):
        argument = codes if call == pipeline.decode else images
        with pytest.raises(UsageError, match="class-conditional; give class_labels"):
            call(argument)
        call(argument, class_labels=labels)


def test_codes_are_drawn_uniformly():
    codes = CodeScheduler(5, (20, 30)).sample(SeededNoise.from_seeds(range(20)))
    assert (codes.shape, codes.dtype) == ((20, 20, 30), torch.int64)
    shares = codes.flatten().bincount() / codes.numel()
    torch.testing.assert_close(shares, torch.full((5,), 0.2), atol=0.02, rtol=0)


def test_no_path_joins_two_codes(pipeline):
    with pytest.raises(UsageError, match="no path joins two"):
        list(pipeline.interpolate([1, 2], 4))
    with pytest.raises(UsageError, match="samples in one step"):
        pipeline(num_inference_steps=3)


def test_a_codebook_of_which_one_code_is_used_is_reported(pipeline, images):
    pipeline.quantizer.codebook[1:] += 1e4
    with torch.no_grad():
        values, warnings, *_ = VQVAEObjective.diagnose(pipeline, {"pixel_values": images})
    assert values["codebook_usage"] == pytest.approx(1 / 16)
    assert values["perplexity"] == pytest.approx(1)
    error = (pipeline.reconstruct(images) - images).square().mean()
    assert values["reconstruction_mean_squared_error"] == pytest.approx(error.item(), rel=1e-5)
    assert "6% of the 16 codes" in warnings[0]
    assert "--quantizer.num_embeddings" in warnings[0]
