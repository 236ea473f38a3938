"""The engine: limits, the best model, a scaled loss, gradients that are not reduced, training a model further."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hfgen import HFGenPipeline
from hfgen.commands import main
from hfgen.data.images import decode_images, load_images
from hfgen.errors import CheckError, Interrupted, UsageError
from hfgen.evaluation import likelihoods
from hfgen.files import read_config_file
from hfgen.processes import replicas
from hfgen.registry import get_family
from hfgen.run_folder import read_metrics
from hfgen.settings.arguments import TrainingArguments
from hfgen.settings.resolve import resolve
from hfgen.testing import make_data, quiet_environment, state
from hfgen.testing.processes import run_two_processes
from hfgen.training import checkpoint, run, trainer
from hfgen.training.dry_run import dry_run
from hfgen.training.start import build, find_held_out
from hfgen.training.trainer import Trainer
from hfgen.training.validation import Best

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
        images = load_images(splits)
        test = find_held_out(config, pipeline, images) if held_out else None
        return Trainer(pipeline, images, config.arguments, folder, held_out=test)

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


@pytest.mark.parametrize(
    ("changed", "afresh"),
    [
        ({}, False),
        ({"best_metric": "nats"}, True),
        ({"validation_split": "val"}, True),
        ({"num_evaluation_images": 9}, True),
        ({"extractor": "digitnet-mnist"}, False),  # which a likelihood does not ask
        ({"early_stopping_patience": 9}, False),
    ],
)
def test_a_value_that_was_measured_otherwise_is_no_best(changed, afresh):
    settings = {"validation_split": "test", "best_metric": "bits_per_dim", "early_stopping_patience": 2}
    before, after = Best.of(TrainingArguments(**settings)), Best.of(TrainingArguments(**settings | changed))
    before.take(3, {"validation_bits_per_dim": 3.2})
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert (after.value, after.step) == ((None, 0) if afresh else (3.2, 3))


def test_early_stop_keeps_the_best_model(make, tmp_path):
    """A learning rate at which validations become worse and worse: it ends two after the best."""
    settings = {"validation_split": "test", "best_metric": "bits_per_dim", "early_stopping_patience": 2}
    much = {"max_train_steps": 100, "validation_steps": 1, "learning_rate": 3.0}
    trainer = make(tmp_path / "run", "vae", True, **settings, **much)
    trainer.train()
    lines = read_metrics(tmp_path / "run")
    values = [line["validation_bits_per_dim"] for line in lines]
    assert len(lines) == trainer.step == trainer.best.step + 2
    assert min(values) == trainer.best.value == values[trainer.best.step - 1]
    assert checkpoint.step_of(checkpoint.list_checkpoints(tmp_path / "run")[-1]) == trainer.step
    best = HFGenPipeline.from_pretrained(tmp_path / "run" / "best")
    found = likelihoods.log_likelihood(best, load_images(trainer.batches.images.name, split="test"))
    assert float(found.bits_per_dim.mean()) == pytest.approx(trainer.best.value, rel=1e-6)
    for patience, last in ((2, trainer.step), (3, 100)):  # which was hopeless, and is so as long as it waits no longer
        again = make(tmp_path / "run", "vae", True, **settings | {"early_stopping_patience": patience}, **much)
        again.resume(checkpoint.find_checkpoint("latest", tmp_path / "run"))
        assert (again.step, again.last_step) == (trainer.step, last)


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
            "no protocol is about this dataset.\nName one: --extractor",
        ),
        (
            "dcgan",
            {"validation_split": "test", "validation_metrics": "fid", "extractor": "digitnet-mnist"},
            "takes images of 1 channels and 28x28",
        ),
        ("dcgan", {"validation_metrics": "fid"}, "are measured on a --validation_split"),
        ("dcgan", {"validation_split": "test", "validation_metrics": "nats"}, "nats cannot be measured"),
        ("vae", {"validation_split": "tset"}, "has no split 'tset'"),
        (
            "vae",
            {"validation_split": "test", "best_metric": "bits_per_dim", "likelihood": "GaussianLikelihood"},
            "'bits_per_dim', which is not measured of vae.\nIts likelihood is a density",
        ),
        (
            "vae",
            {"validation_split": "test", "validation_metrics": "bits_per_dim", "likelihood": "GaussianLikelihood"},
            "bits_per_dim cannot be measured of this model here; these can:\n .* coverage, nats$",
        ),
        ("vae", {"best_metric": "nats"}, "is measured on a --validation_split"),
        ("vae", {"early_stopping_patience": 3}, "say which"),
    ],
)
def test_what_cannot_be_measured_is_said_at_the_start(splits, tmp_path, family, settings, message):
    with pytest.raises(UsageError, match=message):
        run.train(config_of(splits, family, **settings), get_family(family).load(), tmp_path / "run", say=print)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("crop", [True, False])
def test_what_is_held_out_is_brought_to_the_size_that_is_trained_on(splits, make, tmp_path, crop):
    for split in ("train", "test"):
        for file in (tmp_path / "data" / split).iterdir():
            Image.open(file).resize((16, 12)).save(file)
    settings = {"validation_split": "test", "resolution": 8, "center_crop": crop, "validation_steps": 6}
    config = config_of(splits, "vae", **settings)
    run.train(config, get_family("vae").load(), tmp_path / "run", say=print)
    images = load_images(splits, "test")
    model, pixels = HFGenPipeline.from_pretrained(tmp_path / "run"), decode_images(images, 8, crop)
    found = likelihoods.log_likelihood(model, images, pixels=pixels)
    logged = read_metrics(tmp_path / "run")[-1]["validation_bits_per_dim"]
    assert logged == pytest.approx(float(found.bits_per_dim.mean()), rel=1e-6)


@pytest.mark.parametrize(
    ("mode", "side", "message"),
    [
        ("RGB", 16, "validation_split is of mode RGB, and what is trained on of L"),
        ("L", 8, "of 8 pixels a side, those that are trained on of 16.\nBring both to one: --resolution 16"),
    ],
)
def test_other_images_than_those_that_are_trained_on_are_refused(splits, tmp_path, mode, side, message):
    for file in (tmp_path / "data" / "test").iterdir():
        Image.open(file).convert(mode).resize((side, side)).save(file)
    config = config_of(splits, "vae", validation_split="test")
    with pytest.raises(UsageError, match=message):
        run.train(config, get_family("vae").load(), tmp_path / "run", say=print)
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
from hfgen import Update
from hfgen.training import start, trainer
from hfgen.settings.resolve import resolve
from hfgen.registry import get_family

data, kind = sys.argv[2], sys.argv[3]
family = get_family("vae").load()
tiny = {"encoder": {"base_channels": 4, "latent_dim": 4}, "decoder": {"base_channels": 4}}
config = resolve([("", {"dataset_name": data, "train_batch_size": 4, "max_train_steps": 2, **tiny})], "vae", family)
images = start.find_images(config)
train = trainer.Trainer(start.build(config, family, images), images, config.arguments)

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
    built = build(further, pipeline_class, load_images(splits))
    expected = HFGenPipeline.from_pretrained(tmp_path / "first").encoder.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in built.encoder.state_dict().items())
    settings = {"pretrained_model_name_or_path": str(tmp_path / "first"), "dataset_name": splits}
    settings |= {"max_train_steps": 2, "train_batch_size": 8, "num_validation_images": 4}
    second = resolve([("", settings)], "vae", pipeline_class)
    run.train(second, pipeline_class, tmp_path / "second", say=print)
    assert str(tmp_path) not in (tmp_path / "second" / "README.md").read_text()
    for wrong, message in (
        ({"encoder": {"base_channels": 8}}, "(?s)Other options than its own .* encoder.base_channels is 8, not 4"),
        ({"resolution": 32}, "makes images of 1 channels and 16 pixels"),
    ):
        with pytest.raises(UsageError, match=message):
            build(resolve([("", {**settings, **wrong})], "vae", pipeline_class), pipeline_class, load_images(splits))
    with pytest.raises(UsageError, match="is a VAEPipeline; dcgan trains"):
        other = get_family("dcgan").load()
        build(resolve([("", settings)], "dcgan", other), other, load_images(splits))


def test_a_fine_tuned_run_is_resumed_and_repeated_from_its_own_config(splits, tmp_path, monkeypatch):
    """Which spells out the options of every component."""
    monkeypatch.setattr(run, "plot_run", lambda *_: None)
    pipeline_class = get_family("vae").load()
    torch.manual_seed(0)
    pipeline_class.build(16, 1, **TINY["vae"]).save_pretrained(tmp_path / "first")
    settings = {"pretrained_model_name_or_path": str(tmp_path / "first"), "dataset_name": splits}
    settings |= {"max_train_steps": 1, "train_batch_size": 8, "num_validation_images": 4, "checkpointing_steps": 1}
    run.train(resolve([("", settings)], "vae", pipeline_class), pipeline_class, tmp_path / "second", say=print)
    written = read_config_file(tmp_path / "second" / "config.yaml")
    assert written["encoder"]["base_channels"] == 4
    resumed = {"max_train_steps": 2, "resume_from_checkpoint": "latest"}
    for folder, changed, steps in (("second", resumed, 2), ("third", {}, 1)):
        config = resolve([("", written), ("", changed)], "vae", pipeline_class)
        assert run.train(config, pipeline_class, tmp_path / folder, say=print)["steps"] == steps
    with pytest.raises(UsageError, match="(?s)Other options than its own .* likelihood.class_name is Gaussian"):
        wrong = resolve([("", written), ("", {"likelihood": "GaussianLikelihood"})], "vae", pipeline_class)
        build(wrong, pipeline_class, load_images(splits))


def test_a_dry_run_tells_time_memory_and_disk_and_writes_nothing(splits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = []
    dry_run(config_of(splits, checkpointing_steps=1), get_family("dcgan").load(), tmp_path / "run", said.append)
    text = "\n".join(said)
    assert "6 steps of 8 images" in text
    assert "MB at most up to here" in text
    told = float(text.partition("disk: ")[2].partition(" MB")[0])
    run.train(config_of(splits, checkpointing_steps=1), get_family("dcgan").load(), tmp_path / "run", say=print)
    written = sum(f.stat().st_size for f in (tmp_path / "run").rglob("*.safetensors")) / 1e6
    one = sum(f.stat().st_size for f in checkpoint.list_checkpoints(tmp_path / "run")[0].rglob("*.safetensors")) / 1e6
    assert told == pytest.approx(written + one, abs=0.1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "run"]


def test_a_dry_run_refuses_what_the_run_would(splits, tmp_path):
    family, folder = get_family("vae").load(), tmp_path / "run"
    with pytest.raises(UsageError, match="has no split 'tset'"):
        dry_run(config_of(splits, "vae", validation_split="tset"), family, folder, print)
    run.train(config_of(splits, "vae", max_train_steps=1), family, folder, print)
    again = {"max_train_steps": 2, "resume_from_checkpoint": "latest"}
    with pytest.raises(UsageError, match="seed 0, this run has 3"):
        dry_run(config_of(splits, "vae", **again, seed=3), family, folder, print)
    said = []
    before = sorted(folder.rglob("*"))
    dry_run(config_of(splits, "vae", **again), family, folder, said.append)
    assert any("it would go on from" in line for line in said)
    assert sorted(folder.rglob("*")) == before


def test_another_scheduler_is_another_training(splits, tmp_path):
    """Of a component that is no network, too: the weight of a divergence, the prior."""
    family, folder = get_family("vae").load(), tmp_path / "run"
    run.train(config_of(splits, "vae", max_train_steps=1), family, folder, print)
    for block in ({"beta_scheduler": {"beta": 50.0}}, {"scheduler": {"distribution": "uniform"}}):
        config = config_of(splits, "vae", max_train_steps=2, resume_from_checkpoint="latest")
        config.components.update(block)
        with pytest.raises(UsageError, match=next(iter(block))):
            run.train(config, family, folder, print)


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


def test_weights_that_are_not_finite_never_become_the_model(make, tmp_path):
    """The last step's gradient is not; no checkpoint is asked for."""
    run = make(tmp_path / "run", checkpointing_steps=0, validation_steps=0, max_train_steps=2)
    for step in run.steps():
        if step == 2:
            run.pipeline.generator.to_image.weight.data.fill_(torch.nan)
    run.steps = lambda: iter(())
    with pytest.raises(CheckError, match="a weight of the generator is nan"):
        run.train()
    assert not (tmp_path / "run" / "model_index.json").exists()


