"""The loop: exact accumulation, schedules, averages, checkpoints, signals, NaN, a full disk."""

import json
import os
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch
from nursery import TRAIN
from torch import nn

import hfgen.train
from hfgen.data.images import load_images
from hfgen.errors import CheckError, HFGenError, UsageError
from hfgen.objective import Update
from hfgen.registry import get_family
from hfgen.repository.save import staged
from hfgen.run_folder import choose, read_metrics, take
from hfgen.settings.resolve import resolve
from hfgen.testing import make_data, quiet_environment, state, weights
from hfgen.training import checkpoint, trainer
from hfgen.training.ema import ModelEMA
from hfgen.training.optimizers import step_together

TINY = {"generator.base_channels": 4, "generator.latent_dim": 6, "discriminator.base_channels": 4}


@pytest.fixture
def data(tmp_path):
    return str(make_data(tmp_path / "blobs.npz", 16, 1))


@pytest.fixture
def make(data):
    """A trainer of a tiny family with two networks; `no_norm` takes the BatchNorm out."""

    def build(folder=None, no_norm=False, **settings):
        family = get_family("dcgan").load()
        settings = {"train_batch_size": 8, "max_train_steps": 4, "num_validation_images": 4, **settings}
        arguments = resolve([("test", settings)], "dcgan", family).arguments
        torch.manual_seed(0)
        pipeline = family.build(16, 1, **TINY)
        if no_norm:
            for block in [*pipeline.generator.blocks, *pipeline.discriminator.blocks]:
                block[1] = nn.Identity()
        return trainer.Trainer(pipeline, load_images(data), arguments, folder)

    return build


def test_accumulated_micro_batches_equal_one_batch_for_both_networks(make):
    """The generator's loss meets the updated discriminator in every micro-batch, not in the last one only."""
    whole, parts = make(no_norm=True), make(no_norm=True, train_batch_size=2, gradient_accumulation_steps=4)
    whole.train()
    parts.train()
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], tensor, atol=1e-6, rtol=1e-5)


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


def test_learning_rate_counts_optimizer_steps(make, tmp_path):
    """Linear to 0 over 4 steps, with 2 micro-batches each: 3/4, 1/2, 1/4, 0."""
    settings = {"lr_scheduler": "linear", "logging_steps": 1, "learning_rate": 1.0, "train_batch_size": 4}
    make(tmp_path / "run", gradient_accumulation_steps=2, **settings).train()
    assert [line["learning_rate"] for line in read_metrics(tmp_path / "run")] == [0.75, 0.5, 0.25, 0.0]


def test_the_mean_of_a_network_s_many_updates_is_logged(make, tmp_path):
    """Three updates of one network in a step, of losses 1, 2 and 6, over 2 micro-batches."""
    run = make(tmp_path / "run", max_train_steps=1, train_batch_size=4, gradient_accumulation_steps=2)
    weight = run.networks.models["discriminator"].to_logit.weight

    def training_step(batch):
        yield from (Update("discriminator", weight.sum() * 0 + value) for value in (1.0, 2.0, 6.0))

    run.objective.training_step = training_step
    run.train()
    assert read_metrics(tmp_path / "run")[-1]["discriminator_loss"] == pytest.approx(3.0)


def test_components_that_step_together(make, tmp_path):
    """One loss, both optimizers; `finish_step` once, after all micro-batches of the step."""
    run = make(tmp_path / "run", max_train_steps=2, train_batch_size=4, gradient_accumulation_steps=2)
    models, events = run.networks.models, []
    parts = [models["generator"].to_image, models["discriminator"].to_logit]
    before = weights(run)

    def training_step(batch):
        events.append(run.objective.step)
        yield Update(("generator", "discriminator"), sum(part.weight.square().mean() for part in parts))
        events.append("stepped")

    run.objective.training_step, run.objective.finish_step = training_step, lambda: events.append("finished") or {}
    run.train()
    assert events == [0, 0, "stepped", "stepped", "finished", 1, 1, "stepped", "stepped", "finished"]
    changed = {name for name, tensor in weights(run).items() if not torch.equal(tensor, before[name])}
    assert changed == {"generator.to_image.weight", "discriminator.to_logit.weight"}
    assert "loss" in read_metrics(tmp_path / "run")[-1]


def test_an_objective_that_updates_what_is_no_network(make):
    run = make(max_train_steps=1)
    run.objective.training_step = lambda batch: iter([Update(("generator", "critic"), torch.zeros(()))])
    with pytest.raises(HFGenError, match="updates 'critic'; the networks are"):
        run.train()


