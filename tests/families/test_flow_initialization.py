"""Flows: actnorm's statistics are taken once, of all images of the first step, the same on all processes."""

import pytest
import torch

from hfgen import HFGenPipeline
from hfgen.data.load import load_images
from hfgen.errors import UsageError
from hfgen.noise import StepNoise
from hfgen.registry import get_family
from hfgen.settings.resolve import resolve
from hfgen.testing import make_data, state, weights
from hfgen.training.trainer import Trainer
from hfgen_flow.bijections import (
    ActNorm,
    NormalizedConv1x1,
    channel_moments,
    initialize,
    is_initialized,
    require_initialized,
)
from hfgen_flow.networks import NormalizedConv2d

TINY = {
    "glow": {
        "flow.num_levels": 1,
        "flow.num_steps": 2,
        "flow.hidden_channels": 4,
        "flow.preprocessing": "logit_2alpha",
        "dequantizer.class_name": "VariationalDequantizer",
        "dequantizer.num_couplings": 2,
        "dequantizer.hidden_channels": 3,
    },
    "realnvp": {"flow.num_scales": 2, "flow.num_couplings": 2, "flow.hidden_channels": 3, "flow.num_blocks": 1},
}
FAMILIES = list(TINY)


def untrained(name):
    torch.manual_seed(0)
    return get_family(name).load().build(8, 1, **TINY[name])


def some_images(count=16):
    return torch.randint(256, (count, 1, 8, 8), generator=torch.Generator().manual_seed(1)) / 127.5 - 1


def begun(name, images=None, dtype=torch.float32):
    """A pipeline whose actnorms have seen these images."""
    pipeline = untrained(name).to(dtype)
    begin(pipeline, some_images() if images is None else images)
    return pipeline


def begin(pipeline, images):
    noise = StepNoise(0, 0, slice(0, len(images)), len(images))
    pipeline.objective_class.initialize(pipeline, {"pixel_values": images}, noise)


def statistics(pipeline):
    """Every actnorm's tensors by name, those inside networks too."""
    return {
        f"{component}.{name}.{key}": tensor.clone()
        for component, model in pipeline.models().items()
        for name, part in model.named_modules()
        if isinstance(part, ActNorm)
        for key, tensor in part.state_dict().items()
    }


@pytest.fixture
def data(tmp_path):
    return str(make_data(tmp_path / "blobs.npz", 8, 1, count=8))


@pytest.fixture
def make(data):
    def build(name, folder=None, pipeline=None, **settings):
        settings = {"train_batch_size": 8, "max_train_steps": 2, "num_validation_images": 4, **settings}
        arguments = resolve([("test", settings)], name, get_family(name).load()).arguments
        return Trainer(pipeline or untrained(name), load_images(data), arguments, folder)

    return build


