"""Networks: which are trained, clipping, EMA, precision, loss scaling, DDP and shards."""

import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from hfgen import HFGenPipeline
from hfgen.processes import replicas
from hfgen.registry import get_family
from hfgen.run_folder import read_metrics
from hfgen.testing import assert_equal_states, make_data, quiet_environment
from hfgen.testing.processes import run_two_processes
from hfgen.training import trainer


def test_a_network_without_trainable_weights_is_used_as_it_is(make):
    run = make()
    run.pipeline.discriminator.requires_grad_(False)
    again = trainer.Trainer(run.pipeline, run.batches.facts, run.arguments)
    assert list(again.networks.optimizers) == ["generator"]


def test_clipping_bounds_the_gradient(make):
    seen = []
    clipped = make(max_grad_norm=1e-3, max_train_steps=1)
    for name, optimizer in clipped.networks.optimizers.items():
        model = clipped.networks.models[name]
        optimizer.register_step_pre_hook(lambda *_, model=model: seen.append(norm_of(model)))
    clipped.train()
    assert seen == [pytest.approx(1e-3, rel=1e-3)] * 2


def norm_of(model):
    return torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()


def test_saved_are_the_averaged_weights_with_statistics_of_their_own(make, tmp_path):
    """Not BatchNorm's initial 0 and 1, nor the statistics of the raw weights."""
    done = make(tmp_path / "run", max_train_steps=20, learning_rate=1e-2)
    done.train()
    saved = get_family("dcgan").load().from_pretrained(tmp_path / "run").generator.state_dict()
    raw, average = done.pipeline.generator.state_dict(), done.networks.emas["generator"].state_dict()
    assert torch.equal(saved["to_image.weight"], average["to_image.weight"])
    assert not torch.allclose(saved["to_image.weight"], raw["to_image.weight"])
    assert not torch.allclose(saved["blocks.0.1.running_var"], raw["blocks.0.1.running_var"])
    assert not torch.allclose(saved["blocks.0.1.running_var"], torch.ones(1))


def test_mixed_precision_runs_and_samples_in_full_precision(make):
    """The networks compute in bfloat16 while training; the pipeline one samples from is float32, as when loaded."""
    mixed = make(mixed_precision="bf16")
    seen = []
    mixed.pipeline.generator.to_image.register_forward_hook(lambda m, i, out: seen.append(out.dtype))
    mixed.train()
    assert seen[0] == torch.bfloat16
    with mixed.networks.averaged() as pipeline:
        pipeline(seeds=[0])
    assert seen[-1] == torch.float32


def test_with_a_loss_scaler_both_networks_step_as_without(make_on_splits):
    """A power of two as scale changes no bit; each of two networks ends its own round of the scaler."""
    plain, scaled = make_on_splits(max_grad_norm=1.0), make_on_splits(max_grad_norm=1.0)
    scaled.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    plain.train()
    scaled.train()
    assert_equal_states(scaled, plain)


def test_an_overflow_skips_its_own_update_and_is_counted(make_on_splits, tmp_path):
    """The discriminator's gradient overflows in one step: it alone keeps its weights, and the metrics say so."""
    trainer = make_on_splits(tmp_path / "run", max_train_steps=3)
    scaler = trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    steps, weight = trainer.steps(), trainer.pipeline.discriminator.to_logit.weight
    other = trainer.pipeline.generator.to_image.weight
    next(steps)
    hook = weight.register_hook(lambda gradient: gradient * float("inf"))
    before = weight.detach().clone(), other.detach().clone()
    next(steps)
    hook.remove()
    assert torch.equal(weight, before[0])
    assert not torch.equal(other, before[1])
    assert scaler.get_scale() == 2.0**9
    list(steps)
    assert [line["skipped_steps"] for line in read_metrics(tmp_path / "run")] == [0, 1, 1]
    assert not torch.equal(weight, before[0])