def test_what_is_not_trained_stays_on_the_device(make, tmp_path, monkeypatch):
    """Of networks in shards the whole copies leave it; a network that is used as it is is called in each step."""
    sharded = make(tmp_path / "run", "vae", use_ema=False)
    fixed = sharded.pipeline.models().keys() - sharded.networks.keys()
    assert fixed
    sharded.sharded, moved = True, set()
    sharded.networks = {name: make(family="vae").networks[name] for name in sharded.networks}
    move = nn.Module.to
    monkeypatch.setattr(nn.Module, "to", lambda self, *a, **k: (moved.add(id(self)), move(self, *a, **k))[1])
    monkeypatch.setattr(replicas, "highest", lambda numbers, device: list(numbers))
    for save in (sharded._save_pipeline, sharded._save_checkpoint):
        moved.clear()
        save()
        names = {name for name, model in sharded.pipeline.models().items() if id(model) in moved}
        assert names == set(sharded.networks)


def test_ddp_is_found_behind_what_is_compiled(make):
    """Accelerate looks at the type of what it is given, and does nothing for torch.compile's."""
    run, seen = make(train_batch_size=4, gradient_accumulation_steps=2, max_train_steps=1), []
    networks = list(run.models.values())
    run.models = {name: torch.compile(model, backend="eager") for name, model in run.models.items()}
    for name in ("no_sync", "trigger_sync_in_backward"):
        original = getattr(run.accelerator, name)
        setattr(run.accelerator, name, lambda model, do=original: (seen.append(model), do(model))[1])
    run.train()
    assert len(seen) >= 6
    assert all(any(model is network for network in networks) for model in seen)


