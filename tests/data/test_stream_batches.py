"""Batches of streamed data, and trainings on them."""

import json
import os
import signal
import time

import numpy as np
import pytest
import torch
from nursery import TRAIN
from stream_data import COUNT, drawn, flips, found, numbers, stream

from hfgen.data.layout import Layout
from hfgen.data.load import load_images
from hfgen.registry import get_family
from hfgen.run_folder import read_metrics
from hfgen.settings.resolve import resolve
from hfgen.testing import assert_equal_states
from hfgen.testing.processes import run_two_processes
from hfgen.training import checkpoint, trainer

pytestmark = pytest.mark.usefixtures("own_cache")
TINY = {"generator.base_channels": 4, "generator.latent_dim": 6, "discriminator.base_channels": 4}


@pytest.mark.whole
def test_the_global_batch_is_the_same_however_it_is_split(shards):
    """One process, two processes, two micro-batches of two processes: the same images, flips, labels."""
    options = {"random_flip": True, "class_conditional": True}
    whole = list(stream(shards, Layout(8), **options).steps(0, 8))
    for layouts in (
        [Layout(4, 2, 0), Layout(4, 2, 1)],
        [Layout(2, 2, 0, 2), Layout(2, 2, 1, 2)],
        [Layout(4, 1, 0, 2)],
    ):
        parts = [list(stream(shards, layout, **options).steps(0, 8)) for layout in layouts]
        for step, [together] in enumerate(whole):
            micros = [part[step][micro] for micro in range(layouts[0].accumulation) for part in parts]
            for name, tensor in together.items():
                assert torch.equal(torch.cat([micro[name] for micro in micros]), tensor)


def test_labels_and_flips_belong_to_their_images(shards):
    micros = [m for [m] in stream(shards, random_flip=True, class_conditional=True).steps(0, 12)]
    assert all(m["class_labels"].dtype == torch.int64 for m in micros)
    seen = [n for m in micros for n in numbers(m)]
    flipped = [flip for m in micros for flip in flips(m)]
    assert [label for m in micros for label in m["class_labels"].tolist()] == [n % 2 for n in seen]
    assert 0.25 < np.mean(flipped) < 0.75
    by_epoch = [dict(zip(seen[a:b], flipped[a:b], strict=True)) for a, b in ((0, 48), (48, 96))]
    both = by_epoch[0].keys() & by_epoch[1].keys()
    assert any(by_epoch[0][n] != by_epoch[1][n] for n in both)


@pytest.mark.parametrize("source", ["shards", "image_folder"])
@pytest.mark.whole
def test_what_is_decoded_is_what_the_map_style_path_decodes(source, request):
    data = request.getfixturevalue(source)
    whole, [batch] = load_images(data), next(stream(data, Layout(COUNT), class_conditional=True).steps(0, 1))
    assert (whole.mode, whole.sizes, whole.label_names, whole.num_classes) == (
        (images := found(data)).mode, images.sizes, images.label_names, images.num_classes,
    )  # fmt: skip
    everything = whole.tensor(range(COUNT))
    place = {int(n): i for i, n in enumerate((everything[:, 0, 0, 1] + 1) * 127.5 + 0.5)}
    indices = [place[n] for n in numbers(batch)]
    assert torch.equal(batch["pixel_values"], everything[indices])
    assert torch.equal(batch["class_labels"], whole.labels[indices])


def test_workers_make_no_difference(shards):
    assert drawn(stream(shards, num_workers=1)) == drawn(stream(shards))


def test_the_first_images_serve_for_diagnosis(shards):
    batches = stream(shards, random_flip=True, class_conditional=True)
    examples = batches.examples(20)
    assert numbers(examples) == list(range(20))
    assert examples["class_labels"].tolist() == [n % 2 for n in range(20)]
    assert not any(flips(examples))
    next(batches.steps(0, 1))
    assert batches.examples(20) is examples


@pytest.fixture
def train(shards):
    def build(folder=None, **settings):
        family = get_family("dcgan").load()
        settings = {"train_batch_size": 8, "max_train_steps": 4, "num_validation_images": 4, **settings}
        settings |= {"shuffle_buffer_size": 12, "dataloader_num_workers": 0, "random_flip": True}
        arguments = resolve([("test", settings)], "dcgan", family).arguments
        torch.manual_seed(0)
        return trainer.Trainer(family.build(16, 1, **TINY), found(shards), arguments, folder)

    return build


