"""Noise and the prior: what each image's share depends on."""

import math

import pytest
import torch

from hfgen import PriorScheduler, noise_for
from hfgen.data.layout import Layout
from hfgen.errors import UsageError
from hfgen.noise import SeededNoise, StepNoise


@pytest.mark.parametrize("draw", ["normal", "uniform"])
def test_a_seed_gives_its_tensor_whatever_stands_beside_it(draw):
    alone = getattr(SeededNoise.from_seeds([7]), draw)(3, 5)
    among = getattr(SeededNoise.from_seeds([1, 7, 2]), draw)(3, 5)
    assert torch.equal(alone[0], among[1])
    assert not torch.equal(among[0], among[1])


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        ([2**64], f"seeds must be of 64 bits; got {2**64}"),
        ([-(2**63) - 1], f"seeds must be of 64 bits; got -{2**63 + 1}"),
        ([0.5], r"seeds must be whole numbers, one for each image; got \[0.5\]"),
        ([1, 2], "2 seeds for 1 images"),
    ],
)
def test_seeds_that_noise_cannot_be_made_from(seeds, words):
    with pytest.raises(UsageError, match=words):
        noise_for(1, seeds, torch.device("cpu"))


def test_the_outermost_seeds():
    noise = noise_for(2, [2**64 - 1, -(2**63)], torch.device("cpu"))
    assert noise.normal(4).isfinite().all()


@pytest.mark.parametrize("draw", ["normal", "uniform"])
def test_step_noise_is_one_draw_of_the_global_batch(draw):
    """Two processes with two micro-batches hold, together, what one process draws."""
    [whole] = [getattr(StepNoise(0, 5, slice(0, 8), 8), draw)(3)]
    for rank in (0, 1):
        for micro in (0, 1):
            rows = Layout(2, 2, rank, 2).rows(micro)
            assert torch.equal(getattr(StepNoise(0, 5, rows, 8), draw)(3), whole[rows])


def test_step_noise_differs_by_step_and_seed_and_draw():
    draws = [StepNoise(seed, step, slice(0, 2), 2).normal(4) for seed in (0, 1) for step in (0, 1)]
    noise = StepNoise(0, 0, slice(0, 2), 2)
    draws += [noise.normal(4), noise.normal(4)]
    assert torch.equal(draws[0], draws[4])
    assert len({tuple(d.flatten().tolist()) for d in draws}) == 5


def test_normal_prior_moments_and_temperature():
    noise = SeededNoise.from_seeds(range(400))
    z = PriorScheduler(latent_shape=[50], temperature=0.7).sample(noise)
    assert z.shape == (400, 50)
    assert z.std() == pytest.approx(0.7, abs=0.02)
    again = PriorScheduler(latent_shape=[50], temperature=0.7).sample_prior(SeededNoise.from_seeds(range(400)))
    assert again.std() == pytest.approx(1.0, abs=0.02), "training draws at temperature 1"


def test_truncated_normal_has_its_closed_form_variance():
    """Var = 1 - 2 t phi(t) / (2 Phi(t) - 1)."""
    t = 1.2
    z = PriorScheduler(latent_shape=[200], truncation=t).sample(SeededNoise.from_seeds(range(500))).double()
    phi, mass = math.exp(-t * t / 2) / math.sqrt(2 * math.pi), math.erf(t / math.sqrt(2))
    assert z.abs().max() <= t
    assert z.var().item() == pytest.approx(1 - 2 * t * phi / mass, rel=0.02)


def test_uniform_prior():
    z = PriorScheduler(latent_shape=[200], distribution="uniform").sample(SeededNoise.from_seeds(range(200)))
    assert z.min() >= -1
    assert z.max() < 1
    assert z.var().item() == pytest.approx(1 / 3, rel=0.02)


def test_the_great_circle_keeps_the_norm_of_orthogonal_latents():
    scheduler = PriorScheduler(latent_shape=[2])
    a, b = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    middle = scheduler.interpolate(a, b, 0.5)
    torch.testing.assert_close(middle, torch.full((1, 2), math.sqrt(2)))
    torch.testing.assert_close(scheduler.interpolate(a, b, 0.0), a)
    torch.testing.assert_close(scheduler.interpolate(a, a, 0.3), a)


def test_one_step():
    scheduler = PriorScheduler()
    assert scheduler.timesteps.tolist() == [0]
    scheduler.set_timesteps(1)
    with pytest.raises(UsageError, match="samples in one step"):
        scheduler.set_timesteps(50)


def test_it_is_saved_and_swapped_by_from_config(tmp_path):
    PriorScheduler(latent_shape=[3, 4], truncation=2.0).save_pretrained(tmp_path)
    loaded = PriorScheduler.from_pretrained(tmp_path)
    assert (list(loaded.config.latent_shape), loaded.config.truncation) == ([3, 4], 2.0)
    assert PriorScheduler.from_config(loaded.config, temperature=0.5).config.temperature == 0.5


@pytest.mark.parametrize(
    "options",
    [
        {"distribution": "cauchy"},
        {"latent_shape": []},
        {"latent_shape": [0]},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"truncation": 0.0},
        {"distribution": "uniform", "temperature": 0.7},
    ],
)
def test_values_out_of_range_are_refused(options):
    with pytest.raises(UsageError, match="scheduler"):
        PriorScheduler(**options)


def test_rows_by_index_are_the_micro_batches_together():
    """What is drawn for all micro-batches at once is what each would draw."""
    layout = Layout(2, num_processes=2, process_index=1, accumulation=3)
    rows = [layout.rows(micro) for micro in range(3)]
    together = StepNoise(0, 0, torch.cat([torch.arange(12)[r] for r in rows]), 12)
    assert len(together) == 6
    alone = torch.cat([StepNoise(0, 0, r, 12).uniform(3) for r in rows])
    assert torch.equal(together.uniform(3), alone)


@pytest.mark.parametrize("distribution", ["normal", "logistic", "uniform"])
def test_priors_know_their_density(distribution):
    """ln p against torch's, and of what is drawn the density says the entropy."""
    scheduler = PriorScheduler([2, 3], distribution)
    unit = torch.distributions.Uniform(0, 1)
    logistic = torch.distributions.TransformedDistribution(unit, [torch.distributions.SigmoidTransform().inv])
    torchs = {"normal": torch.distributions.Normal(0, 1), "logistic": logistic}
    torchs["uniform"] = torch.distributions.Uniform(-1, 1)
    z = scheduler.sample_prior(SeededNoise.from_seeds(range(2000)))
    expected = torchs[distribution].log_prob(z).flatten(1).sum(1)
    torch.testing.assert_close(scheduler.log_prob(z), expected, rtol=1e-5, atol=1e-4)
    entropy = {"normal": 1.418939, "logistic": 2.0, "uniform": 0.693147}[distribution] * 6
    assert -scheduler.log_prob(z).mean().item() == pytest.approx(entropy, abs=0.1)
    outside = scheduler.log_prob(torch.full((1, 2, 3), 1.5)).item()
    assert (outside == -math.inf) == (distribution == "uniform")


def test_what_a_prior_cannot_have_is_refused():
    for distribution, options in (("uniform", {"temperature": 0.7}), ("logistic", {"truncation": 1.0})):
        with pytest.raises(UsageError, match="belongs to a normal"):
            PriorScheduler([4], distribution, **options)
    noise = [SeededNoise.from_seeds([0]) for _ in range(2)]
    half = PriorScheduler([4], "logistic", temperature=0.5).sample(noise[0])
    torch.testing.assert_close(half, PriorScheduler([4], "logistic").sample(noise[1]) / 2)