def test_how_to_go_on_is_told_before_slow_trackers_are_closed(make, tmp_path, monkeypatch, capsys):
    """A launcher whose other processes have ended sends a signal then, and soon another that none survives."""
    told = []

    class Slow:
        running = ("a tracker",)

        def log(self, line):
            if line["step"] == 1:
                os.kill(os.getpid(), signal.SIGTERM)

        def log_images(self, images, step): ...

        def close(self):
            told.append(capsys.readouterr().err)
            os.kill(os.getpid(), signal.SIGINT)
            told.append("closed")

    monkeypatch.setattr(trainer, "start_trackers", lambda *arguments: Slow())
    run = make(tmp_path / "run")
    with pytest.raises(Interrupted) as error:
        run.train()
    assert "hfgen: Stopped at step 2 of 6; a checkpoint was saved. Go on with:\n  hfgen train" in told[0]
    assert (told[1], error.value.reported, error.value.exit_code) == ("closed", True, 143)
    assert main._report(str(error.value), 143, True, error.value.reported) == 143
    assert capsys.readouterr().err == ""


def test_only_the_main_process_reads_the_metrics(make, tmp_path):
    """The others may be of machines that do not see that disk."""
    other = make()
    other.accelerator = type("Other", (), {"is_main_process": False})
    assert run.summary(other, tmp_path / "elsewhere") == {"output_dir": str(tmp_path / "elsewhere"), "steps": 0}


def test_grids_by_epochs_and_by_fewer_steps(make, tmp_path):
    """24 images, 8 in a step: an epoch is 3 steps; the averages warm up as they are told."""
    trainer = make(tmp_path / "run", validation_epochs=1, max_train_steps=6, ema_power=0.75, num_inference_steps=1)
    trainer.train()
    assert sorted(p.name for p in (tmp_path / "run" / "samples").iterdir()) == ["step_000003.png", "step_000006.png"]
    assert trainer.emas["generator"].average.get_decay(10) == pytest.approx(1 - 10**-0.75)
