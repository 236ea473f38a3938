"""The loop: exact accumulation, updates, metrics, signals, values that are not finite."""

import os
import signal

import pytest
import torch

from hfgen.commands import main
from hfgen.errors import CheckError, HFGenError, Interrupted, UsageError
from hfgen.objective import Update
from hfgen.run_folder import read_metrics
from hfgen.settings.arguments import TrainingArguments
from hfgen.testing import assert_equal_states, weights
from hfgen.training import checkpoint, trainer


def test_accumulated_micro_batches_equal_one_batch_for_both_networks(make):
    """The generator's loss meets the updated discriminator in every micro-batch, not in the last one only."""
    whole, parts = make(no_norm=True), make(no_norm=True, train_batch_size=2, gradient_accumulation_steps=4)
    whole.train()
    parts.train()
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], tensor, atol=1e-6, rtol=1e-5)


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


def test_what_finish_step_returns_is_logged(make, tmp_path):
    run = make(tmp_path / "run", logging_steps=2)
    values = iter([1.0, 3.0, 5.0, 7.0])
    run.objective.finish_step = lambda: {"usage": torch.tensor(next(values))}
    run.train()
    assert [line["usage"] for line in read_metrics(tmp_path / "run")] == [2.0, 6.0]


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


def test_sampling_while_training_changes_nothing(make, tmp_path):
    often, never = make(tmp_path / "a", validation_steps=1), make(tmp_path / "b", validation_steps=0)
    often.train()
    never.train()
    assert_equal_states(often, never)
    assert len(list((tmp_path / "a" / "samples").iterdir())) == 4


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


def test_weights_that_are_not_finite_never_become_a_checkpoint(make, tmp_path):
    run = make(tmp_path / "run", checkpointing_steps=1, checkpoints_total_limit=1)
    steps = run.steps()
    next(steps)
    original = run.train_step
    run.train_step = lambda batches: (original(batches), run.pipeline.generator.to_image.weight.data.fill_(torch.nan))
    with pytest.raises(CheckError, match="a weight of the generator is nan.*\n*.*checkpoint-1"):
        next(steps)
    assert [p.name for p in checkpoint.list_checkpoints(tmp_path / "run")] == ["checkpoint-1"]


def test_weights_that_are_not_finite_never_become_the_model(make_on_splits, tmp_path):
    """The last step's gradient is not; no checkpoint is asked for."""
    run = make_on_splits(tmp_path / "run", checkpointing_steps=0, validation_steps=0, max_train_steps=2)
    original = run.train_step

    def train_step(batches):
        original(batches)
        if run.step == 1:
            run.pipeline.generator.to_image.weight.data.fill_(torch.nan)

    run.train_step = train_step
    with pytest.raises(CheckError, match="a weight of the generator is nan"):
        run.train()
    assert not (tmp_path / "run" / "model_index.json").exists()


def test_a_loss_that_is_not_finite_is_found_when_a_signal_comes(make_on_splits, tmp_path):
    """No checkpoint is written of it."""
    trainer = make_on_splits(tmp_path / "run", logging_steps=100, checkpointing_steps=0, validation_steps=0)
    steps = trainer.steps()
    next(steps)
    trainer.pipeline.generator.to_image.weight.data.fill_(float("nan"))
    trainer._look_at_signals = lambda: setattr(trainer, "stopped_by", 15)
    with pytest.raises(CheckError, match="nan"):
        next(steps)
    assert not checkpoint.list_checkpoints(tmp_path / "run")


def test_a_full_disk_at_a_line_of_metrics_is_one_error(make, tmp_path):
    run = make(tmp_path / "run", logging_steps=1, checkpointing_steps=0)
    next(steps := run.steps())
    run.metrics.path.unlink()
    run.metrics.path.mkdir()
    with pytest.raises(HFGenError, match="The metrics of step 2 could not be saved"):
        next(steps)


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


def test_how_to_go_on_is_told_before_slow_trackers_are_closed(make_on_splits, tmp_path, monkeypatch, capsys):
    """A launcher whose other processes have ended sends a signal then, and soon another that none survives."""
    told = []

    class Slow:
        running = ("a tracker",)

        def log(self, line):
            if line["step"] == 1:
                os.kill(os.getpid(), signal.SIGTERM)

        def log_previews(self, previews, step): ...

        def close(self):
            told.append(capsys.readouterr().err)
            os.kill(os.getpid(), signal.SIGINT)
            told.append("closed")

    monkeypatch.setattr(trainer, "start_trackers", lambda *arguments: Slow())
    run = make_on_splits(tmp_path / "run")
    with pytest.raises(Interrupted) as error:
        run.train()
    assert "hfgen: Stopped at step 2 of 6; a checkpoint was saved. Go on with:\n  hfgen train" in told[0]
    assert (told[1], error.value.reported, error.value.exit_code) == ("closed", True, 143)
    assert main._report(str(error.value), 143, True, error.value.reported) == 143
    assert capsys.readouterr().err == ""


def test_grids_by_epochs_and_by_fewer_steps(make_on_splits, tmp_path):
    """24 images, 8 in a step: an epoch is 3 steps; the averages warm up as they are told."""
    trainer = make_on_splits(
        tmp_path / "run", validation_epochs=1, max_train_steps=6, ema_power=0.75, num_inference_steps=1
    )
    trainer.train()
    assert sorted(p.name for p in (tmp_path / "run" / "samples").iterdir()) == ["step_000003.png", "step_000006.png"]
    assert trainer.networks.emas["generator"].average.get_decay(10) == pytest.approx(1 - 10**-0.75)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("90", 90), ("1.5m", 90), ("2h", 7200), (None, None)])
def test_time_limits(text, seconds):
    assert TrainingArguments(time_limit=text).seconds_limit == seconds


@pytest.mark.parametrize("text", ["", "1 d", "0s", "-3", "1:30"])
def test_what_is_no_time(text):
    with pytest.raises(UsageError, match="expected 90s, 30m or 1.5h"):
        TrainingArguments(time_limit=text)