@pytest.mark.parametrize("limit", [None, 0.5])
def test_optimizers_that_step_together_are_unscaled_once(limit):
    """With a loss scaler both take the step that they take without one; a gradient that overflows skips both."""
    results = []
    for scaled in (False, True):
        weights = [torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([3.0], requires_grad=True)]
        optimizers = [torch.optim.SGD([weight], lr=0.1) for weight in weights]
        scaler = torch.amp.GradScaler("cpu", enabled=scaled)
        for _ in range(2):
            scaler.scale(sum(weight.square().sum() for weight in weights)).backward()
            step_together(optimizers, scaler, limit)
            for optimizer in optimizers:
                optimizer.zero_grad()
        results.append(torch.cat(weights).detach())
    torch.testing.assert_close(*results)
    before = results[1].clone()
    scaler.scale(weights[0].sum() * float("inf") + weights[1].sum()).backward()
    scale = scaler.get_scale()
    step_together(optimizers, scaler, limit)
    assert torch.equal(weights[0].detach(), before[:2])
    assert scaler.get_scale() == scale / 2


def test_what_finish_step_returns_is_logged(make, tmp_path):
    run = make(tmp_path / "run", logging_steps=2)
    values = iter([1.0, 3.0, 5.0, 7.0])
    run.objective.finish_step = lambda: {"usage": torch.tensor(next(values))}
    run.train()
    assert [line["usage"] for line in read_metrics(tmp_path / "run")] == [2.0, 6.0]


def test_learning_rate_by_rules(make, tmp_path):
    settings = {"lr_scheduler": "piecewise_constant", "lr_step_rules": "1:1,0.5:3,0.1", "learning_rate": 1.0}
    make(tmp_path / "run", logging_steps=1, **settings).train()
    assert [line["learning_rate"] for line in read_metrics(tmp_path / "run")] == [0.5, 0.5, 0.1, 0.1]
    with pytest.raises(UsageError, match="--lr_step_rules is '1:x,2'; expected factor:step"):
        make(**settings | {"lr_step_rules": "1:x,2"})
    with pytest.raises(UsageError, match="piecewise_constant has no warm-up"):
        make(**settings, lr_warmup_steps=3)
    with pytest.raises(UsageError, match="need each other"):
        make(lr_scheduler="piecewise_constant")


def test_a_diagnosis_is_logged_and_its_warnings_told(make, tmp_path, capsys):
    from hfgen import Diagnosis

    run = make(tmp_path / "run", validation_steps=2)
    seen = []

    class Diagnosing(run.pipeline.objective_class):
        @classmethod
        def diagnose(cls, pipeline, examples):
            seen.append(examples["pixel_values"])
            return Diagnosis({"health": 0.5, "bars": [1.0, 2.0]}, ["it ails: give it rest."])

    run.pipeline.objective_class = Diagnosing
    run.train()
    assert [line.get("diagnosis") for line in read_metrics(tmp_path / "run")] == [
        {"health": 0.5, "bars": [1.0, 2.0], "warnings": ["it ails: give it rest."]}
    ] * 2
    assert capsys.readouterr().err.count("warning: it ails: give it rest.") == 2
    assert torch.equal(seen[0], seen[1])
    assert len(seen[0]) == 24


def test_an_unknown_schedule_is_told(make):
    with pytest.raises(UsageError, match="--lr_scheduler is 'cosin'. Did you mean 'cosine'"):
        make(lr_scheduler="cosin")


def test_the_average_follows_its_formula_and_keeps_buffers():
    """decay_n = min(decay, (1 + n) / (10 + n)); buffers are the live ones."""
    model = nn.BatchNorm1d(1)
    model.weight.data.fill_(0.0)
    ema, expected = ModelEMA(model, decay=0.9), 0.0
    for n in range(1, 4):
        model.weight.data.fill_(float(n))
        model.running_mean.fill_(float(n))
        model.num_batches_tracked.fill_(n)
        ema.step()
        decay = 0.0 if n == 1 else min(0.9, (1 + n - 1) / (10 + n - 1))
        expected = decay * expected + (1 - decay) * n
    assert ema.state_dict()["weight"].item() == pytest.approx(expected)
    assert (ema.state_dict()["running_mean"].item(), ema.state_dict()["num_batches_tracked"].item()) == (3.0, 3)
    with ema.applied():
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 3.0


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