@pytest.mark.parametrize("half", [3, 8])
def test_n_and_n_steps_are_2n_steps(train, tmp_path, half):
    """6 steps are an epoch, and a block ends within them."""
    settings = {"checkpointing_steps": half, "logging_steps": 1, "validation_steps": 0}
    whole = train(tmp_path / "whole", max_train_steps=2 * half, **settings)
    whole.train()
    train(tmp_path / "run", max_train_steps=half, **settings).train()
    resumed = train(tmp_path / "run", max_train_steps=2 * half, **settings)
    resumed.resume(checkpoint.find_checkpoint("latest", tmp_path / "run"))
    resumed.train()
    assert_equal_states(resumed, whole)
    losses = [[line["generator_loss"] for line in read_metrics(tmp_path / name)] for name in ("whole", "run")]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 2 * half


def words(data, folder, *options):
    tiny = [f"--{key}={value}" for key, value in TINY.items()]
    settings = ["--dataset_name", data, "--streaming", "--shuffle_buffer_size", "12", "--train_batch_size", "8"]
    settings += ["--num_validation_images", "4", "--logging_steps", "1", "--output_dir", str(folder)]
    return ["dcgan", *tiny, *settings, *options]


def test_a_signal_to_the_whole_job_changes_nothing_of_the_result(processes, shards, tmp_path):
    """SIGTERM to the process group, workers and all; the printed command ends where an undisturbed run does."""
    options = ["--dataloader_num_workers", "1", "--checkpointing_steps", "0", "--max_train_steps"]
    process = processes.start(TRAIN, *words(shards, tmp_path / "run", *options, "100000"), new_session=True)
    deadline = time.time() + 120
    while time.time() < deadline and len(read_metrics(tmp_path / "run")) < 9:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    done = process.wait()
    assert done.returncode == 143, done.stderr
    stopped = checkpoint.step_of(checkpoint.list_checkpoints(tmp_path / "run")[-1])
    resume = done.stderr.strip().splitlines()[-1].split()
    last = str(stopped + 7)
    for command in ([*resume[2:], "--max_train_steps", last], words(shards, tmp_path / "undisturbed", *options, last)):
        done = processes.run(TRAIN, *command)
        assert done.returncode == 0, done.stderr
    for name in ("generator", "discriminator"):
        file = f"{name}/diffusion_pytorch_model.safetensors"
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "undisturbed" / file).read_bytes()
    data = json.loads((tmp_path / "run" / "env.json").read_text())["data"]
    assert (data["count"], data["class_names"]) == (COUNT, ["even", "odd"])
    assert "50 images of shards" in (tmp_path / "run" / "README.md").read_text()


TWO = """
import json, pathlib, sys
import torch
from nursery import TRAIN
from accelerate import PartialState
from hfgen.data.layout import Layout
from hfgen.processes.world import join_processes
from hfgen.data.decoding import Decoding
from hfgen.data.sources import DataSource
from hfgen.data.streams import stream_images
from hfgen.data.stream_batches import StreamBatches

folder, data = pathlib.Path(sys.argv[1]), sys.argv[2]
state = join_processes()
layout = Layout(2, state.num_processes, state.process_index, 2)
batches = StreamBatches(
    stream_images(DataSource(data)), Decoding(16, num_workers=1), layout, shuffle_buffer_size=12
)
steps = [[m["pixel_values"][:, 0, 0, 1].tolist() for m in micros] for micros in batches.steps(0, 8)]
(folder / f"rank{state.process_index}.json").write_text(json.dumps([steps, batches.state_dict()]))
state.destroy_process_group()
"""


def test_two_processes_see_the_batches_of_one(shards, tmp_path):
    run_two_processes(TWO, [shards], tmp_path)
    one = stream(shards, Layout(8))
    whole = [m["pixel_values"][:, 0, 0, 1].tolist() for [m] in one.steps(0, 8)]
    parts = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    together = [[n for micro in (0, 1) for part in parts for n in part[0][step][micro]] for step in range(8)]
    assert together == whole
    assert parts[0][1] == parts[1][1] == one.state_dict()
