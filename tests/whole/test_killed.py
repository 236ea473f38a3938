"""SIGKILL at any moment, also while something is being saved: the resumed run ends as one that nobody disturbed.

A process that has everything imported forks the trainings, so that a kill costs a second and not ten.
"""

import os
import random
import shutil
import signal
import time

import pytest
import torch
from nursery import TRAIN
from safetensors.torch import load_file

from hfgen.run_folder import read_metrics
from hfgen.testing import make_data
from hfgen.training import checkpoint

STEPS = 16


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data") / "blobs.npz", 16, 1)


@pytest.fixture(scope="module")
def whole(processes, data, tmp_path_factory):
    """The run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    finish(processes, words(data, folder))
    return folder


def words(data, folder, *more):
    tiny = ["--generator.base_channels", "4", "--discriminator.base_channels", "4", "--train_batch_size", "4"]
    settings = ["--max_train_steps", str(STEPS), "--checkpointing_steps", "2", "--validation_steps", "6"]
    settings += ["--logging_steps", "1", "--num_validation_images", "4", "--lr_scheduler", "cosine"]
    place = ["--dataset_name", str(data), "--output_dir", str(folder), "--resume_from_checkpoint", "latest"]
    return ["dcgan", *tiny, *settings, *place, *more]


def finish(processes, arguments):
    done = processes.run(TRAIN, *arguments)
    assert done.returncode == 0, done.stderr
    return done


def what_it_left(folder):
    """Weights and averages, optimizers, metrics but for times, sample grids."""
    place = checkpoint.list_checkpoints(folder)[-1]
    files = [*place.rglob("*.safetensors"), *(folder / "generator").glob("*.safetensors")]
    tensors = {f"{f.relative_to(folder)}:{k}": v for f in files for k, v in load_file(f).items()}
    timed = ("images_per_second", "seconds", "data_wait")
    metrics = [{k: v for k, v in line.items() if k not in timed} for line in read_metrics(folder)]
    return tensors, metrics, {p.name: p.read_bytes() for p in (folder / "samples").iterdir()}


def assert_equal(left, expected):
    assert left[0].keys() == expected[0].keys()
    assert [name for name, tensor in expected[0].items() if not torch.equal(left[0][name], tensor)] == []
    assert left[1:] == expected[1:]


def test_killed_at_random_moments(processes, data, whole, tmp_path):
    """Four kills, half of them in the middle of a save; then one run to the end."""
    folder = tmp_path / "killed"
    chance, killed, saving = random.Random(0), 0, 0
    for attempt in range(4):
        child = processes.start(TRAIN, *words(data, folder))
        saving += wait_for_a_save(folder) if attempt % 2 else wait_for_a_step(folder, chance)
        os.kill(child.pid, signal.SIGKILL)
        killed += child.wait().returncode == -signal.SIGKILL
    assert killed >= 3
    assert saving == 2
    finish(processes, words(data, folder))
    assert_equal(what_it_left(folder), what_it_left(whole))
    assert [line["step"] for line in read_metrics(folder)] == list(range(1, STEPS + 1))
    assert not [p for p in folder.rglob(".*") if p.name.endswith(".saving")]


def wait_for_a_save(folder):
    """Until a checkpoint is half written, which is not the leftover of a kill."""
    before = set((folder / "checkpoints").glob(".checkpoint-*.saving"))
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not (folder / "model_index.json").exists():
        if set((folder / "checkpoints").glob(".checkpoint-*.saving")) - before:
            return True
    return False


def wait_for_a_step(folder, chance):
    """Until one to three lines of metrics are new, and any part of a step more."""
    enough = len(read_metrics(folder)) + chance.randint(1, 3)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and len(read_metrics(folder)) < enough:
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.1))
    return False


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_between_two_lines_of_metrics(processes, data, tmp_path, number):
    """What was summed since the last line goes on in the next one, so that not even the metrics tell."""
    folder = tmp_path / "stopped"
    rare = ["--logging_steps", "8", "--checkpointing_steps", "0", "--validation_steps", "0"]
    finish(processes, words(data, tmp_path / "whole", *rare, "--checkpointing_steps", str(STEPS)))
    for _ in range(3):
        child = processes.start(TRAIN, *words(data, folder, *rare))
        pause_until(lambda place=child.stderr: last_line(place).startswith("step "), 0.1)
        os.kill(child.pid, number)
        done = child.wait()
        assert done.returncode in (128 + number, 0), done.stderr  # 0: at its last step
    finish(processes, words(data, folder, *rare, "--checkpointing_steps", str(STEPS)))
    assert_equal(what_it_left(folder), what_it_left(tmp_path / "whole"))


def last_line(path):
    return path.read_text().splitlines()[-1] if path.exists() and path.read_text() else ""


def pause_until(condition, at_least):
    time.sleep(at_least)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not condition():
        time.sleep(0.01)


def damage_by_truncation(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def damage_one_bit(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("generator/diffusion_pytorch_model.safetensors", damage_by_truncation, "bytes instead of"),
        ("trainer/discriminator.optimizer.safetensors", damage_one_bit, "is not what was written"),
        ("trainer/generator.ema.safetensors", lambda file: file.unlink(), "is missing"),
        ("trainer/state.json", damage_by_truncation, "state.json: "),
    ],
)
def test_a_damaged_checkpoint_is_passed_over(whole, tmp_path, name, damage, told):
    folder, said = tmp_path / "damaged", []
    shutil.copytree(whole, folder)
    newest = checkpoint.list_checkpoints(folder)[-1]
    damage(newest / name)
    assert checkpoint.find_checkpoint("latest", folder, said.append).name == f"checkpoint-{STEPS - 2}"
    assert f"the checkpoint {newest} is damaged" in said[0]
    assert told in said[0]


def test_a_run_whose_newest_checkpoint_is_damaged_ends_as_an_undisturbed_one(processes, data, whole, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(whole, folder)
    newest = checkpoint.list_checkpoints(folder)[-1]
    damage_one_bit(newest / "trainer" / "discriminator.optimizer.safetensors")
    said = finish(processes, words(data, folder)).stderr
    assert f"the checkpoint {newest} is damaged" in said
    assert f"resumed from {newest.parent}/checkpoint-{STEPS - 2}" in said
    assert_equal(what_it_left(folder), what_it_left(whole))


class Model:
    """What `save_checkpoint` asks of a pipeline."""

    def __init__(self, text="abc"):
        self.text = text

    def save_pretrained(self, folder):
        folder.mkdir(parents=True)
        (folder / "weights").write_text(self.text)


def save(folder, step, model=None):
    return checkpoint.save_checkpoint(folder, model or Model(), {}, {"step": step})


def names(folder):
    return sorted(p.name for p in (folder / "checkpoints").iterdir())


def test_the_last_good_checkpoint_is_never_deleted(tmp_path):
    """With a limit of 1, a newer one that is damaged does not count."""
    places = [save(tmp_path, step) for step in (1, 2, 3)]
    damage_by_truncation(places[2] / "weights")
    checkpoint.delete_old(places[2], 1)
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-3"]
    damage_one_bit(places[1] / "weights")
    with pytest.raises(checkpoint.HFGenError, match="All checkpoints in .* are damaged"):
        checkpoint.find_checkpoint("latest", tmp_path, note=lambda line: None)


def test_a_state_that_was_changed_is_damage(tmp_path):
    place = save(tmp_path, 3)
    state = place / checkpoint.STATE
    assert checkpoint.damage_of(place) is None
    state.write_text(state.read_text().replace('"step": 3', '"step": 2'))
    assert checkpoint.damage_of(place, content=False) == "trainer/state.json is not what was written"


def test_a_run_that_went_on_from_an_older_checkpoint_keeps_what_it_writes(tmp_path):
    """The newest is damaged within, which its size does not tell, and was passed over."""
    _, good, damaged = [save(tmp_path, step) for step in (2, 4, 8)]
    damage_one_bit(damaged / "weights")
    assert checkpoint.find_checkpoint("latest", tmp_path, note=lambda line: None) == good
    written = save(tmp_path, 5)
    checkpoint.delete_old(written, 2)
    assert names(tmp_path) == ["checkpoint-4", "checkpoint-5", "checkpoint-8"]
    checkpoint.delete_old(save(tmp_path, 6), 1)
    assert names(tmp_path) == ["checkpoint-6", "checkpoint-8"]
    assert checkpoint.find_checkpoint("latest", tmp_path, note=lambda line: None).name == "checkpoint-6"


@pytest.mark.parametrize("number", [1, 2])
def test_stopped_while_the_same_step_is_saved_again(tmp_path, monkeypatch, number):
    """Before either of its two renames; a whole one of that step is found afterwards."""
    save(tmp_path, 4)
    rename, done = type(tmp_path).rename, []

    def stopped(self, target):
        done.append(target)
        if len(done) == number:
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "rename", stopped)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 4, Model("new"))
    found = checkpoint.find_checkpoint("latest", tmp_path)
    assert (found.name, (found / "weights").read_text()) == ("checkpoint-4", "abc")
    save(tmp_path, 4, Model("new"))
    assert names(tmp_path) == ["checkpoint-4"]
    assert (found / "weights").read_text() == "new"


def test_killed_while_an_old_one_is_deleted(tmp_path, monkeypatch):
    """What is left of it is no checkpoint, and goes with the next save."""

    def killed(folder, **options):
        next(file for file in folder.rglob("*") if file.is_file()).unlink()
        raise KeyboardInterrupt

    save(tmp_path, 1)
    written = save(tmp_path, 2)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.delete_old(written, 1)
    assert checkpoint.list_checkpoints(tmp_path) == [written]
    save(tmp_path, 3)
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-3"]