def test_sampling_while_training_changes_nothing(make, tmp_path):
    often, never = make(tmp_path / "a", validation_steps=1), make(tmp_path / "b", validation_steps=0)
    often.train()
    never.train()
    assert all(torch.equal(tensor, state(never)[name]) for name, tensor in state(often).items())
    assert len(list((tmp_path / "a" / "samples").iterdir())) == 4


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


# --- checkpoints ----------------------------------------------------------------------------------------------------


def test_only_the_newest_checkpoints_are_kept(make, tmp_path):
    make(tmp_path / "run", checkpointing_steps=1, checkpoints_total_limit=2).train()
    assert [checkpoint.step_of(p) for p in checkpoint.list_checkpoints(tmp_path / "run")] == [3, 4]
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["checkpoint-3", "checkpoint-4"]


@pytest.mark.parametrize("settings", [{"seed": 1}, {"train_batch_size": 4}])
def test_another_run_s_checkpoint_is_refused(make, tmp_path, settings):
    make(tmp_path / "run", checkpointing_steps=4).train()
    with pytest.raises(UsageError, match=f"was written with .* this run has {next(iter(settings.values()))}"):
        make(tmp_path / "run", **settings).resume(tmp_path / "run" / "checkpoints" / "checkpoint-4")


def test_a_damaged_checkpoint_is_told(make, tmp_path):
    make(tmp_path / "run", checkpointing_steps=4).train()
    place = tmp_path / "run" / "checkpoints" / "checkpoint-4"
    file = place / "trainer" / "generator.optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(HFGenError, match="checkpoint-4 is damaged"):
        make(tmp_path / "run").resume(place)


def test_metrics_go_on_without_gaps_or_doubles(make, tmp_path):
    """A run that was killed after step 3, with its last line cut off, resumes from the checkpoint of step 2."""
    first = make(tmp_path / "run", checkpointing_steps=2, logging_steps=1)
    steps = first.steps()
    for _ in range(3):
        next(steps)
    steps.close()
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "gener')
    second = make(tmp_path / "run", checkpointing_steps=2, logging_steps=1)
    second.resume(checkpoint.find_checkpoint("latest", tmp_path / "run"))
    second.train()
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [1, 2, 3, 4]


def test_latest_of_a_run_without_checkpoints_starts_anew(tmp_path):
    assert checkpoint.find_checkpoint("latest", tmp_path) is None
    with pytest.raises(UsageError, match="'checkpoint-9' is not a checkpoint"):
        checkpoint.find_checkpoint("checkpoint-9", tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(make, tmp_path, value):
    broken = make(tmp_path / "run", checkpointing_steps=2, logging_steps=1, max_train_steps=8)
    with pytest.raises(CheckError, match="loss is (nan|inf).*\n*.*checkpoint-2") as error:
        for step in broken.steps():
            if step == 3:
                broken.pipeline.generator.to_image.weight.data.fill_(value)
                broken.pipeline.discriminator.to_logit.weight.data.fill_(value)
    assert error.value.exit_code == 3
    assert [p.name for p in checkpoint.list_checkpoints(tmp_path / "run")] == ["checkpoint-2"]
    assert max(line["step"] for line in read_metrics(tmp_path / "run")) == 3


def test_a_full_disk_leaves_the_last_good_checkpoint_and_nothing_half_written(make, tmp_path):
    """A limit on the size of files stands in for the disk: the write fails in the middle, as on a full one."""
    run = make(tmp_path / "run", checkpointing_steps=1)
    steps = run.steps()
    next(steps)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(HFGenError, match="checkpoint of step 2 could not be saved.*\n.*checkpoint-1") as error:
            next(steps)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert "--resume_from_checkpoint latest" in str(error.value)
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["checkpoint-1"]


def test_a_failure_while_saving_leaves_the_former_folder(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "file").write_text("old")
    with pytest.raises(OSError, match="full"), staged(tmp_path / "model") as staging:
        (staging / "file").write_text("new")
        raise OSError("the disk is full")
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["file"]
    assert (tmp_path / "model" / "file").read_text() == "old"
    with pytest.raises(OSError, match="full"), staged(tmp_path / "new" / "deep"):
        raise OSError("the disk is full")
    assert not (tmp_path / "new").exists()


# --- folders --------------------------------------------------------------------------------------------------------


def test_run_folders_are_numbered_and_never_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = []
    for _ in range(3):
        folder = choose("m", "org/some data", None, resume=None)
        folder.mkdir(parents=True)
        (folder / "env.json").touch()
        names.append(str(folder))
    assert names == ["runs/m-some-data", "runs/m-some-data-2", "runs/m-some-data-3"]
    assert str(choose("m", "org/some data", None, resume="latest")) == "runs/m-some-data-3"
    assert str(choose("m", "d", None, resume="runs/m-some-data-2/checkpoints/checkpoint-5")) == "runs/m-some-data-2"
    with pytest.raises(UsageError, match="is not empty; nothing was written"):
        choose("m", "d", names[0], resume=None)
    assert str(choose("m", "d", names[0], resume="latest")) == names[0]
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "README.md").write_text("mine")
    with pytest.raises(UsageError, match="no run of hfgen; nothing was written"):
        choose("m", "d", "letters", resume="latest")
    with pytest.raises(UsageError, match="taken by another run"):
        take(tmp_path / names[0], resumed=False)


