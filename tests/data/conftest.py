"""Data that are streamed, in the forms that a dataset comes in."""

import io
import tarfile

import pytest
from stream_data import COUNT, png, write_parquet


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """Datasets are cached in a folder of the test's own."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


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
    from hfgen.data.sources import Table

    found = datasets.load_dataset("webdataset", data_files=str(tmp_path / "*.tar"), streaming=True)["train"]
    monkeypatch.setattr("hfgen.data.streams.load_table", lambda *_, **__: Table(found))
    return "org/tars"
