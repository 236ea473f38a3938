"""What a diffusion learns, and what its pipeline is told and refuses."""

import math
import warnings

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, LCMScheduler, PNDMScheduler, UNet2DModel
from tiny_diffusion import BATCH, images, tiny
from torch import nn

from hfgen.errors import UsageError
from hfgen.noise import SeededNoise, StepNoise
from hfgen_diffusion.bound import bound_terms
from hfgen_diffusion.ddim import DDIMPipeline
from hfgen_diffusion.ddpm import DDPMPipeline
from hfgen_diffusion.networks import unet_config
from hfgen_diffusion.objective import DDPMObjective
from hfgen_diffusion.process import ForwardProcess


class Exact(nn.Module):
    """Stands where the network does: it knows x_0, and says what is asked of it; `error` is added."""

    def __init__(self, process, x0, error=0.0, v=None):
        super().__init__()
        self.process, self.x0, self.error, self.v = process, x0, error, v
        self.asked = []

    def forward(self, x_t, t, class_labels=None, return_dict=False):
        signal, noise = self.process.scales(t)
        output = self.process.target(self.x0, (x_t - signal * self.x0) / noise, t) + self.error
        self.asked.append((t, class_labels))
        return (output if self.v is None else torch.cat([output, torch.full_like(output, self.v)], dim=1),)


def loss_of(scheduler, error=0.0, v=None, **options):
    """(loss, metrics) of one step, and the levels that were drawn."""
    process, x0 = ForwardProcess(scheduler), images()
    network = Exact(process, x0, error, v)
    objective = DDPMObjective(network, scheduler, **options)
    objective.noise = StepNoise(0, 0, slice(0, BATCH), BATCH)
    (update,) = objective.training_step({"pixel_values": x0})
    return update, network.asked[0][0], process


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("beta_schedule", ["linear", "squaredcos_cap_v2"])
def test_a_perfect_prediction_costs_nothing_and_another_its_square(prediction_type, beta_schedule):
    scheduler = DDPMScheduler(prediction_type=prediction_type, beta_schedule=beta_schedule)
    assert float(loss_of(scheduler)[0].loss) < 1e-8
    assert float(loss_of(scheduler, error=0.5)[0].loss) == pytest.approx(0.25, rel=1e-3)


@pytest.mark.parametrize(
    ("prediction_type", "weight"),
    [
        ("epsilon", lambda snr: min(snr, 5) / snr),
        ("sample", lambda snr: min(snr, 5)),
        ("v_prediction", lambda snr: min(snr, 5) / (snr + 1)),
    ],
)
def test_min_snr_weights(prediction_type, weight):
    """Hang et al. 2023, of each of the three; SNR crosses 5 between t = 129 and 130 of the linear schedule."""
    scheduler = DDPMScheduler(prediction_type=prediction_type)
    update, t, process = loss_of(scheduler, error=0.5, snr_gamma=5.0)
    alphas = [process.alpha_bar(level) for level in t.tolist()]
    expected = sum(0.25 * weight(a / (1 - a)) for a in alphas) / BATCH
    assert float(update.loss) == pytest.approx(expected, rel=1e-3)
    assert any(a / (1 - a) > 5 for a in alphas)
    assert any(a / (1 - a) < 5 for a in alphas)