# --- signals --------------------------------------------------------------------------------------------------------


def words(data, folder, *options):
    tiny = [f"--{key}={value}" for key, value in TINY.items()]
    settings = ["--dataset_name", data, "--output_dir", str(folder), "--train_batch_size", "4", "--logging_steps", "1"]
    return ["dcgan", *tiny, *settings, "--num_validation_images", "4", *options]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_prints_the_command_that_resumes(trainings, data, tmp_path, number, code):
    folder = tmp_path / "run"
    process = trainings.start(TRAIN, *words(data, folder, "--max_train_steps", "100000", "--checkpointing_steps", "0"))
    deadline = time.time() + 120
    while time.time() < deadline and len(read_metrics(folder)) < 3:
        time.sleep(0.05)
    os.kill(process, number)
    done = trainings.wait()
    assert done.returncode == code, done.stderr
    command = done.stderr.strip().splitlines()[-1].split()
    assert command[:2] == ["hfgen", "train"]
    stopped = checkpoint.step_of(checkpoint.list_checkpoints(folder)[-1])
    done = trainings.run(TRAIN, *command[2:], "--max_train_steps", stopped + 2)
    assert done.returncode == 0, done.stderr
    assert f"resumed from {folder}/checkpoints/checkpoint-{stopped}" in done.stderr
    assert [line["step"] for line in read_metrics(folder)] == list(range(1, stopped + 3))


# --- how many processes ---------------------------------------------------------------------------------------------


def test_accelerate_launch_that_starts_too_few_processes_is_stopped(data, tmp_path):
    """`accelerate launch --num_processes 2` on a CPU runs one, without a word of its own."""
    script = hfgen.train.__file__
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "--num_processes", "2"]
    command += [script, "dcgan", "--dataset_name", data, "--output_dir", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, env=quiet_environment(), timeout=200)
    assert done.returncode == 1
    assert "2 processes were asked for, but 1 trains here" in done.stderr
    assert "torchrun --nproc_per_node 2" in done.stderr
    assert not (tmp_path / "run").exists()


def test_accelerate_launch_of_one_process_trains(data, tmp_path):
    script = hfgen.train.__file__
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "--num_processes", "1"]
    command += [script, "--model", "dcgan", "--dataset_name", data, "--output_dir", str(tmp_path / "run"), "--json"]
    command += ["--max_train_steps", "2", "--train_batch_size", "4", "--num_validation_images", "4"]
    command += [f"--{key}={value}" for key, value in TINY.items()]
    done = subprocess.run(command, capture_output=True, text=True, env=quiet_environment(), timeout=200)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 2


def test_weights_that_are_not_finite_never_become_a_checkpoint(make, tmp_path):
    run = make(tmp_path / "run", checkpointing_steps=1, checkpoints_total_limit=1)
    steps = run.steps()
    next(steps)
    original = run.train_step
    run.train_step = lambda batches: (original(batches), run.pipeline.generator.to_image.weight.data.fill_(torch.nan))
    with pytest.raises(CheckError, match="a weight of the generator is nan.*\n*.*checkpoint-1"):
        next(steps)
    assert [p.name for p in checkpoint.list_checkpoints(tmp_path / "run")] == ["checkpoint-1"]


def test_a_changed_learning_rate_and_length_take_effect_on_resume(make, tmp_path):
    """The schedule is a function of the step: linear over 8 steps, the third step has 1 - 2 / 8 of the rate."""
    settings = {"lr_scheduler": "linear", "logging_steps": 1, "checkpointing_steps": 2}
    make(tmp_path / "run", max_train_steps=2, learning_rate=1e-3, **settings).train()
    longer = make(tmp_path / "run", max_train_steps=8, learning_rate=1e-2, adam_beta1=0.25, **settings)
    longer.resume(tmp_path / "run" / "checkpoints" / "checkpoint-2")
    group = longer.networks.optimizers["generator"].param_groups[0]
    assert (group["lr"], group["betas"][0]) == (pytest.approx(0.75e-2), 0.25)
    next(steps := longer.steps())
    steps.close()
    assert group["lr"] == pytest.approx(1e-2 * 5 / 8)


