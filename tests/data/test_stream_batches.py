"""Streamed data: an order that is a function of (seed, epoch, position), and a place in it that a checkpoint keeps."""

import io
import itertools
import json
import os
import signal
import tarfile
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from nursery import TRAIN
from PIL import Image

from hfgen.data.batches import Batches
from hfgen.data.images import load_images
from hfgen.data.layout import Layout
from hfgen.data.stream_batches import StreamBatches
from hfgen.data.streams import stream_images
from hfgen.errors import HFGenError, UsageError
from hfgen.registry import get_family
from hfgen.run_folder import read_metrics
from hfgen.settings.resolve import resolve
from hfgen.testing import state
from hfgen.testing.processes import run_two_processes
from hfgen.training import checkpoint, trainer

TINY = {"generator.base_channels": 4, "generator.latent_dim": 6, "discriminator.base_channels": 4}
COUNT = 50


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def png(number, side=16):
    """Of one color but for the first column, so that a pixel tells which image it is and whether it is flipped."""
    pixels = np.full((side, side), number, np.uint8)
    pixels[:, 0] += 100
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_parquet(folder, sizes=(COUNT,), names=("even", "odd"), replaced=()):
    """Files of so many images, of 7 to a row group; `replaced`: bytes instead of an image, by its number."""
    import datasets

    label = datasets.ClassLabel(names=list(names)) if names else datasets.Value("int64")
    schema = datasets.Features({"image": datasets.Image(), "label": label}).arrow_schema
    folder.mkdir(exist_ok=True)
    numbers = itertools.count()
    for shard, size in enumerate(sizes):
        rows = [
            {"image": {"bytes": dict(replaced).get(n, png(n)), "path": f"{n}.png"}, "label": n % 2}
            for n in itertools.islice(numbers, size)
        ]
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / f"train-{shard}.parquet", row_group_size=7)
    return str(folder)


@pytest.fixture
def one_file(tmp_path):
    return write_parquet(tmp_path / "one")


@pytest.fixture
def shards(tmp_path):
    return write_parquet(tmp_path / "shards", (11, 3, 20, 1, 15))


