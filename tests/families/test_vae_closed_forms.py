"""A VAE that is linear and Gaussian, so that everything is known: probabilistic PCA."""

import math

import numpy as np
import pytest
import torch

from hfgen import load_images
from hfgen.noise import StepNoise
from hfgen.settings.resolve import resolve
from hfgen.training.trainer import Trainer
from hfgen_vae.bounds import kl_divergence
from hfgen_vae.vae import VAEObjective, VAEPipeline

TINY_MLP = {
    "encoder.class_name": "MLPEncoder",
    "decoder.class_name": "MLPDecoder",
    "encoder.hidden_dims": [16],
    "decoder.hidden_dims": [16],
    "encoder.latent_dim": 4,
}


def linear_gaussian(w, variance, mean, logvar):
    """x|z ~ N(W z, variance), one latent; q(z|x) = N(mean, e^logvar) whatever x."""
    linear = {"hidden_dims": [], "latent_dim": 1}
    pipeline = VAEPipeline.build(
        1,
        len(w),
        encoder={**linear, "class_name": "MLPEncoder"},
        decoder={**linear, "class_name": "MLPDecoder"},
        likelihood={"sigma": math.sqrt(variance)},
    )
    with torch.no_grad():
        pipeline.decoder.to_parameters.weight[:, 0] = torch.tensor(w)
        pipeline.decoder.to_parameters.bias.zero_()
        pipeline.encoder.to_moments.weight.zero_()
        pipeline.encoder.to_moments.bias.copy_(torch.tensor([mean, logvar]))
    return pipeline


def images_of(x, count=1):
    return torch.tensor(x)[None, :, None, None].expand(count, len(x), 1, 1)


W, X, EXACT = [1.0, 2.0, 2.0], [1.0, 0.0, -1.0], -5.084051
POSTERIOR = (-2 / 19, -math.log(19))


@pytest.mark.parametrize("num_samples", [1, 7, 250])
def test_the_bound_is_exact_where_q_is_the_posterior(num_samples):
    pipeline = linear_gaussian(W, 0.5, *POSTERIOR)
    found = pipeline.log_likelihood(images_of(X, 5), num_importance_samples=num_samples)
    assert found.nats.tolist() == pytest.approx([EXACT] * 5, abs=1e-4)
    assert (found.kind, found.num_importance_samples) == ("lower bound", num_samples)


def test_the_bound_meets_the_exact_value_at_large_k():
    """Within 0.01 nat of the exact log-likelihood, and not above it by more than its standard error allows."""
    pipeline = linear_gaussian(W, 0.5, 0.0, 0.0)
    found = pipeline.log_likelihood(images_of(X, 100), num_importance_samples=5000)
    assert found.nats.mean().item() == pytest.approx(EXACT, abs=0.01)
    assert found.nats.mean().item() < EXACT + 3 * found.standard_error
    assert found.standard_error < 0.01


@pytest.mark.whole
def test_the_bound_rises_with_k_along_known_values():
    """z ~ N(0, 1), x|z ~ N(z, 1), x = 1, proposal = prior."""
    pipeline = linear_gaussian([1.0], 1.0, 0.0, 0.0)
    known = {1: -1.918939, 2: -1.653474, 3: -1.594066, 5: -1.5576, 50: -1.5190, 500: -1.5158}
    found = {k: pipeline.log_likelihood(images_of([1.0], 4000), num_importance_samples=k) for k in known}
    for k, expected in known.items():
        assert found[k].nats.mean().item() == pytest.approx(expected, abs=4 * found[k].standard_error + 3e-4)
    means = [float(found[k].nats.mean()) for k in known]
    assert means == sorted(means)


@pytest.mark.parametrize(
    ("mean", "variance", "reconstruction", "kl"), [(0.5, 0.25, -9.217095, 0.443147), (*POSTERIOR, -4.079976, 1.004075)]
)
@pytest.mark.whole
def test_the_terms_of_the_elbo(mean, variance, reconstruction, kl):
    logvar = math.log(variance) if variance > 0 else variance
    pipeline = linear_gaussian(W, 0.5, mean, logvar)
    log_prob, divergence = pipeline.elbo(images_of(X, 20000))
    assert divergence[0].item() == pytest.approx(kl, abs=1e-4)
    assert log_prob.mean().item() == pytest.approx(reconstruction, abs=4 * float(log_prob.std()) / math.sqrt(20000))


def test_kl_divergence():
    mean, deviation = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([1.0, 0.5, 0.1])
    assert kl_divergence(mean, 2 * deviation.log()).tolist() == pytest.approx([0.5, 0.318147, 3.807585], abs=1e-6)


def gradients(pipeline, x, **options):
    """The objective's loss and the gradients of both networks."""
    objective = VAEObjective(
        pipeline.encoder, pipeline.decoder, pipeline.likelihood, pipeline.beta_scheduler, **options
    )
    objective.noise = StepNoise(0, 0, slice(0, len(x)), len(x))
    pipeline.encoder.zero_grad()
    pipeline.decoder.zero_grad()
    update = next(objective.training_step({"pixel_values": x}))
    update.loss.backward()
    grads = [[p.grad.clone() for p in model.parameters()] for model in (pipeline.encoder, pipeline.decoder)]
    return update.loss.item(), *grads


