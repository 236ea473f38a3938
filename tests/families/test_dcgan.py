"""DCGAN: the laws, its exact networks, its losses' known values, its pitfalls."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from hfgen.errors import UsageError
from hfgen.noise import SeededNoise, StepNoise
from hfgen.testing import FamilyTests
from hfgen_gan.dcgan import (
    DCGANDiscriminator,
    DCGANGenerator,
    DCGANObjective,
    DCGANPipeline,
    discriminator_loss,
    minimax_loss,
    non_saturating_loss,
    split_size,
)

TINY = {"generator.base_channels": 8, "generator.latent_dim": 12, "discriminator.base_channels": 8}


class TestDCGAN(FamilyTests):
    family = "dcgan"
    in_shards = True  # two networks take turns, one frozen at a time; BatchNorm has buffers
    overrides = TINY
    num_classes = 3


class TestColorDCGAN(FamilyTests):
    family = "dcgan"
    in_processes = False
    overrides = TINY
    in_channels = 3


# --- the networks ---------------------------------------------------------------------------------------------------


def classic_generator(width=64, channels=1):
    """The generator as the Torch code and every tutorial since write it, one flat Sequential."""
    sizes = [100, width * 8, width * 4, width * 2, width]
    layers = [nn.ConvTranspose2d(100, width * 8, 4, 1, 0, bias=False), nn.BatchNorm2d(width * 8), nn.ReLU()]
    for before, after in pairwise(sizes[1:]):
        layers += [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(width, channels, 4, 2, 1, bias=False), nn.Tanh())


def classic_discriminator(width=64, channels=1):
    layers = [nn.Conv2d(channels, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    for factor in (1, 2, 4):
        after = width * factor * 2
        layers += [nn.Conv2d(width * factor, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(width * 8, 1, 4, 1, 0, bias=False))


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("channels", "sizes"), [(1, (3_574_656, 2_763_520)), (3, (3_576_704, 2_765_568))])
def test_parameters_at_64(channels, sizes):
    assert (count(DCGANGenerator(64, channels)), count(DCGANDiscriminator(64, channels))) == sizes


def test_the_classic_networks_load_by_renaming_keys_only():
    """Same tensors in the same order; equal outputs, in eval and in training mode."""
    torch.manual_seed(0)
    z, x = torch.randn(4, 100), torch.rand(4, 1, 64, 64) * 2 - 1
    pairs = [
        (classic_generator(16), DCGANGenerator(64, 1, base_channels=16), z[:, :, None, None], z),
        (classic_discriminator(16), DCGANDiscriminator(64, 1, base_channels=16), x, x),
    ]
    for classic, ours, classic_input, our_input in pairs:
        theirs = classic.state_dict()
        ours.load_state_dict(dict(zip(ours.state_dict(), theirs.values(), strict=True)))
        for mode in (True, False):
            classic.train(mode), ours.train(mode)
            torch.testing.assert_close(ours(our_input).flatten(), classic(classic_input).flatten())


@pytest.mark.parametrize("size", [8, 10, 12, 14, 28, 32, 64, 128])
@pytest.mark.parametrize("channels", [1, 4])
def test_any_size_and_channels(size, channels):
    generator = DCGANGenerator(size, channels, latent_dim=5, base_channels=2)
    images = generator(torch.randn(2, 5))
    assert images.shape == (2, channels, size, size)
    assert DCGANDiscriminator(size, channels, base_channels=2)(images).shape == (2,)


@pytest.mark.parametrize("size", [1, 4, 7, 9, 30, 100])
def test_sizes_that_cannot_be_made_are_told_with_near_ones(size):
    with pytest.raises(UsageError, match=f"cannot make {size}x{size}.*\n.*--resolution"):
        split_size(size)


def test_an_activation_that_is_none_is_refused():
    with pytest.raises(UsageError, match="activation is 'tanh'; it can be relu or leaky_relu"):
        DCGANGenerator(16, activation="tanh")


def test_initial_weights():
    torch.manual_seed(0)
    generator = DCGANGenerator(64, 1)
    assert generator.to_image.weight.std().item() == pytest.approx(0.02, rel=0.05)
    norm = generator.blocks[0][1]
    assert norm.weight.mean().item() == pytest.approx(1, abs=0.01)
    assert norm.weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert norm.bias.abs().max() == 0
    assert not any(name.endswith("bias") and "1.bias" not in name for name in generator.state_dict())


def test_the_discriminator_returns_logits():
    logits = DCGANDiscriminator(16, 1, base_channels=8)(torch.rand(64, 1, 16, 16) * 100)
    assert logits.min() < 0 < logits.max()


# --- the losses -----------------------------------------------------------------------------------------------------


def test_losses_at_zero_logits():
    zero = torch.zeros(8)
    assert discriminator_loss(zero, zero).item() == pytest.approx(2 * math.log(2))
    assert non_saturating_loss(zero).item() == pytest.approx(math.log(2))
    assert minimax_loss(zero).item() == pytest.approx(-math.log(2))


def test_losses_of_the_optimal_discriminator_of_two_gaussians():
    """p = N(0,1), q = N(1,1), D's logit 1/2 - x: the discriminator's loss is 2 log 2 - 2 JSD = 1.163451."""
    torch.manual_seed(0)
    x = torch.randn(4_000_000, dtype=torch.float64)
    real, fake = 0.5 - x, 0.5 - (x + 1)
    assert discriminator_loss(real, fake).item() == pytest.approx(1.163451, abs=2e-3)
    assert non_saturating_loss(fake).item() == pytest.approx(1.081726, abs=2e-3)
    assert minimax_loss(fake).item() == pytest.approx(-0.581726, abs=2e-3)


def test_sure_logits_still_have_a_gradient():
    """A sigmoid before the logarithm would have none, from 17 on in float32."""
    logits = torch.tensor([40.0], requires_grad=True)
    discriminator_loss(torch.zeros(1), logits).backward()
    assert logits.grad.item() == pytest.approx(1.0)
    sure = torch.tensor([-90.0], requires_grad=True)
    non_saturating_loss(sure).backward()
    assert sure.grad.item() == pytest.approx(-1.0)


def test_losses_are_float32_whatever_the_logits():
    assert discriminator_loss(torch.zeros(2, dtype=torch.bfloat16), torch.zeros(2)).dtype == torch.float32


def radius(generator_loss, steps=500, rate=0.1):
    """Dirac-GAN (Mescheder et al. 2018): data at 0, G = theta, D(x) = psi x; simultaneous gradient steps."""
    psi, theta = torch.tensor(1.0, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    for _ in range(steps):
        fake = (psi * theta)[None]
        d_psi = torch.autograd.grad(discriminator_loss(torch.zeros(1), fake), psi, retain_graph=True)[0]
        d_theta = torch.autograd.grad(generator_loss(fake), theta)[0]
        with torch.no_grad():
            psi -= rate * d_psi
            theta -= rate * d_theta
    return math.hypot(psi.item(), theta.item())


@pytest.mark.whole
def test_dirac_gan():
    """The known radii after 500 steps fix every sign: minimax spirals out, non-saturating circles."""
    assert radius(minimax_loss) == pytest.approx(2.179304, abs=1e-3)
    assert radius(non_saturating_loss) == pytest.approx(0.521108, abs=1e-3)


# --- the step -------------------------------------------------------------------------------------------------------


@pytest.fixture
def pipeline():
    torch.manual_seed(0)
    pipeline = DCGANPipeline.build(16, 1, **TINY)
    for model in pipeline.models().values():
        model.train()
    return pipeline


@pytest.fixture
def batch():
    return {"pixel_values": torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1}


def objective_of(pipeline, **options):
    objective = DCGANObjective(pipeline.generator, pipeline.discriminator, pipeline.scheduler, **options)
    objective.noise = StepNoise(0, 0, slice(0, 8), 8)
    return objective


def test_real_and_fake_pass_the_discriminator_apart(pipeline, batch):
    """With BatchNorm, one joint batch would give other logits."""
    seen = []
    pipeline.discriminator.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    update = next(objective_of(pipeline).training_step(batch))
    assert [len(x) for x in seen] == [8, 8]
    assert torch.equal(seen[0], batch["pixel_values"])
    apart = discriminator_loss(pipeline.discriminator(seen[0]), pipeline.discriminator(seen[1]))
    joint = pipeline.discriminator(torch.cat(seen[:2]))
    assert update.loss.item() == pytest.approx(apart.item())
    assert discriminator_loss(joint[:8], joint[8:]).item() != pytest.approx(apart.item(), abs=1e-3)


def test_each_loss_reaches_its_own_network_only(pipeline, batch):
    steps = objective_of(pipeline).training_step(batch)
    next(steps).loss.backward()
    assert all(p.grad is None for p in pipeline.generator.parameters())
    kept = [p.grad.clone() for p in pipeline.discriminator.parameters()]
    next(steps).loss.backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(pipeline.discriminator.parameters(), kept, strict=True))
    assert all(p.grad is not None for p in pipeline.generator.parameters())
    assert next(steps, None) is None
    assert all(p.requires_grad for p in pipeline.discriminator.parameters())


def test_the_generator_meets_the_updated_discriminator_with_the_same_fakes(pipeline, batch):
    fakes = []
    pipeline.discriminator.register_forward_pre_hook(lambda module, inputs: fakes.append(inputs[0].detach()))
    steps = objective_of(pipeline).training_step(batch)
    next(steps)
    with torch.no_grad():
        pipeline.discriminator.to_logit.weight.zero_()
    assert next(steps).loss.item() == pytest.approx(math.log(2))
    assert torch.equal(fakes[1], fakes[2])


def test_minimax_by_name(pipeline, batch):
    steps = objective_of(pipeline, loss="minimax").training_step(batch)
    next(steps)
    assert next(steps).loss.item() < 0


# --- statistics -----------------------------------------------------------------------------------------------------


def test_refreshed_statistics_are_those_of_the_weights(pipeline):
    """After doubling a layer's weights its output's statistics are twice and four times what they were."""
    generator = pipeline.generator
    DCGANObjective.refresh_statistics(pipeline)
    before = copy.deepcopy(generator.blocks[0][1].state_dict())
    with torch.no_grad():
        generator.blocks[0][0].weight.mul_(2)
    random_state = torch.get_rng_state()
    DCGANObjective.refresh_statistics(pipeline)
    after = generator.blocks[0][1].state_dict()
    torch.testing.assert_close(after["running_mean"], before["running_mean"] * 2)
    torch.testing.assert_close(after["running_var"], before["running_var"] * 4)
    assert torch.equal(random_state, torch.get_rng_state()), "training's random state was disturbed"
    assert generator.training


def test_sampling_does_not_touch_the_running_statistics(pipeline):
    before = copy.deepcopy(pipeline.generator.state_dict())
    pipeline(seeds=[0, 1])
    assert all(torch.equal(before[name], tensor) for name, tensor in pipeline.generator.state_dict().items())
    assert pipeline.generator.training


def test_a_latent_walk_visits_its_seeds(pipeline):
    frames = list(pipeline.interpolate([3, 9], num_frames=4))
    stills = pipeline(seeds=[3, 9]).images
    assert len(frames) == 4
    assert frames[0].tobytes() == stills[0].tobytes()
    assert frames[2].tobytes() == stills[1].tobytes()
    assert frames[1].tobytes() not in (stills[0].tobytes(), stills[1].tobytes())
    with pytest.raises(UsageError, match="at least two seeds"):
        list(pipeline.interpolate([3], 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.encode(torch.zeros(1, 1, 16, 16)), "DCGANPipeline has no encode"),
        (lambda p: p.reconstruct(torch.zeros(1, 1, 16, 16)), "DCGANPipeline has no encode"),
        (lambda p: p.log_likelihood(torch.zeros(1, 1, 16, 16)), "DCGANPipeline has no log_likelihood"),
        (lambda p: p(num_inference_steps=50), "samples in one step"),
    ],
)
def test_what_a_gan_cannot_do_is_said(pipeline, call, message):
    with pytest.raises(UsageError, match=message):
        call(pipeline)


def test_it_loads_and_samples_without_its_discriminator(pipeline, tmp_path):
    pipeline.discriminator = None
    alone = DCGANPipeline(generator=pipeline.generator, scheduler=pipeline.scheduler)
    alone.save_pretrained(tmp_path)
    assert not (tmp_path / "discriminator").exists()
    loaded = DCGANPipeline.from_pretrained(tmp_path)
    assert loaded(seeds=[1]).images[0].tobytes() == alone(seeds=[1]).images[0].tobytes()


def test_truncation_narrows_the_latents(pipeline):
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, truncation=0.5)
    assert pipeline.latents(SeededNoise.from_seeds([1, 2])).abs().max() <= 0.5