@pytest.fixture
def image_folder(tmp_path):
    for number in range(COUNT):
        (tmp_path / "folder" / f"class{number % 2}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / f"class{number % 2}" / f"{number:02}.png").write_bytes(png(number))
    return str(tmp_path / "folder")


@pytest.fixture
def tars(tmp_path, monkeypatch):
    """Archives as the Hub has them, within which `datasets` knows no places."""
    import datasets

    for shard in range(3):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as archive:
            for number in range(shard * COUNT // 3, (shard + 1) * COUNT // 3):
                member = tarfile.TarInfo(f"{number:02}.png")
                member.size = len(png(number))
                archive.addfile(member, io.BytesIO(png(number)))
    found = datasets.load_dataset("webdataset", data_files=str(tmp_path / "*.tar"), streaming=True)["train"]
    monkeypatch.setattr("hfgen.data.streams.load_dataset", lambda *_, **__: found)
    return "org/tars"


EIGHT = Layout(8)


def stream(data, layout=EIGHT, seed=0, **options):
    return make(stream_images(data), layout, seed, **options)


def make(images, layout=EIGHT, seed=0, **options):
    return StreamBatches(images, 16, layout, seed, **{"num_workers": 0, "shuffle_buffer_size": 12, **options})


def drawn(batches, first=0, last=6):
    """Which images each step holds, micro-batch after micro-batch."""
    return [[numbers(micro) for micro in micros] for micros in batches.steps(first, last)]


def numbers(batch):
    return ((batch["pixel_values"][:, 0, 0, 1] + 1) * 127.5).round().int().tolist()


def flips(batch):
    return (batch["pixel_values"][:, 0, 0, -1] > batch["pixel_values"][:, 0, 0, 1]).tolist()


# --- the order --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["one_file", "shards", "image_folder", "tars"])
def test_an_epoch_holds_each_image_once_and_the_next_another_order(source, request):
    data = request.getfixturevalue(source)
    steps = drawn(stream(data, Layout(10)), 0, 10)
    first, second = ([n for [micro] in half for n in micro] for half in (steps[:5], steps[5:]))
    assert sorted(first) == sorted(second) == list(range(COUNT))
    assert first != second
    assert drawn(stream(data, Layout(10)), 0, 10) == steps
    assert drawn(stream(data, Layout(10), seed=1), 0, 10) != steps


def test_blocks_are_permuted_and_the_shards_too(shards):
    """In blocks of one the stream itself is seen: whole files, in an order of the epoch."""
    bounds = [0, 11, 14, 34, 35, 50]
    files = {start: list(range(start, end)) for start, end in itertools.pairwise(bounds)}
    unmixed = [n for [[n]] in drawn(stream(shards, Layout(1), shuffle_buffer_size=1), 0, 2 * COUNT)]
    orders = [[n for n in epoch if n in files] for epoch in (unmixed[:COUNT], unmixed[COUNT:])]
    assert unmixed == [n for order in orders for start in order for n in files[start]]
    assert sorted(orders[0]) == sorted(orders[1]) == bounds[:-1]
    assert orders[0] != orders[1]
    mixed = [n for [[n]] in drawn(stream(shards, Layout(1)), 0, COUNT)]
    for start in range(0, COUNT, 12):
        block, before = mixed[start : start + 12], unmixed[:COUNT][start : start + 12]
        assert sorted(block) == sorted(before)
        assert len(block) < 12 or block != before


def test_each_block_has_a_permutation_of_its_own(one_file):
    seen = [n for [[n]] in drawn(stream(one_file, Layout(1), shuffle_buffer_size=10), 0, COUNT)]
    assert len({tuple(n - start for n in seen[start : start + 10]) for start in range(0, COUNT, 10)}) == 5


def test_an_incomplete_batch_is_left_out(shards):
    """Of 50 images by 8 the last two of each epoch."""
    single = [n for [[n]] in drawn(stream(shards, Layout(1)), 0, 2 * COUNT)]
    assert [n for [micro] in drawn(stream(shards), 0, 12) for n in micro] == single[:48] + single[50:98]


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
def test_what_is_decoded_is_what_the_map_style_path_decodes(source, request):
    data = request.getfixturevalue(source)
    whole, [batch] = load_images(data), next(stream(data, Layout(COUNT), class_conditional=True).steps(0, 1))
    assert (whole.mode, whole.sizes, whole.label_names, whole.num_classes) == (
        (images := stream_images(data)).mode, images.sizes, images.label_names, images.num_classes,
    )  # fmt: skip
    everything = whole.tensor(range(COUNT))
    place = {int(n): i for i, n in enumerate((everything[:, 0, 0, 1] + 1) * 127.5 + 0.5)}
    indices = [place[n] for n in numbers(batch)]
    assert torch.equal(batch["pixel_values"], everything[indices])
    assert torch.equal(batch["class_labels"], whole.labels[indices])


# --- the place ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["one_file", "shards", "image_folder", "tars"])
@pytest.mark.parametrize("block", [1, 5, 16, 1000])
def test_a_stream_goes_on_from_any_step(source, block, request, monkeypatch):
    """Within a block, at its end, across files and epochs; what is kept is JSON, and nothing is read and dropped."""
    images = stream_images(request.getfixturevalue(source))
    options = {"shuffle_buffer_size": block, "random_flip": True}
    whole, kept, steps = make(images, **options), [], []
    for [micro] in whole.steps(0, 14):
        steps.append((numbers(micro), flips(micro)))
        kept.append(json.loads(json.dumps(whole.state_dict())))
    monkeypatch.setattr(itertools, "islice", only_forward)
    for step in (1, 2, 3, 4, 5, 6, 7, 9, 12):
        resumed = make(images, **options)
        resumed.load_state_dict(kept[step - 1])
        assert [(numbers(m), flips(m)) for [m] in resumed.steps(step, step + 2)] == steps[step : step + 2], step


def only_forward(items, start, stop, islice=itertools.islice):
    """`islice` where nothing may be dropped."""
    assert start == 0
    return islice(items, start, stop)


@pytest.mark.parametrize("damage", [{"nonsense": 1}, "another place"])
def test_where_datasets_does_not_find_the_place_it_is_read_up_to(shards, damage):
    """A state that another version of `datasets` cannot read, or takes for another place."""
    whole = stream(shards)
    steps = whole.steps(0, 12)
    before = [next(steps) for _ in range(9)]
    kept = whole.state_dict()
    after = [numbers(m) for [m] in steps]
    assert len(before) == 9
    elsewhere = {**kept["start"], "skip": kept["start"]["skip"] + 1}
    kept["start"] = elsewhere if damage == "another place" else {**kept["start"], "stream": damage}
    resumed = stream(shards)
    resumed.load_state_dict(kept)
    assert [numbers(m) for [m] in resumed.steps(9, 12)] == after


def test_other_data_in_the_place_of_those_of_the_checkpoint_are_refused(shards, tmp_path):
    whole = stream(shards)
    next(whole.steps(0, 2))
    write_parquet(tmp_path / "shards", (11, 3, 20, 1, 15), replaced={number: png(200) for number in range(COUNT)})
    resumed = stream(shards)
    resumed.load_state_dict(whole.state_dict())
    with pytest.raises(HFGenError, match="is not what it was when the checkpoint was written"):
        next(resumed.steps(1, 2))


def test_a_step_is_reached_without_a_place_too(shards):
    assert drawn(stream(shards), 3, 8) == drawn(stream(shards), 0, 8)[3:]
    again = stream(shards)
    assert drawn(again, 0, 3) == drawn(again, 0, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"shuffle_buffer_size": 13}, "with shuffle_buffer_size 12, this run has 13"), ({}, "with num_shards 5, this")],
)
def test_a_place_in_another_order_is_refused(shards, one_file, options, message):
    with pytest.raises(UsageError, match=message):
        stream(shards if options else one_file, **options).load_state_dict(stream(shards).state_dict())