def test_the_hybrid_loss_learns_the_variance_from_the_bound_and_the_mean_from_the_simple_loss():
    """Nichol & Dhariwal 2021: the bound's gradient stops before the mean."""
    pipeline = tiny(**{"scheduler.variance_type": "learned_range"})
    gradients = {}
    for weight in (0.0, 1000.0):
        objective = DDPMObjective(pipeline.unet, pipeline.scheduler, bound_weight=weight)
        objective.noise = StepNoise(0, 0, slice(0, BATCH), BATCH)
        (update,) = objective.training_step({"pixel_values": images()})
        pipeline.unet.zero_grad()
        update.loss.backward()
        gradients[weight] = pipeline.unet.conv_out.bias.grad.clone()
        assert set(update.metrics) == {"simple_loss", "bound"}
    assert float(gradients[0.0][1]) == 0, "the simple loss says nothing of the variance"
    assert abs(float(gradients[1000.0][1])) > 0
    torch.testing.assert_close(gradients[0.0][0], gradients[1000.0][0])


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large", "learned_range"])
def test_the_bound_as_a_loss_is_the_bound_that_is_measured(variance_type):
    """Its mean over levels, times T, is all terms but the prior's, for the same error of the network."""
    scheduler = DDPMScheduler(num_train_timesteps=6, beta_end=0.5, variance_type=variance_type, clip_sample=False)
    process, x0 = ForwardProcess(scheduler), images()
    network = Exact(process, x0, 0.1, 0.3 if variance_type == "learned_range" else None)
    objective = DDPMObjective(network, scheduler, loss_type="bound")
    total = 0.0
    for t in range(6):
        level = torch.full((BATCH,), t)
        x_t = process.add_noise(x0, torch.zeros_like(x0), level)
        output = network(x_t, level)[0]
        output, v = output.chunk(2, dim=1) if network.v is not None else (output, None)
        total += float(objective._bound(x0, x_t, output, v, level)) / 6
    terms = bound_terms(
        lambda x, t: network(x, t.expand(len(x)))[0], process, x0, SeededNoise.from_seeds(range(BATCH)), None, "none"
    )
    expected = float((terms.diffusion + terms.decoder).mean()) / x0[0].numel() / math.log(2)
    assert total == pytest.approx(expected, rel=1e-4)


def test_labels_are_dropped_as_often_as_said():
    """And replaced by the class after the last, which guidance samples with."""
    pipeline = tiny(3)
    assert pipeline.unet.config.num_class_embeds == 4
    assert pipeline.num_classes == 3
    objective = DDPMObjective(pipeline.unet, pipeline.scheduler, conditioning_dropout_prob=0.25)
    objective.noise = StepNoise(0, 0, slice(0, 4000), 4000)
    labels = objective.labels({"class_labels": torch.arange(4000) % 3}, objective.noise)
    assert set(labels.tolist()) == {0, 1, 2, 3}
    assert float((labels == 3).float().mean()) == pytest.approx(0.25, abs=0.03)
    kept = labels != 3
    assert torch.equal(labels[kept], (torch.arange(4000) % 3)[kept])


@pytest.mark.whole
def test_guidance():
    """w = 1 is the conditional model, w = 0 the one without labels, and between and beyond it is linear."""
    pipeline = tiny(3)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor(4)
    label, null = torch.tensor([1, 2]), torch.tensor([3, 3])
    with torch.no_grad():
        outputs = {w: pipeline.denoiser(label, w)(x, t) for w in (0.0, 1.0, 3.0)}
        without, conditional = pipeline.denoiser(null)(x, t), pipeline.denoiser(label)(x, t)
    torch.testing.assert_close(outputs[1.0], conditional)
    torch.testing.assert_close(outputs[0.0], without)
    five = {"rtol": 5 * 1.3e-6, "atol": 5e-5}  # 3 times the error of one and twice that of the other
    torch.testing.assert_close(outputs[3.0], without + 3 * (conditional - without), **five)
    one, three = (pipeline(seeds=[1], class_labels=[2], guidance_scale=w, output_type="pt").images for w in (1.0, 3.0))
    torch.testing.assert_close(one, pipeline(seeds=[1], class_labels=[2], output_type="pt").images)
    assert (one - three).abs().max() > 0
    with pytest.raises(UsageError, match="guidance_scale needs a class-conditional model"):
        tiny()(guidance_scale=2.0)


def test_ancestral_sampling_in_few_steps_draws_the_small_variance():
    """Fixed-large is for the whole chain: with few steps it would leave its noise in the image."""
    large, small = (tiny(**{"scheduler.variance_type": kind}) for kind in ("fixed_large", "fixed_small"))
    small.unet.load_state_dict(large.unet.state_dict())
    drawn = {
        n: [p(seeds=[3], num_inference_steps=n, output_type="pt").images for p in (large, small)] for n in (5, 10)
    }
    assert torch.equal(*drawn[5])
    assert (drawn[10][0] - drawn[10][1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_inference_steps": 11}, "num_inference_steps is 11; this model has 10"),
        ({"eta": 0.5}, "eta belongs to DDIM"),
        ({"clip_sample": "all"}, "clip_sample is 'all'"),
        ({"timestep_spacing": "cubic"}, "timestep_spacing is 'cubic'"),
        ({"timesteps": [3, 5]}, "expected falling numbers"),
        ({"timesteps": [3], "num_inference_steps": 1}, "either timesteps"),
        ({"guidance": 3.0}, "takes no guidance"),
    ],
)
def test_what_cannot_be_sampled_is_refused(options, said):
    with pytest.raises(UsageError, match=said):
        tiny()(**options)