@pytest.mark.parametrize("k", [1, 4])
def test_the_doubly_reparameterized_gradient_vanishes_at_the_posterior(k):
    pipeline = linear_gaussian(W, 0.5, *POSTERIOR)
    x = images_of(X, 3)
    _, doubly, _ = gradients(pipeline, x, num_importance_samples=k, gradient_estimator="doubly_reparameterized")
    assert max(g.abs().max().item() for g in doubly) < 1e-4
    if k > 1:
        _, plain, _ = gradients(pipeline, x, num_importance_samples=k)
        assert max(g.abs().max().item() for g in plain) > 1e-2


def test_both_estimators_agree_in_expectation():
    pipeline = linear_gaussian(W, 0.5, 0.3, -1.0)
    x = images_of(X, 20000)
    loss, plain, decoder = gradients(pipeline, x, num_importance_samples=3)
    same_loss, doubly, same_decoder = gradients(
        pipeline, x, num_importance_samples=3, gradient_estimator="doubly_reparameterized"
    )
    assert same_loss == pytest.approx(loss)
    torch.testing.assert_close(doubly[1], plain[1], rtol=0.05, atol=0.02)
    torch.testing.assert_close(same_decoder[0], decoder[0])


def test_the_iwae_gradient_is_that_of_its_bound():
    """Against autograd through the logsumexp itself; the loss is minus the bound."""
    torch.manual_seed(0)
    pipeline = VAEPipeline.build(4, 1, likelihood={"class_name": "BernoulliLikelihood"}, **TINY_MLP)
    x = torch.randint(2, (6, 1, 4, 4)) * 2.0 - 1
    loss, encoder, decoder = gradients(pipeline, x, num_importance_samples=5)
    noise = StepNoise(0, 0, slice(0, 6), 6)
    noise.uniform(1, 4, 4)  # the binarization's
    mean, logvar = pipeline.encoder(x)
    q = torch.distributions.Normal(mean[:, None], torch.exp(logvar / 2)[:, None])
    z = q.loc + q.scale * noise.normal(5, 4)
    logits = pipeline.decoder(z.flatten(0, 1)).unflatten(0, (6, 5))
    log_p = torch.distributions.Bernoulli(logits=logits).log_prob(((x + 1) / 2)[:, None]).flatten(2).sum(2)
    log_w = log_p + (torch.distributions.Normal(0, 1).log_prob(z) - q.log_prob(z)).sum(2)
    expected = -(log_w.logsumexp(1) - math.log(5)).mean()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    parameters = [*pipeline.encoder.parameters(), *pipeline.decoder.parameters()]
    for found, exact in zip([*encoder, *decoder], torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5)


def train(pipeline, path, objective=None, **arguments):
    settings = {"train_batch_size": 64, "checkpointing_steps": 0, "validation_steps": 0, **arguments}
    config = resolve([("test", settings)], "vae", VAEPipeline)
    trainer = Trainer(pipeline, load_images(str(path)), config.arguments, None, objective or {})
    trainer.train()
    return trainer


def test_a_linear_vae_trains_to_probabilistic_pca(tmp_path):
    """Its optimum is known (Lucas et al. 2019, arXiv:1911.02469; Tipping & Bishop 1999): training reaches it, from
    below, with the noise variance among what it learns."""
    random = np.random.default_rng(0)
    factors, basis = random.normal(size=(4096, 2)), random.normal(size=(2, 9))
    pixels = np.clip(128 + 20 * factors @ basis + 16 * random.normal(size=(4096, 9)), 0, 255).astype(np.uint8)
    np.save(tmp_path / "x.npy", pixels.reshape(-1, 3, 3))
    x = pixels / 127.5 - 1
    eigenvalues = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    variance = eigenvalues[2:].mean()
    optimum = -0.5 * (9 * math.log(2 * math.pi) + np.log(eigenvalues[:2]).sum() + 7 * math.log(variance) + 9)
    torch.manual_seed(0)
    linear = {"hidden_dims": [], "latent_dim": 2}
    pipeline = VAEPipeline.build(
        3,
        1,
        encoder={"class_name": "MLPEncoder", **linear},
        decoder={"class_name": "MLPDecoder", **linear},
        likelihood={"class_name": "GaussianLikelihood"},
    )
    train(
        pipeline,
        tmp_path / "x.npy",
        max_train_steps=1200,
        learning_rate=0.04,
        lr_scheduler="cosine",
        train_batch_size=256,
    )
    images = torch.tensor(x, dtype=torch.float32).reshape(-1, 1, 3, 3)
    found = pipeline.log_likelihood(images, num_importance_samples=100)
    assert optimum - 0.05 < found.nats.mean().item() < optimum + 1e-3
    assert pipeline.likelihood.variance.item() == pytest.approx(variance, rel=0.05)