def test_a_checkpoint_of_the_other_kind_is_refused(shards):
    with pytest.raises(UsageError, match="without --streaming"):
        stream(shards).load_state_dict(None)
    with pytest.raises(UsageError, match="with --streaming"):
        Batches(load_images(shards), 16, Layout(8)).load_state_dict(stream(shards).state_dict())


# --- what is known, and what is not ---------------------------------------------------------------------------------


def test_the_built_in_data_are_streamed_whole():
    images = stream_images("mnist-mini")
    assert (images.count, images.mode, images.resolution(), images.num_classes) == (10_000, "L", 28, 10)
    assert images.dataset_id is None
    assert images.notes == ["streamed: mode and sizes are those of the first 200 images"]
    batches = StreamBatches(images, 28, Layout(100), class_conditional=True)
    labels = torch.cat([micro["class_labels"] for [micro] in batches.steps(0, 100)])
    assert torch.bincount(labels).tolist() == [1000] * 10
    assert batches.steps_per_epoch == 100


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
def long(tmp_path, monkeypatch):
    """Data longer than what is looked at, and whose files do not tell how long."""
    monkeypatch.setattr("hfgen.data.streams.LOOKED_AT", 4)
    monkeypatch.setattr("hfgen.data.streams._count_in_files", lambda *_: None)
    return write_parquet(tmp_path / "long", (30, 20))


def test_a_stream_of_unknown_length_needs_a_number_of_steps(long):
    batches = stream(long)
    assert batches.images.count is None
    with pytest.raises(UsageError, match="is not known before they are all read.\n.*--max_train_steps"):
        _ = batches.steps_per_epoch
    seen = [n for [micro] in drawn(batches, 0, 12) for n in micro]
    assert len({*seen[:48]}) == len({*seen[48:]}) == 48
    assert batches.epochs(12) == 1.0