def test_schedulers_that_cannot_stand_in_are_refused():
    pipeline = tiny()
    with pytest.raises(UsageError, match="LCMScheduler does not draw from"):
        DDPMPipeline(pipeline.unet, LCMScheduler.from_config(pipeline.scheduler.config))(num_inference_steps=3)
    spaced = PNDMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    with pytest.raises(UsageError, match="PNDMScheduler steps past"):
        DDPMPipeline(pipeline.unet, spaced)(num_inference_steps=3)
    from hfgen import PriorScheduler

    with pytest.raises(UsageError, match="says nothing of a diffusion's noise levels"):
        DDPMPipeline(pipeline.unet, PriorScheduler())
    ddim = DDIMPipeline(pipeline.unet, DDIMScheduler.from_config(pipeline.scheduler.config))
    with pytest.raises(UsageError, match=r"eta is 1\.5"):
        ddim(eta=1.5)


def test_wrong_options_of_objective_and_networks_are_refused():
    pipeline = tiny()
    for options, said in (
        ({"snr_gamma": -1.0}, "snr_gamma"),
        ({"snr_gamma": 5.0, "loss_type": "bound"}, "snr_gamma"),
        ({"bound_weight": -1.0}, "bound_weight"),
        ({"conditioning_dropout_prob": 1.0}, "conditioning_dropout_prob"),
        ({"loss_type": "vlb"}, "loss_type"),
    ):
        with pytest.raises(UsageError, match=said):
            DDPMObjective(pipeline.unet, pipeline.scheduler, **options)
    with pytest.raises(UsageError, match="out_channels is 1; with 1 channels .* learned_range it is 2"):
        DDPMPipeline(pipeline.unet, DDPMScheduler(variance_type="learned_range"))
    for size, overrides, said in (
        (30, {}, "Try --resolution 28 or 32"),
        (28, {"unet.block_out_channels": [8, 8, 8, 8]}, "halve the side 3 times"),
        (8, {"unet.block_out_channels": [6, 9], "unet.norm_num_groups": 2}, "norm_num_groups is 2"),
        (8, {"unet.block_out_channels": [8, 8], "unet.down_block_types": ["DownBlock2D"]}, "equal length"),
    ):
        with pytest.raises(UsageError, match=said):
            DDPMPipeline.build(size, 1, **overrides)


@pytest.mark.parametrize(
    ("size", "channels", "levels"), [(28, 1, 3), (32, 3, 3), (36, 3, 3), (64, 3, 4), (128, 4, 5), (256, 3, 6)]
)
@pytest.mark.whole
def test_the_default_network_takes_images_of_that_size(size, channels, levels):
    """As they are: nothing is padded. One head of attention as wide as its level."""
    with torch.device("meta"):
        unet = UNet2DModel(**unet_config(size, channels, None, False, {}))
        output = unet(torch.empty(1, channels, size, size, device="meta"), torch.empty(1, device="meta")).sample
    assert output.shape == (1, channels, size, size)
    assert len(unet.config.block_out_channels) == levels
    heads = [module.heads for module in unet.modules() if hasattr(module, "heads")]
    assert set(heads) == {1}


def test_the_cifar_network_is_the_papers():
    """35.7 million parameters, as google/ddpm-cifar10-32."""
    import yaml

    from hfgen.commands.recipes import list_recipes

    given = yaml.safe_load(list_recipes()["ddpm-cifar10"].read_text())["unet"]
    with torch.device("meta"):
        unet = UNet2DModel(**{**unet_config(32, 3, None, False, given), **given})
    assert sum(p.numel() for p in unet.parameters()) == 35_746_307


