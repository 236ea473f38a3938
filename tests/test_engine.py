"""The engine: limits, the best model, a scaled loss, gradients that are not reduced, training a model further."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from hfgen import HFGenPipeline, checkpoint, evaluation, run
from hfgen.arguments import TrainingArguments, resolve
from hfgen.data import load_images
from hfgen.errors import CheckError, UsageError
from hfgen.registry import get_family
from hfgen.run_folder import read_metrics
from hfgen.testing import make_data, quiet_environment, state
from hfgen.testing.processes import run_two_processes
from hfgen.trainer import Trainer
from hfgen.validation import Best

TINY = {
    "dcgan": {"generator": {"base_channels": 4, "latent_dim": 6}, "discriminator": {"base_channels": 4}},
    "vae": {"encoder": {"base_channels": 4, "latent_dim": 4}, "decoder": {"base_channels": 4}},
}


@pytest.fixture
def splits(tmp_path):
    """Folders of images: 24 to train on, 12 held out."""
    for split, seed, count in (("train", 0, 24), ("test", 1, 12)):
        random = np.random.default_rng(seed)
        (tmp_path / "data" / split).mkdir(parents=True)
        for i in range(count):
            pixels = (random.random((16, 16)) < 0.3).astype(np.uint8) * 255
            Image.fromarray(pixels).save(tmp_path / "data" / split / f"{i}.png")
    return str(tmp_path / "data")


@pytest.fixture
def make(splits):
    def build(folder=None, family="dcgan", held_out=False, **settings):
        config = config_of(splits, family, **settings)
        torch.manual_seed(0)
        pipeline_class = get_family(family).load()
        pipeline = pipeline_class.build(16, 1, **{k: v for k, v in config.components.items() if k != "objective"})
        test = run.find_held_out(config, pipeline) if held_out else None
        return Trainer(pipeline, load_images(splits), config.arguments, folder, held_out=test)

    return build


def config_of(data, family="dcgan", **settings):
    layer = {"dataset_name": data, "train_batch_size": 8, "max_train_steps": 6, "num_validation_images": 4}
    layers = [("", {**layer, "logging_steps": 1, "use_ema": True, **TINY[family], **settings})]
    return resolve(layers, family, get_family(family).load())


# --- limits ---------------------------------------------------------------------------------------------------------


def test_a_time_limit_ends_with_everything_in_place(splits, tmp_path):
    """Grid, checkpoint, model and card of the step that it came to; and the run can go on from there."""
    config = config_of(splits, time_limit="1.5s", max_train_steps=10**6, validation_steps=0, checkpointing_steps=10**5)
    start = time.monotonic()
    summary = run.train(config, get_family("dcgan").load(), tmp_path / "run", say=print)
    assert time.monotonic() - start < 30
    steps = summary["steps"]
    assert 0 < steps < 10**6
    assert [checkpoint.step_of(p) for p in checkpoint.list_checkpoints(tmp_path / "run")] == [steps]
    assert (tmp_path / "run" / "samples" / f"step_{steps:06d}.png").is_file()
    assert (tmp_path / "run" / "README.md").is_file()
    HFGenPipeline.from_pretrained(tmp_path / "run")
    again = config_of(splits, max_train_steps=steps + 2, resume_from_checkpoint="latest")
    assert run.train(again, get_family("dcgan").load(), tmp_path / "run", say=print)["steps"] == steps + 2


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("90", 90), ("1.5m", 90), ("2h", 7200), (None, None)])
def test_time_limits(text, seconds):
    assert TrainingArguments(time_limit=text).seconds_limit == seconds


@pytest.mark.parametrize("text", ["", "1 d", "0s", "-3", "1:30"])
def test_what_is_no_time(text):
    with pytest.raises(UsageError, match="expected 90s, 30m or 1.5h"):
        TrainingArguments(time_limit=text)


def test_the_best_of_a_metric_and_when_to_give_up():
    best = Best("bits_per_dim", patience=2)
    for step, value, better, hopeless in ((1, 3.0, True, False), (2, 3.5, False, False), (3, 2.9, True, False)):
        found = {"validation_bits_per_dim": value}
        assert best.would_be(found) is better
        best.take(step, found)
        assert best.is_hopeless is hopeless
    for step in (4, 5):
        best.take(step, {"validation_bits_per_dim": 2.9})
    assert (best.step, best.value, best.is_hopeless) == (3, 2.9, True)
    greater = Best("nats", None)
    greater.take(1, {"validation_nats": -5.0})
    assert greater.would_be({"validation_nats": -4.0})


def test_early_stop_keeps_the_best_model(make, tmp_path):
    """A learning rate at which validations become worse and worse: it ends two after the best."""
    settings = {"validation_split": "test", "best_metric": "bits_per_dim", "early_stopping_patience": 2}
    trainer = make(
        tmp_path / "run", "vae", True, **settings, max_train_steps=100, validation_steps=1, learning_rate=3.0
    )
    trainer.train()
    lines = read_metrics(tmp_path / "run")
    values = [line["validation_bits_per_dim"] for line in lines]
    assert len(lines) == trainer.step == trainer.best.step + 2
    assert min(values) == trainer.best.value == values[trainer.best.step - 1]
    assert checkpoint.step_of(checkpoint.list_checkpoints(tmp_path / "run")[-1]) == trainer.step
    best = HFGenPipeline.from_pretrained(tmp_path / "run" / "best")
    found = evaluation.log_likelihood(best, load_images(trainer.batches.images.name, split="test"))
    assert float(found.bits_per_dim.mean()) == pytest.approx(trainer.best.value, rel=1e-6)


def test_measuring_changes_nothing(make, tmp_path):
    """Bit for bit, with and without a validation split, grids and trackers."""
    often = make(tmp_path / "a", "vae", True, validation_split="test", validation_steps=1)
    never = make(tmp_path / "b", "vae", validation_steps=0)
    often.train()
    never.train()
    assert all(torch.equal(tensor, state(never)[name]) for name, tensor in state(often).items())


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("dcgan", {"validation_split": "test"}, "has no likelihood .*\n.*--validation_metrics fid"),
        (
            "vae",
            {"validation_split": "test", "best_metric": "bits"},
            "which is not measured of vae. Known: bits_per_dim, nats",
        ),
        (
            "dcgan",
            {"validation_split": "test", "validation_metrics": "fid"},
            "no protocol is about this data set.\nName one: --extractor",
        ),
        (
            "dcgan",
            {"validation_split": "test", "validation_metrics": "fid", "extractor": "digitnet-mnist"},
            "takes images of 1 channels and 28x28",
        ),
        ("dcgan", {"validation_metrics": "fid"}, "are measured on a --validation_split"),
        ("dcgan", {"validation_split": "test", "validation_metrics": "nats"}, "nats cannot be measured"),
        ("vae", {"validation_split": "tset"}, "has no split 'tset'"),
        ("vae", {"best_metric": "nats"}, "is measured on a --validation_split"),
        ("vae", {"early_stopping_patience": 3}, "say which"),
    ],
)
def test_what_cannot_be_measured_is_said_at_the_start(splits, tmp_path, family, settings, message):
    with pytest.raises(UsageError, match=message):
        run.train(config_of(splits, family, **settings), get_family(family).load(), tmp_path / "run", say=print)
    assert not (tmp_path / "run").exists()


# --- a scaled loss --------------------------------------------------------------------------------------------------


def test_with_a_loss_scaler_both_networks_step_as_without(make):
    """A power of two as scale changes no bit; each of two networks ends its own round of the scaler."""
    plain, scaled = make(max_grad_norm=1.0), make(max_grad_norm=1.0)
    scaled.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    plain.train()
    scaled.train()
    assert all(torch.equal(tensor, state(plain)[name]) for name, tensor in state(scaled).items())


def test_an_overflow_skips_its_own_update_and_is_counted(make, tmp_path):
    """The discriminator's gradient overflows in one step: it alone keeps its weights, and the metrics say so."""
    trainer = make(tmp_path / "run", max_train_steps=3)
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


