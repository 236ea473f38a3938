"""A dry run: reports time, memory and disk space, refuses what the run would, writes nothing."""

import shutil
import sys

import pytest
import torch
from tiny_trainings import config_of

from hfgen.errors import UsageError
from hfgen.registry import get_family
from hfgen.training import checkpoint, run
from hfgen.training.dry_run import _peak_memory, dry_run
from hfgen.training.room import states_bytes


@pytest.mark.whole
def test_a_dry_run_tells_time_memory_and_disk_and_writes_nothing(splits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = []
    dry_run(config_of(splits, checkpointing_steps=1), get_family("dcgan").load(), tmp_path / "run", said.append)
    text = "\n".join(said)
    assert "6 steps of 8 images" in text
    assert "MB at most up to here" in text
    assert "are read where they are, without a copy in a cache" in text
    told = float(text.partition("disk: ")[2].partition(" MB")[0])
    run.train(config_of(splits, checkpointing_steps=1), get_family("dcgan").load(), tmp_path / "run", say=print)
    written = sum(f.stat().st_size for f in (tmp_path / "run").rglob("*.safetensors")) / 1e6
    one = sum(f.stat().st_size for f in checkpoint.list_checkpoints(tmp_path / "run")[0].rglob("*.safetensors")) / 1e6
    assert told == pytest.approx(written + one, abs=0.1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "run"]


def test_room_on_the_disk_is_looked_at_before_the_first_step(splits, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    family, folder = get_family("dcgan").load(), tmp_path / "run"
    with pytest.raises(
        UsageError, match=r"has 0.0 MB free; the model and its first checkpoints need 0.\d MB"
    ) as error:
        run.train(config_of(splits, checkpointing_steps=1), family, folder, print)
    assert "--output_dir" in str(error.value)
    assert not (folder / "metrics.jsonl").exists()


@pytest.mark.whole
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


def test_a_system_that_does_not_count_memory(monkeypatch):
    """Windows has no `resource`."""
    monkeypatch.setitem(sys.modules, "resource", None)
    assert _peak_memory(torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("kind", "options"),
    [("AdamW", {}), ("Adam", {"amsgrad": True}), ("SGD", {"momentum": 0.9}), ("SGD", {}), ("RMSprop", {})],
)
def test_states_of_an_optimizer_are_counted_before_its_first_step(kind, options):
    network = torch.nn.Sequential(torch.nn.Linear(30, 40), torch.nn.Conv2d(3, 8, 3))
    optimizer = getattr(torch.optim, kind)(network.parameters(), lr=1e-3, **options)
    told = states_bytes(optimizer, network)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    held = [value for state in optimizer.state.values() for value in state.values() if value is not None]
    assert told == pytest.approx(sum(value.nbytes for value in held), abs=16)