def test_data_too_small_for_a_batch_are_told_though_nobody_knew(long):
    with pytest.raises(UsageError, match="A batch of 51 .* is larger than .*: 50 images"):
        next(stream(long, Layout(51)).steps(0, 1))


def test_data_known_to_be_too_small_are_told_at_once(shards):
    with pytest.raises(UsageError, match="A batch of 51 .* is larger than .*: 50 images"):
        stream(shards, Layout(51))


@pytest.mark.parametrize("said", [60, 40])
def test_a_stream_of_another_length_than_was_said_is_told_once(shards, monkeypatch, said):
    monkeypatch.setattr("hfgen.data.streams.LOOKED_AT", 4)
    monkeypatch.setattr("hfgen.data.streams._count_in_files", lambda *_: said)
    notes = []
    steps = drawn(stream(shards, Layout(10), note=notes.append), 0, 15)
    assert len(notes) == 1
    assert f"is said to hold {said} images; its stream ended after 50" in notes[0]
    assert sorted(n for [micro] in steps[10:] for n in micro) == list(range(COUNT))


def test_sorted_data_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr("hfgen.data.streams.LOOKED_AT", 4)
    for number in range(12):
        (tmp_path / "sorted" / f"{number // 6}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "sorted" / f"{number // 6}" / f"{number}.png").write_bytes(png(number))
    images = stream_images(str(tmp_path / "sorted"))
    assert images.count == 12
    assert "sorted data are mixed within --shuffle_buffer_size images only" in images.notes[1]


def test_a_broken_image_is_named_where_it_is_met(tmp_path, monkeypatch):
    monkeypatch.setattr("hfgen.data.streams.LOOKED_AT", 4)
    data = write_parquet(tmp_path / "broken", replaced={33: png(33)[:40], 40: b"no image"})
    for workers in (0, 1):
        source, seen = stream(data, num_workers=workers).steps(0, 6), []
        with pytest.raises(HFGenError, match=r"image (33|40) of the stream \((33|40).png\) cannot be read") as error:
            for [micro] in source:
                seen += numbers(micro)
        assert len(seen) % 8 == 0
        assert not {33, 40} & {*seen}
        assert len(str(error.value).splitlines()) == 2


def test_a_damaged_file_is_one_error(shards, tmp_path):
    path = tmp_path / "shards" / "train-2.parquet"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(HFGenError, match="cannot be read"):
        stream(shards)


def test_a_file_that_breaks_off_while_training_is_one_error(shards, tmp_path):
    batches = stream(shards)
    for path in (tmp_path / "shards").iterdir():
        path.unlink()
    with pytest.raises(HFGenError, match="The stream of .* cannot be read: .*No such file"):
        next(batches.steps(0, 1))


def test_a_stream_that_hangs_does_not_keep_a_run_from_stopping(shards, monkeypatch):
    """The steps end; what was trained can be saved."""
    import datasets

    original, hanging = datasets.IterableDataset.iter, threading.Event()

    def hang_after_two(self, batch_size):
        for number, table in enumerate(original(self, batch_size)):
            if number == 2:
                hanging.set()
                time.sleep(60)
            yield table

    monkeypatch.setattr(datasets.IterableDataset, "iter", hang_after_two)
    began = time.time()
    seen = len(list(stream(shards, shuffle_buffer_size=4).steps(0, 6, stopped=hanging.is_set)))
    assert 0 < seen < 6
    assert time.time() - began < 30


def test_labels_that_do_not_name_their_classes_are_refused(tmp_path):
    data = write_parquet(tmp_path / "unnamed", names=None)
    assert load_images(data).num_classes == 2
    assert stream_images(data).num_classes is None
    with pytest.raises(UsageError, match="no class labels.*\n.*ClassLabel"):
        stream(data, class_conditional=True)
    with pytest.raises(UsageError, match="'label' does not name its classes.*\n.*ClassLabel"):
        stream_images(data, label_column="label")
    with pytest.raises(UsageError, match="no column 'y'"):
        stream_images(data, label_column="y")


def test_an_array_is_not_streamed(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((3, 4, 4), np.uint8))
    with pytest.raises(UsageError, match="is an array, which is read whole"):
        stream_images(str(tmp_path / "a.npy"))


# --- training -------------------------------------------------------------------------------------------------------


@pytest.fixture
def train(shards):
    def build(folder=None, **settings):
        family = get_family("dcgan").load()
        settings = {"train_batch_size": 8, "max_train_steps": 4, "num_validation_images": 4, **settings}
        settings |= {"shuffle_buffer_size": 12, "dataloader_num_workers": 0, "random_flip": True}
        arguments = resolve([("test", settings)], "dcgan", family).arguments
        torch.manual_seed(0)
        return trainer.Trainer(family.build(16, 1, **TINY), stream_images(shards), arguments, folder)

    return build


@pytest.mark.parametrize("half", [1, 3, 6, 8])
def test_n_and_n_steps_are_2n_steps(train, tmp_path, half):
    """6 steps are an epoch, and a block ends within them."""
    settings = {"checkpointing_steps": half, "logging_steps": 1, "validation_steps": 0}
    whole = train(tmp_path / "whole", max_train_steps=2 * half, **settings)
    whole.train()
    train(tmp_path / "run", max_train_steps=half, **settings).train()
    resumed = train(tmp_path / "run", max_train_steps=2 * half, **settings)
    resumed.resume(checkpoint.find_checkpoint("latest", tmp_path / "run"))
    resumed.train()
    assert all(torch.equal(tensor, state(resumed)[name]) for name, tensor in state(whole).items())
    losses = [[line["generator_loss"] for line in read_metrics(tmp_path / name)] for name in ("whole", "run")]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 2 * half


def words(data, folder, *options):
    tiny = [f"--{key}={value}" for key, value in TINY.items()]
    settings = ["--dataset_name", data, "--streaming", "--shuffle_buffer_size", "12", "--train_batch_size", "8"]
    settings += ["--num_validation_images", "4", "--logging_steps", "1", "--output_dir", str(folder)]
    return ["dcgan", *tiny, *settings, *options]


def test_a_signal_to_the_whole_job_changes_nothing_of_the_result(trainings, shards, tmp_path):
    """SIGTERM to the process group, workers and all; the printed command ends where an undisturbed run does."""
    options = ["--dataloader_num_workers", "1", "--checkpointing_steps", "0", "--max_train_steps"]
    process = trainings.start(TRAIN, *words(shards, tmp_path / "run", *options, "100000"), new_session=True)
    deadline = time.time() + 120
    while time.time() < deadline and len(read_metrics(tmp_path / "run")) < 9:
        time.sleep(0.05)
    os.killpg(process, signal.SIGTERM)
    done = trainings.wait()
    assert done.returncode == 143, done.stderr
    stopped = checkpoint.step_of(checkpoint.list_checkpoints(tmp_path / "run")[-1])
    resume = done.stderr.strip().splitlines()[-1].split()
    last = str(stopped + 7)
    for command in ([*resume[2:], "--max_train_steps", last], words(shards, tmp_path / "undisturbed", *options, last)):
        done = trainings.run(TRAIN, *command)
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
from hfgen.data.streams import stream_images
from hfgen.data.stream_batches import StreamBatches

folder, data = pathlib.Path(sys.argv[1]), sys.argv[2]
state = join_processes()
layout = Layout(2, state.num_processes, state.process_index, 2)
batches = StreamBatches(stream_images(data), 16, layout, shuffle_buffer_size=12, num_workers=1)
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