# --- gradients that are not reduced ---------------------------------------------------------------------------------

PAST_DDP = """
import sys
import torch
from torch.func import functional_call
from hfgen import Update, run, trainer
from hfgen.arguments import resolve
from hfgen.registry import get_family

data, kind = sys.argv[2], sys.argv[3]
family = get_family("vae").load()
tiny = {"encoder": {"base_channels": 4, "latent_dim": 4}, "decoder": {"base_channels": 4}}
config = resolve([("", {"dataset_name": data, "train_batch_size": 4, "max_train_steps": 2, **tiny})], "vae", family)
images = run.find_images(config)
train = trainer.Trainer(run.build(config, family, images), images, config.arguments)

def training_step(batch):
    encoder = train.networks["encoder"] if kind == "past" else train.models["encoder"]
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


# --- training further, and what a dry run says ----------------------------------------------------------------------


def test_a_finished_model_is_trained_further(splits, tmp_path):
    pipeline_class = get_family("vae").load()
    run.train(config_of(splits, "vae"), pipeline_class, tmp_path / "first", say=print)
    further = resolve(
        [("", {"dataset_name": splits, "pretrained_model_name_or_path": str(tmp_path / "first")})],
        "vae",
        pipeline_class,
    )
    built = run.build(further, pipeline_class, load_images(splits))
    expected = HFGenPipeline.from_pretrained(tmp_path / "first").encoder.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in built.encoder.state_dict().items())
    settings = {"pretrained_model_name_or_path": str(tmp_path / "first"), "dataset_name": splits}
    settings |= {"max_train_steps": 2, "train_batch_size": 8, "num_validation_images": 4}
    second = resolve([("", settings)], "vae", pipeline_class)
    run.train(second, pipeline_class, tmp_path / "second", say=print)
    assert str(tmp_path) not in (tmp_path / "second" / "README.md").read_text()
    for wrong, message in (
        ({"encoder": {"base_channels": 8}}, "Options of encoder do not go with"),
        ({"resolution": 32}, "makes images of 1 channels and 16 pixels"),
    ):
        with pytest.raises(UsageError, match=message):
            run.build(
                resolve([("", {**settings, **wrong})], "vae", pipeline_class), pipeline_class, load_images(splits)
            )
    with pytest.raises(UsageError, match="is a VAEPipeline; dcgan trains"):
        other = get_family("dcgan").load()
        run.build(resolve([("", settings)], "dcgan", other), other, load_images(splits))


def test_a_dry_run_tells_time_memory_and_disk_and_writes_nothing(splits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = []
    run.dry_run(config_of(splits, checkpointing_steps=1), get_family("dcgan").load(), said.append)
    text = "\n".join(said)
    assert "6 steps of 8 images" in text
    assert "MB at most up to here" in text
    told = float(text.partition("disk: ")[2].partition(" MB")[0])
    run.train(config_of(splits, checkpointing_steps=1), get_family("dcgan").load(), tmp_path / "run", say=print)
    written = sum(f.stat().st_size for f in (tmp_path / "run").rglob("*.safetensors")) / 1e6
    one = sum(f.stat().st_size for f in checkpoint.list_checkpoints(tmp_path / "run")[0].rglob("*.safetensors")) / 1e6
    assert told == pytest.approx(written + one, abs=0.1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "run"]


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


def test_a_loss_that_is_not_finite_is_found_when_a_signal_comes(make, tmp_path):
    """No checkpoint is written of it."""
    trainer = make(tmp_path / "run", logging_steps=100, checkpointing_steps=0, validation_steps=0)
    steps = trainer.steps()
    next(steps)
    trainer.pipeline.generator.to_image.weight.data.fill_(float("nan"))
    trainer._look_at = lambda stop: setattr(trainer, "stopped_by", 15)
    with pytest.raises(CheckError, match="nan"):
        next(steps)
    assert not checkpoint.list_checkpoints(tmp_path / "run")


def test_grids_by_epochs_and_by_fewer_steps(make, tmp_path):
    """24 images, 8 in a step: an epoch is 3 steps; the averages warm up as they are told."""
    trainer = make(tmp_path / "run", validation_epochs=1, max_train_steps=6, ema_power=0.75, num_inference_steps=1)
    trainer.train()
    assert sorted(p.name for p in (tmp_path / "run" / "samples").iterdir()) == ["step_000003.png", "step_000006.png"]
    assert trainer.emas["generator"].average.get_decay(10) == pytest.approx(1 - 10**-0.75)