# --- what it does ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 3, 4, 4), (1, 2, 3, 5)])
def test_actnorm_gives_mean_0_and_variance_1(shape):
    """Of the population, not the sample; in float64 to the last digits, whatever the data's offset."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x * torch.tensor([0.01, 3.0, 500.0], dtype=torch.float64)[: shape[1], None, None] + 7
    layer = ActNorm(shape[1]).double()
    initialize(layer, x)
    y, log_det = layer(x)
    zero, one = torch.zeros(shape[1], dtype=torch.float64), torch.ones(shape[1], dtype=torch.float64)
    torch.testing.assert_close(y.mean((0, 2, 3)), zero, rtol=0, atol=1e-9)
    torch.testing.assert_close(y.square().mean((0, 2, 3)), one, rtol=0, atol=1e-9)
    expected = shape[2] * shape[3] * layer.logs.sum()
    torch.testing.assert_close(log_det, expected.expand(shape[0]), rtol=1e-12, atol=0)
    torch.testing.assert_close(layer.logs, -x.std((0, 2, 3), unbiased=False).log(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_actnorm_s_output_is_normalised_on_that_batch(name):
    """Those of the flow and those inside its networks, in float64: each sees what the ones before it make."""
    pipeline, seen = untrained(name).to(torch.float64), {}

    def watch(place):
        def hook(module, inputs, output):
            if isinstance(module, NormalizedConv1x1):
                output = module.convolution.inverse(output[0])  # what its actnorm makes
            seen[place] = (output if torch.is_tensor(output) else output[0]).detach().clone()

        return hook

    for component, model in pipeline.models().items():
        for place, part in model.named_modules():
            if isinstance(part, NormalizedConv2d | NormalizedConv1x1 | ActNorm):
                part.register_forward_hook(watch(f"{component}.{place}"))
    begin(pipeline, some_images())
    actnorms = [part for m in pipeline.models().values() for part in m.modules() if isinstance(part, ActNorm)]
    assert len(seen) == len(actnorms)
    for y in seen.values():
        assert y.dtype == torch.float64
        mean, variance = y.mean((0, 2, 3)), y.var((0, 2, 3), unbiased=False)
        torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-9)
        torch.testing.assert_close(variance, torch.ones_like(variance), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_deterministic_and_done_once(name):
    """Called again with other images it changes nothing, in no tensor; what is initialized in part is completed."""
    pipeline, again = begun(name), begun(name)
    before = statistics(pipeline)
    assert any("bias" in key and tensor.abs().max() > 0.1 for key, tensor in before.items())
    for key, tensor in statistics(again).items():
        assert torch.equal(tensor, before[key]), key
    begin(pipeline, -some_images())
    for key, tensor in statistics(pipeline).items():
        assert torch.equal(tensor, before[key]), key
    part = next(part for part in pipeline.flow.modules() if isinstance(part, ActNorm))
    part.initialized.fill_(False)
    assert not is_initialized(pipeline.flow)
    begin(pipeline, some_images())
    assert is_initialized(pipeline.flow)
    for key, tensor in statistics(pipeline).items():
        torch.testing.assert_close(tensor, before[key], msg=key)


def test_nothing_else_is_changed_and_no_gradient_left():
    pipeline = untrained("glow")
    before = {f"{c}.{n}": p.clone() for c, m in pipeline.models().items() for n, p in m.named_parameters()}
    begin(pipeline, some_images())
    for component, model in pipeline.models().items():
        for name, parameter in model.named_parameters():
            assert parameter.grad is None
            assert parameter.requires_grad
            if "actnorm" not in name:
                assert torch.equal(parameter, before[f"{component}.{name}"]), name
    assert not any(
        part.measuring for m in pipeline.models().values() for part in m.modules() if hasattr(part, "measuring")
    )


def test_an_error_on_the_way_leaves_no_layer_measuring():
    layer = ActNorm(3)
    with pytest.raises(RuntimeError):
        initialize(layer, torch.zeros(2, 5, 4, 4))
    assert not layer.measuring


# --- constant channels ----------------------------------------------------------------------------------------------


def test_constant_channels_give_finite_numbers():
    x = torch.tensor([0.3, -2.0, 0.0])[:, None, None].expand(4, 3, 2, 2)
    layer = ActNorm(3)
    initialize(layer, x)
    y, log_det = layer(x)
    for tensor in (y, log_det, layer.bias, layer.logs):
        assert tensor.isfinite().all()
    assert layer.logs.max() <= 14
    assert (layer.inverse(y) - x).abs().max() < 1e-5
    mean, deviation = channel_moments(x)
    assert mean.tolist() == pytest.approx([0.3, -2.0, 0.0])
    assert (deviation > 0).all()


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("images", [torch.full((4, 1, 8, 8), -1.0), some_images(1)], ids=["black", "one image"])
@pytest.mark.whole
def test_images_without_any_variation_train(name, images):
    """Black images of which only the noise differs; a single image."""
    pipeline = begun(name, images)
    assert all(tensor.isfinite().all() for tensor in statistics(pipeline).values())
    assert pipeline.log_likelihood(images).nats.isfinite().all()
    assert torch.equal(pipeline.reconstruct(images), images)


# --- before it ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    "call",
    [
        lambda p: p(seeds=[0]),
        lambda p: p.decode(torch.zeros(1, 64)),
        lambda p: p.encode(some_images()),
        lambda p: p.log_likelihood(some_images()),
        lambda p: p.round_trip(some_images()),
        lambda p: p.from_latents(torch.zeros(1, 64)),
        lambda p: next(p.interpolate([0, 1], 4)),
        lambda p: p.flow.inverse(torch.zeros(1, 64)),
    ],
    ids=["sample", "decode", "encode", "log_likelihood", "round_trip", "from_latents", "interpolate", "inverse"],
)
@pytest.mark.whole
def test_before_it_nothing_can_be_asked(name, call):
    pipeline = untrained(name)
    with pytest.raises(
        UsageError, match="is not initialized: its actnorm layers.*\n.*Train it .the first step does it"
    ):
        call(pipeline)
    assert not any(tensor.any() for key, tensor in statistics(pipeline).items() if "initialized" in key)


def test_a_single_layer_says_so_too():
    with pytest.raises(UsageError, match="This ActNorm is not initialized"):
        ActNorm(2).inverse(torch.zeros(1, 2, 2, 2))
    require_initialized(torch.nn.Linear(1, 1))


# --- saved and resumed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_an_uninitialised_pipeline_is_saved_and_loaded(name, tmp_path):
    untrained(name).save_pretrained(tmp_path)
    loaded = HFGenPipeline.from_pretrained(tmp_path)
    assert not is_initialized(loaded.flow)
    with pytest.raises(UsageError, match="is not initialized"):
        loaded(seeds=[0])
    begin(loaded, some_images())
    for key, tensor in statistics(begun(name)).items():
        assert torch.equal(tensor, statistics(loaded)[key]), key


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.whole
def test_it_is_remembered_in_a_saved_buffer(name, tmp_path):
    pipeline = begun(name)
    pipeline.save_pretrained(tmp_path)
    loaded = HFGenPipeline.from_pretrained(tmp_path)
    assert all(bool(t) and t.dtype == torch.bool for key, t in statistics(loaded).items() if "initialized" in key)
    begin(loaded, some_images().flip(0) * 0)
    for key, tensor in statistics(pipeline).items():
        assert torch.equal(tensor, statistics(loaded)[key]), key


@pytest.mark.parametrize("name", FAMILIES)
def test_a_resumed_run_is_not_initialised_again(name, make, tmp_path):
    """Neither from a checkpoint nor by a new training of a loaded model."""
    run = make(name, tmp_path / "run", max_train_steps=4, checkpointing_steps=2)
    steps = run.steps()
    next(steps)
    next(steps)
    kept = state(run)
    steps.close()
    resumed = make(name, tmp_path / "run", max_train_steps=4, checkpointing_steps=2)
    resumed.resume(tmp_path / "run" / "checkpoints" / "checkpoint-2")
    for key, tensor in state(resumed).items():
        assert torch.equal(tensor, kept[key]), key
    assert is_initialized(resumed.pipeline.flow)
    calls = []
    resumed._initialize = calls.append
    assert next(resumed.steps()) == 3
    assert not calls
    before = statistics(resumed.pipeline)
    anew = make(name, pipeline=resumed.pipeline, learning_rate=1e-12)
    next(anew.steps())
    for key, tensor in statistics(anew.pipeline).items():
        torch.testing.assert_close(tensor, before[key], rtol=0, atol=1e-6, msg=key)


# --- accumulation, processes, averages ------------------------------------------------------------------------------


SMOOTH = {"adam_epsilon": 1e-3, "learning_rate": 0.01}  # a gradient that is 0 but for rounding makes no step


@pytest.mark.parametrize("name", FAMILIES)
def test_micro_batches_are_initialised_as_one_batch(name, make):
    """Statistics of all eight images, and the first step taken from there."""
    whole, parts = make(name, **SMOOTH), make(name, train_batch_size=4, gradient_accumulation_steps=2, **SMOOTH)
    for run in (whole, parts):
        next(run.steps())
    expected = weights(whole)
    moved = [tensor.abs().max() for key, tensor in expected.items() if key.endswith("last.weight")]  # from zero
    assert min(moved) > 1e-4
    for key, tensor in weights(parts).items():
        torch.testing.assert_close(tensor, expected[key], rtol=1e-5, atol=5e-6, msg=key)


def initial_statistics(run):
    """Those that the first step starts from."""
    run._initialize(next(run.batches.steps(0, 1)))
    return statistics(run.pipeline)


@pytest.mark.parametrize("name", FAMILIES)
def test_micro_batches_have_one_batch_s_statistics(name, make):
    whole = initial_statistics(make(name))
    parts = initial_statistics(make(name, train_batch_size=4, gradient_accumulation_steps=2))
    first = initial_statistics(make(name, train_batch_size=4))
    for key, tensor in whole.items():
        torch.testing.assert_close(parts[key], tensor, rtol=1e-6, atol=1e-6, msg=key)
    assert any((first[key] - tensor).abs().max() > 1e-2 for key, tensor in whole.items() if "bias" in key)


@pytest.mark.parametrize("name", FAMILIES)
def test_averages_start_from_the_initialised_weights(name, make):
    """Not from zero biases and unit scales, which an average of 0.9999 would take 10,000 steps to forget."""
    run = make(name, use_ema=True, ema_decay=0.9999, learning_rate=1e-5)
    initial_statistics(run)
    assert set(run.networks.emas) == {n for n in ("flow", "dequantizer") if n in run.networks.models}
    for component, ema in run.networks.emas.items():
        for key, tensor in ema.state_dict().items():
            assert torch.equal(tensor, run.pipeline.models()[component].state_dict()[key]), key
    next(run.steps())
    far = False
    for component, ema in run.networks.emas.items():
        model, fresh = run.pipeline.models()[component], untrained(name).models()[component].state_dict()
        for key, tensor in ema.state_dict().items():
            now = model.state_dict()[key]
            assert tensor.dtype == now.dtype
            torch.testing.assert_close(tensor.double(), now.double(), rtol=0, atol=1e-4, msg=key)
            far |= bool((tensor.double() - fresh[key].double()).abs().max() > 0.1)
        assert all(bool(tensor) for key, tensor in ema.state_dict().items() if "initialized" in key)
    assert far
    with run.networks.averaged() as pipeline:
        assert len(pipeline(seeds=[0, 1]).images) == 2
