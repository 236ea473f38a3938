"""One process trains in a run folder at a time."""

import os
import subprocess
import sys
import time

import pytest

from hfgen.errors import UsageError
from hfgen.registry import get_family
from hfgen.run_folder import ENVIRONMENT
from hfgen.settings.resolve import resolve
from hfgen.testing import make_data, quiet_environment
from hfgen.training import run, run_lock
from hfgen.training.run_lock import RunLock

TINY = {"generator": {"base_channels": 4, "latent_dim": 6}, "discriminator": {"base_channels": 4}}


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(run_lock, "PATIENCE_SECONDS", 0.2)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ENVIRONMENT).write_text("{}")
    return tmp_path / "run"


def test_a_folder_is_locked_until_it_is_released(folder, tmp_path):
    one, other = RunLock(), RunLock()
    one.take(tmp_path / "new")  # nothing is there that two could share
    assert not (tmp_path / "new").exists()
    one.take(folder)
    one.take(folder)
    with pytest.raises(UsageError, match="Another process trains in this folder") as error:
        other.take(folder)
    assert error.value.exit_code == 2
    folder.rename(tmp_path / "aside")
    folder.mkdir()
    (folder / ENVIRONMENT).write_text("{}")
    one.take(folder)
    other.take(tmp_path / "aside")
    with pytest.raises(UsageError):
        other.take(folder)
    one.release()
    other.take(folder)
    other.release()


HOLD = """
import os, pathlib, sys, time
from hfgen.training.run_lock import RunLock
lock = RunLock()
lock.take(pathlib.Path(sys.argv[1]))
if os.fork() == 0:
    pathlib.Path(sys.argv[1], "child").write_text(str(os.getpid()))
    time.sleep(60)
time.sleep(60)
"""


def test_a_killed_process_holds_no_lock_and_its_children_neither(folder):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], env=quiet_environment())
    while process.poll() is None and not (folder / "child").exists():
        time.sleep(0.02)
    try:
        with pytest.raises(UsageError):
            RunLock().take(folder)
        process.kill()
        process.wait()
        lock = RunLock()
        lock.take(folder)
        lock.release()
    finally:
        os.kill(int((folder / "child").read_text()), 9)


def test_where_files_cannot_be_locked_training_goes_on(folder, monkeypatch):
    def refused(file, how):
        raise OSError("no locks available")

    monkeypatch.setattr(run_lock.fcntl, "flock", refused)
    RunLock().take(folder)
    monkeypatch.setattr(run_lock, "fcntl", None)
    RunLock().take(folder)


def test_a_run_in_a_folder_that_another_one_trains_in_is_refused(tmp_path, monkeypatch):
    """Resumed or set aside: it stays as it is. While a run trains, it holds the lock itself."""
    data, family, held = str(make_data(tmp_path / "blobs.npz", 16, 1)), get_family("dcgan").load(), []

    def train(**settings):
        first = {"dataset_name": data, "train_batch_size": 4, "max_train_steps": 1, "num_validation_images": 1, **TINY}
        config = resolve([("", {**first, "checkpointing_steps": 1, **settings})], "dcgan", family)
        return run.train(config, family, tmp_path / "run", say=print)

    def trying(trainer, on_step, original=run.Trainer.train):
        with pytest.raises(UsageError):
            RunLock().take(tmp_path / "run")
        held.append(original(trainer, on_step))

    monkeypatch.setattr(run.Trainer, "train", trying)
    train()
    other = RunLock()
    other.take(tmp_path / "run")
    for settings in ({"resume_from_checkpoint": "latest"}, {"overwrite_output_dir": True}):
        with pytest.raises(UsageError, match="Another process trains in this folder"):
            train(**settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blobs.npz", "run"]
    other.release()
    assert train(resume_from_checkpoint="latest", max_train_steps=2)["steps"] == 2
    train(overwrite_output_dir=True)
    assert len(held) == 3
    assert (tmp_path / "run.old-1").is_dir()