def test_fewer_levels_have_as_much_noise():
    """With T levels instead of 1,000, betas are 1000 / T times as large, and the last level is noise again."""
    for levels in (1000, 100):
        pipeline = tiny(**{"scheduler.num_train_timesteps": levels})
        assert ForwardProcess(pipeline.scheduler).alpha_bar(levels - 1) < 1e-4
        assert pipeline.scheduler.config.beta_end == pytest.approx(20 / levels)


@pytest.mark.whole
def test_likelihoods_are_called_what_they_are():
    pipeline = tiny()
    bound = pipeline.log_likelihood(images(2))
    assert bound.kind == "lower bound"
    assert "variational bound, 10 of 10 levels" in str(bound)
    some = pipeline.log_likelihood(images(2), num_timesteps=3)
    assert "4 of 10 levels" in str(some)
    estimate = pipeline.log_likelihood(images(2), method="probability_flow", num_ode_steps=4)
    assert estimate.kind == "estimate"
    assert "probability-flow ODE, 4 Runge-Kutta steps" in str(estimate)
    assert estimate.bits_per_dim.isfinite().all()
    alone = pipeline.log_likelihood(images(2)[1:], method="probability_flow", num_ode_steps=4, seeds=[1])
    torch.testing.assert_close(alone.nats, estimate.nats[1:], rtol=1e-4, atol=1e-2)
    for options, said in (
        ({"method": "exact"}, "method is 'exact'"),
        ({"num_timesteps": 0}, "num_timesteps is 0"),
        ({"method": "probability_flow", "num_ode_steps": 0}, "num_ode_steps is 0"),
        ({"clip_sample": "all"}, "clip_sample is 'all'"),
    ):
        with pytest.raises(UsageError, match=said):
            pipeline.log_likelihood(images(1), **options)
    zero = {"scheduler.prediction_type": "v_prediction", "scheduler.rescale_betas_zero_snr": True}
    with pytest.raises(UsageError, match="noise alone"):
        tiny(**zero).log_likelihood(images(1), method="probability_flow")
    with pytest.raises(UsageError, match="values in between"):
        pipeline.log_likelihood(images(1) * 0.5)


@pytest.mark.whole
def test_a_latent_walk_keeps_the_noise_at_its_length():
    pipeline = tiny(family=DDIMPipeline)
    frames = list(pipeline.interpolate([1, 2], num_frames=4))
    image = pipeline(seeds=[1], clip_sample="none").images[0]
    assert frames[0].size == (8, 8)
    assert np.abs(np.asarray(frames[0], dtype=int) - np.asarray(image, dtype=int)).max() <= 1
    middle = pipeline.between(torch.randn(1, 1, 64, 64), torch.randn(1, 1, 64, 64), 0.5)
    assert float(middle.std()) == pytest.approx(1, abs=0.03)


@pytest.mark.whole
def test_a_latent_walk_takes_the_steps_and_the_guidance_of_decode():
    pipeline = tiny(num_classes=3)
    for parameter in pipeline.unet.parameters():  # the last layer begins at zero
        parameter.data.normal_(0, 0.1)
    walks = [{}, {"num_inference_steps": 2}, {"guidance_scale": 5.0}]
    first = [np.asarray(next(pipeline.interpolate([1, 2], 2, [0, 1], **options))).tobytes() for options in walks]
    assert len(set(first)) == 3
    with pytest.raises(UsageError, match="DDPMPipeline.decode takes no eta. Known: guidance_scale, num_inference"):
        next(pipeline.interpolate([1, 2], 2, [0, 1], eta=1.0))
    x = images(2)
    ways = [pipeline.reconstruct(x, torch.tensor([0, 1]), num_inference_steps=n) for n in (2, 10)]
    assert not torch.equal(*ways)
    with pytest.raises(UsageError, match="DDPMPipeline.encode takes no guidance_scale"):
        pipeline.reconstruct(x, torch.tensor([0, 1]), guidance_scale=2.0)


def test_half_precision_keeps_the_state_in_float32():
    pipeline = tiny()
    whole = pipeline(seeds=[1, 2], output_type="pt").images
    half = pipeline.to(torch.bfloat16)(seeds=[1, 2], output_type="pt").images
    assert half.dtype == torch.float32
    assert 0 < float((whole - half).abs().mean()) < 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(pipeline(seeds=[1], num_inference_steps=3).images) == 1
