"""Datasets on the Hub, through the real client: what is read, and what a person reads where nothing can be."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_child import HubChild
from hub_datasets import DatasetServer
from PIL import Image

CHILD = """
import contextlib, io, time
from hfgen.data.load import load_images
from hfgen.data.sources import DataSource
from hfgen.data.streams import stream_images
from hfgen.errors import HFGenError

def answer(asked):
    streamed, started, err = asked.pop("streamed", False), time.monotonic(), io.StringIO()
    try:
        with contextlib.redirect_stderr(err):
            images = stream_images(DataSource(**asked)) if streamed else load_images(**asked)
            grays = None if streamed else [int(images.decode(index, 8).max()) for index in range(len(images))]
            found = {"count": images.count, "grays": grays, "names": images.label_names, "splits": images.splits}
    except HFGenError as error:
        found = {"error": str(error)}
    return {**found, "seconds": time.monotonic() - started, "err": err.getvalue()}
"""


def png(gray):
    file = io.BytesIO()
    Image.new("L", (8, 8), gray).save(file, "PNG")
    return file.getvalue()


def table(path, *grays):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": [{"bytes": png(gray), "path": f"{gray}.png"} for gray in grays]}), path)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    place = tmp_path_factory.mktemp("datasets")
    table(place / "faces" / "data" / "train-00000-of-00001.parquet", 10, 20)
    table(place / "faces" / "data" / "test-00000-of-00001.parquet", 30)
    configs = "".join(f"- config_name: {name}\n  data_files: {name}/*\n" for name in ("small", "large"))
    for gray, name in enumerate(["small", "large"]):
        table(place / "sizes" / name / "0.parquet", gray)
    (place / "sizes" / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    (place / "program").mkdir()
    (place / "program" / "program.py").write_text("raise SystemExit(9)")
    for gray, path in enumerate(["train/cat/0.png", "train/dog/0.png", "test/cat/0.png"]):
        (place / "photos" / path).parent.mkdir(parents=True, exist_ok=True)
        (place / "photos" / path).write_bytes(png(gray))
    with DatasetServer() as server:
        for name in ("faces", "sizes", "program", "photos"):
            server.add_dataset(f"org/{name}", place / name)
        server.add_dataset("org/private", place / "faces", token="hf_somebody")
        server.add_dataset("org/gated", place / "faces", token="hf_somebody", gated=True)
        yield server


@pytest.fixture(scope="module")
def ask(hub, processes, tmp_path_factory):
    child = HubChild(processes, hub, tmp_path_factory.mktemp("home"), CHILD)
    yield lambda name, **asked: child.ask({"name": name, **asked})
    child.close()


@pytest.mark.parametrize("streamed", [False, True])
def test_parquet_and_pictures_of_the_hub(ask, streamed):
    found = ask("org/faces", split="test", streamed=streamed)
    assert (found["count"], found["grays"], found["splits"]) == (1, None if streamed else [30], ["train", "test"])
    found = ask("org/photos", streamed=streamed)
    assert (found["count"], found["grays"], found["names"]) == (2, None if streamed else [0, 1], ["cat", "dog"])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("org/nothing", "There is no dataset 'org/nothing'"),
        ("org/private", "A private one needs an account that may read it: `hf auth login`"),
        ("org/gated", "is gated on the Hub: accept its terms on https://huggingface.co/datasets/org/gated"),
        ("org/program", "is a program (program.py), which is not run"),
        ("org/sizes", "'org/sizes' has several configurations: small, large. Choose with --dataset_config_name"),
    ],
)
def test_what_cannot_be_read_is_one_error(ask, name, says):
    assert says in ask(name)["error"]


def test_a_configuration_is_chosen(ask):
    assert ask("org/sizes", config_name="large")["grays"] == [1]
    assert "Did you mean 'large'" in ask("org/sizes", config_name="larg")["error"]


def test_a_hub_that_is_not_reached(ask, hub):
    """What is in the cache is read from it; about the rest one message comes within seconds."""
    assert ask("org/faces")["grays"] == [10, 20]
    with hub.gone():
        found = ask("org/faces")
        assert found["grays"] == [10, 20]
        assert "org/faces is read from the cache" in found["err"]
        missing = ask("org/others")
    assert (
        "The Hub is not reached, and the dataset 'org/others' is neither a folder nor in the cache" in missing["error"]
    )
    assert max(found["seconds"], missing["seconds"]) < 10


def test_a_slow_hub_is_told(ask, hub):
    hub.fail("slow", "GET", "datasets", "org/nothing", seconds=2.5)
    assert "Asking the Hub for the dataset org/nothing ..." in ask("org/nothing")["err"]
