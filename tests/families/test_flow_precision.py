"""Flows in half precision: coupling networks alone are ever in it, and no likelihood changes."""

import pytest
import torch
from flow_cases import scrambled, uniform

from hfgen import HFGenPipeline
from hfgen.noise import SeededNoise
from hfgen_flow.glow import Glow, GlowPipeline
from hfgen_flow.precision import CouplingNetwork
from hfgen_flow.realnvp import RealNVPPipeline

MODELS = {
    "glow": (GlowPipeline, {"flow.num_levels": 2, "flow.num_steps": 2, "flow.hidden_channels": 6}),
    "realnvp": (RealNVPPipeline, {"flow.num_couplings": 2, "flow.num_blocks": 1, "flow.hidden_channels": 4}),
}
VARIATIONAL = {"dequantizer.class_name": "VariationalDequantizer", "dequantizer.hidden_channels": 4}


def built(name, scale=0.05, **options):
    """A tiny pipeline of 8x8 images with random weights, the same at each call."""
    torch.manual_seed(0)
    cls, tiny = MODELS[name]
    pipeline = cls.build(8, 1, **{**tiny, **options})
    for model in pipeline.models().values():
        scrambled(model, scale)
    return pipeline


def some_images():
    return torch.randint(256, (3, 1, 8, 8), generator=torch.Generator().manual_seed(6)) / 127.5 - 1


def names_in(model, dtype):
    return {name for name, tensor in [*model.named_parameters(), *model.named_buffers()] if tensor.dtype == dtype}


def network_names(model):
    return {
        f"{place}.{name}"
        for place, part in model.named_modules()
        if isinstance(part, CouplingNetwork)
        for name, _ in part.named_parameters()
    }


@pytest.mark.parametrize(
    "move",
    [
        lambda model: model.to(torch.bfloat16),
        lambda model: model.to(dtype=torch.bfloat16),
        lambda model: model.to("cpu", torch.bfloat16),
        lambda model: model.to(device="cpu", dtype=torch.bfloat16),
        lambda model: model.bfloat16(),
    ],
)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.whole
def test_only_coupling_networks_become_half(name, move):
    for part in built(name, **VARIATIONAL).models().values():
        before = {name: tensor.clone() for name, tensor in part.state_dict().items()}
        moved = move(part)
        assert moved is part
        assert names_in(part, torch.bfloat16) == network_names(part)
        assert network_names(part)
        for key in set(before) - network_names(part):
            assert torch.equal(part.state_dict()[key], before[key]), key
        assert part.computing_dtype == torch.float32
        part.to("cpu")
        assert names_in(part, torch.bfloat16) == network_names(part)
        part.to(torch.float32)
        assert not names_in(part, torch.bfloat16)


def test_half_and_pipelines():
    """float16 by its own method; a pipeline moves its parts the same way; a device alone changes no precision."""
    flow = built("glow").flow
    assert names_in(flow.half(), torch.float16) == network_names(flow)
    pipeline = built("glow").to(torch.bfloat16)
    assert names_in(pipeline.flow, torch.bfloat16) == network_names(pipeline.flow)
    whole = built("glow").flow
    before = {name: (tensor.dtype, tensor.clone()) for name, tensor in whole.state_dict().items()}
    whole.to("cpu")
    assert all(tensor.dtype == before[name][0] for name, tensor in whole.state_dict().items())
    assert whole.to("meta").levels[0].steps[0].mix.actnorm.bias.is_meta


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.whole
def test_likelihoods_of_a_half_pipeline_are_computed_in_float32(name):
    """Those of the rounded weights, not of rounded sums."""
    half, rounded, images = built(name, **VARIATIONAL).to(torch.bfloat16), built(name, **VARIATIONAL), some_images()
    exact = rounded.log_likelihood(images).nats
    for model in rounded.models().values():
        weights = dict(model.named_parameters())
        for key in network_names(model):
            weights[key].data = weights[key].data.bfloat16().float()
    assert (rounded.log_likelihood(images).nats - exact).abs().max() > 1e-4, "rounding changed nothing"
    found, expected = [p.log_likelihood(images, num_importance_samples=3).nats for p in (half, rounded)]
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-4)
    latents = half.encode(images)
    torch.testing.assert_close(latents, rounded.encode(images), rtol=1e-5, atol=1e-5)
    assert torch.equal(half.decode(latents), rounded.decode(latents))
    assert names_in(half.flow, torch.bfloat16) == network_names(half.flow), "half again afterwards"


@pytest.mark.parametrize("name", MODELS)
def test_a_half_pipeline_samples_what_a_whole_one_does_but_for_rounding(name):
    half, whole = built(name, 0.1).to(torch.bfloat16), built(name, 0.1)
    pictures = [p(seeds=[0, 1, 2], output_type="pt").images for p in (half, whole)]
    assert 0 < (pictures[0] - pictures[1]).abs().max()
    assert (pictures[0] - pictures[1]).abs().mean() < 0.02


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.whole
def test_autocast_changes_no_likelihood_and_no_latent(name):
    pipeline, images = built(name, **VARIATIONAL), some_images()

    def everything():
        latents = pipeline.encode(images)
        trip = torch.tensor(pipeline.round_trip(images))
        latents_again, log_det = pipeline.to_latents(images)
        nats = pipeline.log_likelihood(images, num_importance_samples=2).nats
        back = pipeline.from_latents(latents)
        return latents, pipeline.decode(latents), nats, trip, latents_again.detach(), log_det.detach(), back.detach()

    expected = everything()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = everything()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_under_autocast_only_coupling_networks_are_half():
    """A flow without them, but with every other part, computes the same to the last bit: training sees no less."""
    torch.manual_seed(0)
    options = {"num_levels": 2, "num_steps": 2, "coupling": "none", "preprocessing": "logit_2alpha"}
    for convolution in ("lu", "plain"):
        flow, v = scrambled(Glow(8, 1, convolution=convolution, num_classes=3, **options)), uniform(3, 1, 8, 8).float()
        labels = torch.tensor([0, 1, 2])
        expected = [*flow(v, labels), flow.inverse(flow(v, labels)[0], labels)]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = [*flow(v, labels), flow.inverse(flow(v, labels)[0], labels)]
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    seen = []
    flow = built("glow").flow
    network = flow.levels[0].steps[0].coupling.network
    network.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        latents, log_det = flow(v)
    assert seen == [torch.bfloat16]
    assert latents.dtype == log_det.dtype == torch.float32


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.whole
def test_loaded_as_bfloat16_all_but_the_networks_is_as_it_was_saved(name, tmp_path):
    pipeline = built(name, **VARIATIONAL)
    pipeline.save_pretrained(tmp_path)
    loaded = HFGenPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16, verify=False)
    for component in ("flow", "dequantizer"):
        model, saved = getattr(loaded, component), getattr(pipeline, component).state_dict()
        assert names_in(model, torch.bfloat16) == network_names(model)
        for key, tensor in model.state_dict().items():
            assert torch.equal(tensor, saved[key].to(tensor.dtype)), key
            assert tensor.dtype == (torch.bfloat16 if key in network_names(model) else saved[key].dtype)
    noise = SeededNoise.from_seeds([0])
    assert torch.equal(loaded.latents(noise), pipeline.latents(SeededNoise.from_seeds([0])))
    torch.testing.assert_close(
        loaded.log_likelihood(some_images()).nats, pipeline.to(torch.bfloat16).log_likelihood(some_images()).nats
    )