def test_an_older_checkpoint_does_not_fork_the_folder(make, tmp_path):
    make(tmp_path / "run", checkpointing_steps=1, checkpoints_total_limit=0).train()
    with pytest.raises(UsageError, match="holds newer checkpoints than checkpoint-1, up to checkpoint-4"):
        checkpoint.find_checkpoint("checkpoint-1", tmp_path / "run")
    assert checkpoint.find_checkpoint("latest", tmp_path / "run").name == "checkpoint-4"


def test_a_checkpoint_from_elsewhere_does_not_fork_the_folder_either(make, tmp_path):
    """`latest` would go on from the other training's."""
    make(tmp_path / "here", checkpointing_steps=2).train()
    make(tmp_path / "there", checkpointing_steps=1, checkpoints_total_limit=0).train()
    for step, message in ((3, "newer checkpoints than checkpoint-3, up to checkpoint-4"), (4, "another checkpoint-4")):
        with pytest.raises(UsageError, match=f"here holds {message}"):
            checkpoint.find_checkpoint(str(tmp_path / f"there/checkpoints/checkpoint-{step}"), tmp_path / "here")
    newest = tmp_path / "here" / "checkpoints" / "checkpoint-4"
    assert checkpoint.find_checkpoint(str(newest), tmp_path / "here") == newest
    assert checkpoint.find_checkpoint(str(newest), tmp_path / "new") == newest


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        (lambda state: state["settings"].pop("streaming"), "streaming"),
        (lambda state: state["settings"].pop("components"), "components"),
        (lambda state: state.pop("data"), "data"),
        (lambda state: state.pop("skipped_steps"), "skipped_steps"),
    ],
)
def test_a_checkpoint_of_another_version_is_no_damage(make, tmp_path, change, missing):
    make(tmp_path / "run", checkpointing_steps=4).train()
    place = tmp_path / "run" / "checkpoints" / "checkpoint-4"
    state = json.loads((place / checkpoint.STATE).read_text())
    change(state)
    state["settings"]["hfgen"] = "0.0.1"
    state.pop("digest")
    (place / checkpoint.STATE).write_text(json.dumps(state))
    with pytest.raises(UsageError, match=f"written by hfgen 0.0.1, which did not keep {missing}; this is hfgen "):
        make(tmp_path / "run").resume(place)


def test_another_network_s_checkpoint_is_no_damage(make, tmp_path):
    make(tmp_path / "run", checkpointing_steps=4).train()
    other = make(tmp_path / "run")
    other.pipeline.generator.register_to_config(base_channels=5)
    with pytest.raises(UsageError, match="components {'generator': {'base_channels': 4}}, this run has .*5"):
        other.resume(tmp_path / "run" / "checkpoints" / "checkpoint-4")


def test_a_network_without_trainable_weights_is_used_as_it_is(make):
    run = make()
    run.pipeline.discriminator.requires_grad_(False)
    again = trainer.Trainer(run.pipeline, run.batches.images, run.arguments)
    assert list(again.networks.optimizers) == ["generator"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"mixed_precision": "fp16"}, "fp16 needs an accelerator"), ({"report_to": "wandbb"}, "Did you mean 'wandb'")],
)
def test_what_this_machine_cannot_do_is_said_before_training(make, tmp_path, settings, message):
    if torch.accelerator.is_available() and "mixed_precision" in settings:
        pytest.skip("there is an accelerator")
    with pytest.raises(UsageError, match=message):
        make(tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_a_full_disk_at_a_line_of_metrics_is_one_error(make, tmp_path):
    run = make(tmp_path / "run", logging_steps=1, checkpointing_steps=0)
    next(steps := run.steps())
    run.metrics.path.unlink()
    run.metrics.path.mkdir()
    with pytest.raises(HFGenError, match="The metrics of step 2 could not be saved"):
        next(steps)


def test_a_component_is_back_after_a_kill_between_its_two_renames(tmp_path):
    (tmp_path / ".saving-killed" / "network.old").mkdir(parents=True)
    (tmp_path / ".saving-killed" / "network.old" / "config.json").write_text("{}")
    with staged(tmp_path) as staging:
        (staging / "other").write_text("x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["network", "other"]
