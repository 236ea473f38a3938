"""Checkpoints: which are kept, refused, damaged, found; a full disk; a resumed schedule."""

import json
import resource
import signal

import pytest
from tiny_trainings import config_of

from hfgen.errors import HFGenError, UsageError
from hfgen.registry import get_family
from hfgen.run_folder import read_metrics
from hfgen.training import checkpoint, run


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


@pytest.mark.whole
def test_another_scheduler_is_another_training(splits, tmp_path):
    """Of a component that is no network, too: the weight of a divergence, the prior."""
    family, folder = get_family("vae").load(), tmp_path / "run"
    run.train(config_of(splits, "vae", max_train_steps=1), family, folder, print)
    for block in ({"beta_scheduler": {"beta": 50.0}}, {"scheduler": {"distribution": "uniform"}}):
        config = config_of(splits, "vae", max_train_steps=2, resume_from_checkpoint="latest")
        config.components.update(block)
        with pytest.raises(UsageError, match=next(iter(block))):
            run.train(config, family, folder, print)
