"""A whole run: a time limit, training a finished model further, the launcher's script, signals."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from nursery import TRAIN
from tiny_trainings import BLOBS, TINY, config_of

import hfgen.train
from hfgen import HFGenPipeline
from hfgen.data.load import load_images
from hfgen.errors import UsageError
from hfgen.files import read_config_file
from hfgen.registry import get_family
from hfgen.run_folder import read_metrics
from hfgen.settings.resolve import resolve
from hfgen.testing import quiet_environment
from hfgen.training import checkpoint, run
from hfgen.training.start import build


@pytest.mark.whole
def test_a_time_limit_ends_with_everything_in_place(splits, tmp_path):
    """Grid, checkpoint, model and card of the step that it came to; and the run can go on from there."""
    config = config_of(splits, time_limit="0.8s", max_train_steps=10**6, validation_steps=0, checkpointing_steps=10**5)
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


@pytest.mark.whole
def test_a_finished_model_is_trained_further(splits, tmp_path):
    pipeline_class = get_family("vae").load()
    run.train(config_of(splits, "vae"), pipeline_class, tmp_path / "first", say=print)
    settings = {
        "pretrained_model_name_or_path": str(tmp_path / "first"),
        "dataset_name": splits,
        "train_batch_size": 8,
    }
    further = resolve([("", settings)], "vae", pipeline_class)
    built = build(further, pipeline_class, load_images(splits))
    expected = HFGenPipeline.from_pretrained(tmp_path / "first").encoder.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in built.encoder.state_dict().items())
    settings |= {"max_train_steps": 2, "num_validation_images": 4}
    second = resolve([("", settings)], "vae", pipeline_class)
    run.train(second, pipeline_class, tmp_path / "second", say=print)
    assert str(tmp_path) not in (tmp_path / "second" / "README.md").read_text()
    for wrong, message in (
        ({"encoder": {"base_channels": 8}}, "(?s)Options that differ .* --encoder.base_channels is 8, not 4"),
        ({"resolution": 32}, "makes images of 1 channel and 16 pixels a side, without classes"),
    ):
        with pytest.raises(UsageError, match=message):
            build(resolve([("", {**settings, **wrong})], "vae", pipeline_class), pipeline_class, load_images(splits))
    with pytest.raises(UsageError, match="is a VAEPipeline; dcgan trains"):
        other = get_family("dcgan").load()
        build(resolve([("", settings)], "dcgan", other), other, load_images(splits))


@pytest.mark.whole
def test_a_fine_tuned_run_is_resumed_and_repeated_from_its_own_config(splits, tmp_path):
    """Which spells out the options of every component."""
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
    with pytest.raises(UsageError, match="(?s)Options that differ .* --likelihood.class_name is Gaussian"):
        wrong = resolve([("", written), ("", {"likelihood": "GaussianLikelihood"})], "vae", pipeline_class)
        build(wrong, pipeline_class, load_images(splits))


def test_only_the_main_process_reads_the_metrics(make_on_splits, tmp_path):
    """The others may be of machines that do not see that disk."""
    other = make_on_splits()
    other.accelerator = type("Other", (), {"is_main_process": False})
    assert run.summary(other, tmp_path / "elsewhere") == {"output_dir": str(tmp_path / "elsewhere"), "steps": 0}


def words(data, folder, *options):
    tiny = [f"--{key}={value}" for key, value in BLOBS.items()]
    settings = ["--dataset_name", data, "--output_dir", str(folder), "--train_batch_size", "4", "--logging_steps", "1"]
    return ["dcgan", *tiny, *settings, "--num_validation_images", "4", *options]


@pytest.mark.parametrize(  # test_stopped_drawing.py sends all signals
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_a_signal_saves_and_prints_the_command_that_resumes(processes, data, tmp_path, number, code):
    folder = tmp_path / "run"
    process = processes.start(TRAIN, *words(data, folder, "--max_train_steps", "100000", "--checkpointing_steps", "0"))
    deadline = time.time() + 120
    while time.time() < deadline and len(read_metrics(folder)) < 3:
        time.sleep(0.05)
    os.kill(process.pid, number)
    done = process.wait()
    assert done.returncode == code, done.stderr
    command = done.stderr.strip().splitlines()[-1].split()
    assert command[:2] == ["hfgen", "train"]
    stopped = checkpoint.step_of(checkpoint.list_checkpoints(folder)[-1])
    done = processes.run(TRAIN, *command[2:], "--max_train_steps", stopped + 2)
    assert done.returncode == 0, done.stderr
    assert f"resumed from {folder}/checkpoints/checkpoint-{stopped}" in done.stderr
    assert [line["step"] for line in read_metrics(folder)] == list(range(1, stopped + 3))


@pytest.mark.slow  # the launcher and its process take half a minute
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


@pytest.mark.slow  # a quarter of a minute; test_launcher.py starts the same script by the same launcher
def test_accelerate_launch_of_one_process_trains(processes, data, tmp_path):
    script = hfgen.train.__file__
    launch = "from accelerate.commands.accelerate_cli import main; main()"
    command = ["launch", "--cpu", "--num_processes", "1", script, "--model", "dcgan", "--json"]
    command += ["--dataset_name", data, "--output_dir", str(tmp_path / "run")]
    command += ["--max_train_steps", "2", "--train_batch_size", "4", "--num_validation_images", "4"]
    command += [f"--{key}={value}" for key, value in BLOBS.items()]
    assert json.loads(processes.output(launch, *command))["steps"] == 2