PAST_DDP = """
import sys
import torch
from torch.func import functional_call
from hfgen import Update
from hfgen.training import start, trainer
from hfgen.settings.resolve import resolve
from hfgen.registry import get_family, get_modality

data, kind = sys.argv[2], sys.argv[3]
family = get_family("vae").load()
tiny = {"encoder": {"base_channels": 4, "latent_dim": 4}, "decoder": {"base_channels": 4}}
config = resolve([("", {"dataset_name": data, "train_batch_size": 4, "max_train_steps": 2, **tiny})], "vae", family)
images = start.find_data(config, get_modality("image"))
train = trainer.Trainer(start.build(config, family, images), images, config.arguments)

def training_step(batch):
    encoder = train.networks.trained["encoder"] if kind == "past" else train.networks.models["encoder"]
    if kind == "past":
        output = functional_call(encoder, dict(encoder.named_parameters()), (batch["pixel_values"],))
    else:
        output = encoder(batch["pixel_values"])
    first = output[0] if isinstance(output, tuple) else output
    yield Update("encoder", first.square().mean() if torch.is_tensor(first) else first.mean.square().mean())

train.objective.training_step = training_step
try:
    for _ in train.steps():
        pass
    print("RESULT none", flush=True)
except Exception as error:
    print("RESULT", type(error).__name__, error, flush=True)
train._leave()
"""


@pytest.mark.parametrize(
    ("kind", "message"), [("past", "The gradients of encoder differ between"), ("called", "none")]
)
def test_gradients_that_miss_the_reduction_are_found_at_the_start(tmp_path, kind, message):
    data = str(make_data(tmp_path / "blobs.npz", 16, 1))
    output = run_two_processes(PAST_DDP, [data, kind], tmp_path)
    results = [line for line in output.splitlines() if line.startswith("RESULT")]
    assert len(results) == 2
    assert all(message in line for line in results), output


def test_what_is_not_trained_stays_on_the_device(make_on_splits, tmp_path, monkeypatch):
    """Of networks in shards the whole copies leave it; a network that is used as it is is called in each step."""
    sharded = make_on_splits(tmp_path / "run", "vae", use_ema=False)
    fixed = sharded.pipeline.models().keys() - sharded.networks.trained.keys()
    assert fixed
    sharded.networks.sharded, moved = True, set()
    sharded.networks.trained = {
        name: make_on_splits(family="vae").networks.trained[name] for name in sharded.networks.trained
    }
    move = nn.Module.to
    monkeypatch.setattr(nn.Module, "to", lambda self, *a, **k: (moved.add(id(self)), move(self, *a, **k))[1])
    monkeypatch.setattr(replicas, "highest", lambda numbers, device: list(numbers))
    for save in (sharded._save_pipeline, sharded._save_checkpoint):
        moved.clear()
        save()
        names = {name for name, model in sharded.pipeline.models().items() if id(model) in moved}
        assert names == set(sharded.networks.trained)


def test_ddp_is_found_behind_what_is_compiled(make_on_splits):
    """Accelerate looks at the type of what it is given, and does nothing for torch.compile's."""
    run, seen = make_on_splits(train_batch_size=4, gradient_accumulation_steps=2, max_train_steps=1), []
    networks = list(run.networks.models.values())
    run.networks.models = {name: torch.compile(model, backend="eager") for name, model in run.networks.models.items()}
    for name in ("no_sync", "trigger_sync_in_backward"):
        original = getattr(run.accelerator, name)
        setattr(run.accelerator, name, lambda model, do=original: (seen.append(model), do(model))[1])
    run.train()
    assert len(seen) >= 6
    assert all(any(model is network for network in networks) for model in seen)


@pytest.mark.slow  # minutes of compiling
def test_compiled_networks_train_and_save_under_their_own_names(splits, tmp_path):
    """In a process of its own: what is compiled stays in torch's caches."""
    settings = ["--max_train_steps", "2", "--train_batch_size", "4", "--num_validation_images", "4"]
    tiny = ["--encoder.base_channels", "4", "--encoder.latent_dim", "4", "--decoder.base_channels", "4"]
    place = ["--dataset_name", splits, "--output_dir", str(tmp_path / "run")]
    command = [sys.executable, "-m", "hfgen.train", "vae", *tiny, *settings, *place, "--torch_compile", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=quiet_environment(), timeout=280)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 2
    index = json.loads((tmp_path / "run" / "model_index.json").read_text())
    assert index["encoder"][1] == "ConvEncoder"
    HFGenPipeline.from_pretrained(tmp_path / "run")
