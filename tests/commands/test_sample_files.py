"""Sampled images as files: written as they are drawn, gone on with, never mixed; arrays and animations."""

import json
import os
import signal
import time

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_trainings import BLOBS

from hfgen.commands.sample_files import (
    RECORD,
    Drawing,
    kind_of,
    refuse_to_overwrite,
    write_file,
    write_folder,
    write_walk,
)
from hfgen.errors import Interrupted, UsageError
from hfgen.registry import get_family, get_modality

IMAGES = [get_modality("image")]


def watched(pipeline, before):
    """Return the pipeline with a function that is called with the seeds of each batch, and may stop it."""

    def call(self, **options):
        before(list(options["seeds"]))
        return pipeline(**options)

    family = type(pipeline)
    return type(family.__name__, (family,), {"__call__": call})(**pipeline.components)


@pytest.fixture(scope="module")
def pipeline():
    torch.manual_seed(0)
    made = get_family("dcgan").load().build(16, 1, **BLOBS)
    made.generator.to_image.weight.data.mul_(5000)  # or its images hardly differ
    return made


def drawing(pipeline, count=10, first=0, **options):
    return Drawing(pipeline, pipeline, range(first, first + count), None, 4, options, {"class_labels": None})


def files(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def test_a_folder_is_filled_as_images_are_drawn_and_gone_on_with(pipeline, tmp_path):
    """After a kill in the third batch; the files are those of a call that nobody disturbed."""
    seen = []

    def killed(seeds):
        seen.append(len(files(tmp_path / "a")))
        if len(seen) == 3:
            raise SystemExit

    with pytest.raises(SystemExit):
        write_folder(drawing(watched(pipeline, killed)), tmp_path / "a")
    assert seen == [0, 4, 8]
    (tmp_path / "a" / "seed_000002.png").unlink()
    (tmp_path / "a" / "seed_000003.png").write_bytes(b"")  # as a power failure may leave it
    drawn = []
    assert write_folder(drawing(watched(pipeline, drawn.extend)), tmp_path / "a") == 10
    assert drawn == [0, 1, 2, 3, 8, 9]
    write_folder(drawing(pipeline), tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    write_folder(drawing(watched(pipeline, drawn.append), 3), tmp_path / "a")  # they are there
    assert len(drawn) == 6
    write_folder(drawing(pipeline, 3, first=20), tmp_path / "a")  # others of the same model
    assert len(files(tmp_path / "a")) == 13


def test_ctrl_c_says_how_many_are_there(pipeline, tmp_path):
    def stop(seeds):
        if 4 in seeds:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"Stopped; 4 of 10 images are in .*The same command draws the others") as e:
        write_folder(drawing(watched(pipeline, stop)), tmp_path / "a")
    assert e.value.exit_code == 130


def test_images_of_another_model_or_of_other_options_are_never_mixed(pipeline, tmp_path):
    write_folder(drawing(pipeline, 2), tmp_path)
    torch.manual_seed(1)
    other = get_family("dcgan").load().build(16, 1, **BLOBS)
    scheduler = pipeline.scheduler.from_config(pipeline.scheduler.config, temperature=0.5)
    colder = type(pipeline)(**{**pipeline.components, "scheduler": scheduler})
    before = files(tmp_path)
    for changed, differs in (
        (drawing(other), "It differs in: weights"),
        (drawing(colder), "temperature was 1.0, now 0.5"),
        (drawing(pipeline, num_inference_steps=1), "num_inference_steps was None, now 1"),
    ):
        with pytest.raises(UsageError, match=differs):
            write_folder(changed, tmp_path)
    assert files(tmp_path) == before
    write_folder(drawing(other, 1), tmp_path, overwrite=True)
    assert set(files(tmp_path)) == {"seed_000000.png"}
    (tmp_path / RECORD).write_text("{")
    with pytest.raises(UsageError, match="cannot be read"):
        write_folder(drawing(other), tmp_path)
    (tmp_path / RECORD).unlink()
    with pytest.raises(UsageError, match="no samples.json that says what they are; nothing was sampled"):
        refuse_to_overwrite(tmp_path, False)


def test_a_record_can_be_read_by_people(pipeline, tmp_path):
    write_folder(drawing(pipeline, 1), tmp_path)
    record = json.loads((tmp_path / RECORD).read_text())
    assert (record["pipeline"], record["scheduler"]["class_name"]) == ("DCGANPipeline", "PriorScheduler")


def test_an_array_is_written_in_parts_and_is_numpys_own(pipeline, tmp_path):
    write_file(drawing(pipeline), tmp_path / "a.npz", "array")
    images = [image for _, batch in drawing(pipeline).batches() for image in batch]
    np.savez_compressed(tmp_path / "b.npz", images=np.stack([np.asarray(i) for i in images]), seeds=np.arange(10))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()

    def stop(seeds):
        if 8 in seeds:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_file(drawing(watched(pipeline, stop)), tmp_path / "c.npz", "array")
    assert not [path for path in tmp_path.iterdir() if "c.npz" in path.name]


@pytest.mark.parametrize("name", ["walk.webp", "walk.gif", "walk.apng", "walk.WEBP", "Walk.Gif"])
def test_a_walk_moves_whatever_its_ending(pipeline, tmp_path, name):
    assert kind_of(name, IMAGES) == "walk"
    assert write_walk(drawing(pipeline, 2), tmp_path / name, 6) == 6
    with Image.open(tmp_path / name) as walk:
        assert (walk.n_frames, walk.width, walk.info["loop"]) == (6, 224, 0)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("out.NPZ", "array"), ("a.PNG", "grid"), ("a.jpeg", "grid"), ("images", "folder"), ("v1.5/", "folder")],
)
def test_kinds_by_endings(name, kind):
    assert kind_of(name, IMAGES) == kind


@pytest.mark.parametrize("name", ["walk.mp4", "a.docx", "v1.5"])
def test_endings_that_are_no_pictures(name):
    with pytest.raises(UsageError, match="not a format in which images can be written"):
        kind_of(name, IMAGES)


SAMPLE = """
import sys, time
from hfgen import HFGenPipeline
from hfgen.commands.main import main
call = HFGenPipeline.__call__
def slow(self, *args, **options):
    time.sleep(0.2)
    return call(self, *args, **options)
HFGenPipeline.__call__ = slow
sys.exit(main(sys.argv[1:]))
"""


def test_killed_in_the_middle_a_folder_is_gone_on_with(processes, pipeline, tmp_path):
    """By a signal that nothing can catch; the images are those of a call that nobody disturbed."""
    pipeline.save_pretrained(tmp_path / "model")
    words = ["sample", str(tmp_path / "model"), "-n", "24", "--batch_size", "2", "--output"]
    child = processes.start(SAMPLE, *words, str(tmp_path / "a") + "/")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(files(tmp_path / "a")) < 4:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait().returncode == -signal.SIGKILL
    there = files(tmp_path / "a")
    assert 4 <= len(there) < 24
    times = {name: (tmp_path / "a" / name).stat().st_mtime_ns for name in there}
    for folder in "ab":
        done = processes.run(SAMPLE, *words, str(tmp_path / folder) + "/")
        assert done.returncode == 0, done.stderr
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert len(files(tmp_path / "a")) == 24
    kept = [name for name in there if (tmp_path / "a" / name).stat().st_mtime_ns == times[name]]
    assert len(kept) >= len(there) - 1, "all but one that was half written are not drawn again"
