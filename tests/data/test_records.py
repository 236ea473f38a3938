"""Rows of strangers' tables: only regular files of their own dataset are opened, and each refusal names the row."""

import io
import os
import zipfile
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hfgen.data.load import load_images
from hfgen.data.records import HUB, Home, OutsideError
from hfgen.data.sources import DataSource
from hfgen.data.streams import stream_images
from hfgen.errors import HFGenError, UsageError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def encoded(shade=9, format="PNG"):
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(out, format)
    return out.getvalue()


@pytest.fixture
def home(tmp_path):
    """A dataset's folder, beside pictures that are none of its business."""
    for place in ("set", "set2", "outside"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "a.png").write_bytes(encoded())
    (tmp_path / "set" / "way out").symlink_to(tmp_path / "outside")
    (tmp_path / "set" / "b.png").symlink_to(tmp_path / "outside" / "a.png")
    (tmp_path / "set" / "c.png").symlink_to("a.png")
    (tmp_path / "set" / "loop.png").symlink_to("loop.png")
    os.mkfifo(tmp_path / "set" / "pipe.png")
    return Home((str(tmp_path / "set"),), "org/own")


def table(tmp_path, path):
    """A parquet file whose first row has a path alone."""
    rows = [{"bytes": None, "path": path}, {"bytes": encoded(), "path": "1.png"}]
    column = pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    meta = {"huggingface": '{"info": {"features": {"image": {"_type": "Image"}}}}'}
    (tmp_path / "set").mkdir(exist_ok=True)
    pq.write_table(pa.table({"image": column}).replace_schema_metadata(meta), tmp_path / "set" / "t.parquet")
    return str(tmp_path / "set" / "t.parquet")


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("../outside/a.png", "outside of the dataset"),
        ("../set2/a.png", "outside of the dataset"),
        ("x/../../outside/a.png", "outside of the dataset"),
        (".", "outside of the dataset"),
        ("/etc/passwd", "must be relative"),
        ("/dev/zero", "must be relative"),
        ("b.png", "a link that leads out"),
        ("way out/a.png", "a link that leads out"),
        ("pipe.png", "not a regular file"),
        ("http://127.0.0.1:9/x.png", "an address"),
        ("file:///etc/passwd", "an address"),
        ("zip://a.png::http://127.0.0.1:9/x.zip", "an address"),
        ("zip://a.png::/etc/x.zip", "must be relative"),
        ("zip://../a.png::x.zip", "of a kind"),
        ("simplecache::http://127.0.0.1:9/x.png", "of a kind"),
        (f"{HUB}org/other@main/a.png", "another repository"),
        (f"{HUB}org/own2@main/a.png", "another repository"),
        (f"{HUB}org/own@main/../../other/a.png", "another repository"),
        ("hf://org/model/a.png", "an address"),
    ],
)
def test_nothing_but_regular_files_of_the_dataset_is_opened(home, path, why):
    with pytest.raises(OutsideError, match=why):
        home.open({"bytes": None, "path": path})


def test_what_is_the_datasets_own_is_opened(home, tmp_path):
    for path in ("a.png", "c.png"):  # the second is a link that stays within
        with home.open({"bytes": None, "path": path}) as image:
            assert image.size == (4, 4)
    assert home.open({"bytes": encoded(), "path": "/etc/passwd"}).size == (4, 4), "of bytes the path is a name alone"
    with zipfile.ZipFile(tmp_path / "set" / "x.zip", "w") as archive:
        archive.writestr("in/d.png", encoded())
    assert home.open({"bytes": None, "path": "zip://in/d.png::x.zip"}).size == (4, 4)
    for record in ({"bytes": None, "path": "none.png"}, {"bytes": None, "path": "loop.png"}, None):
        with pytest.raises(OSError, match=r"No such file|links|empty"):
            home.open(record)


def test_an_archives_member_is_not_unpacked_without_end(home, tmp_path, monkeypatch):
    monkeypatch.setattr("hfgen.data.records.MOST_MEMBER", 10_000)
    with zipfile.ZipFile(tmp_path / "set" / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", encoded() + bytes(10_000_000))
    with pytest.raises(OSError, match="larger than 10,000 bytes"):
        home.open({"bytes": None, "path": "zip://a.png::x.zip"})


def test_a_refusal_names_the_row_and_its_path(tmp_path):
    name = table(tmp_path, "../outside/secret\x1b.png")
    for look in (load_images, lambda name: stream_images(DataSource(name))):
        with pytest.raises(UsageError, match=r"t.parquet: row 0 .*names '../outside/secret\?.png', a path outside"):
            look(name)


def test_rows_may_name_files_beside_their_table(tmp_path):
    name = table(tmp_path, "a.png")
    (tmp_path / "set" / "a.png").write_bytes(encoded(shade=77))
    assert load_images(name).decode(0, 4)[0].mean() == 77
    (tmp_path / "set" / "a.png").write_bytes(b"no image")
    with pytest.raises(HFGenError, match=r"row 0 \(a.png\) cannot be read: it is not an image") as error:
        load_images(name)
    assert not isinstance(error.value, UsageError)


def test_files_of_a_folder_are_named_by_their_path_in_it(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))
    for place in ("a", "b"):
        (tmp_path / "data" / place).mkdir(parents=True)
        noise.save(tmp_path / "data" / place / "0.png")
    cut = tmp_path / "data" / "b" / "0.png"
    cut.write_bytes(cut.read_bytes()[:1000])
    images = load_images(str(tmp_path / "data"))
    with pytest.raises(HFGenError, match=r"data: b/0.png cannot be read: .*truncated"):
        images.decode(1, 64)


def test_files_of_a_dataset_on_the_hub_lie_in_its_own_cache(tmp_path, monkeypatch):
    """As `huggingface_hub` keeps them: links of a snapshot lead to blobs of the same repository."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for repository in ("datasets--org--own", "datasets--org--other"):
        snapshot = tmp_path / repository / "snapshots" / "abc"
        snapshot.mkdir(parents=True)
        (tmp_path / repository / "blobs").mkdir()
        (tmp_path / repository / "blobs" / "1").write_bytes(encoded())
        (snapshot / "a.png").symlink_to("../../blobs/1")
    found = SimpleNamespace(info=SimpleNamespace(builder_name="imagefolder"))
    walked, table_of = Home.of(DataSource("org/own"), found), Home.of(DataSource("org/own"))
    own = str(tmp_path / "datasets--org--own" / "snapshots" / "abc" / "a.png")
    with walked.open({"bytes": None, "path": own}) as image:
        assert image.size == (4, 4)
    with pytest.raises(OutsideError, match="must be relative"):
        table_of.open({"bytes": None, "path": own})
    with pytest.raises(OutsideError, match="outside of the dataset"):
        walked.open({"bytes": None, "path": own.replace("--own", "--other")})
