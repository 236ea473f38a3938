"""Local tables are read where they are; a cache that cannot be used is told as that."""

import errno

import pytest

from hfgen.data import sources
from hfgen.data.load import images_from
from hfgen.data.sources import DataSource, _cache_refused, data_bytes, load_table
from hfgen.errors import UsageError


@pytest.mark.whole
def test_built_in_and_local_tables_need_no_cache(monkeypatch, tmp_path):
    import datasets

    wanted = images_from(DataSource("mnist-mini", "test"))
    copy = tmp_path / "copied.parquet"
    copy.write_bytes((DataSource("mnist-mini").path / "test.parquet").read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "load_dataset", lambda *args, **kwargs: pytest.fail("the cache is used"))
        read = images_from(DataSource("mnist-mini", "test", cache_dir="/proc/none"))
        local = images_from(DataSource(str(copy), cache_dir="/proc/none"))
    assert data_bytes(DataSource(str(copy)), streaming=False) == (copy.stat().st_size, None)
    monkeypatch.setattr(sources, "MOST_IN_MEMORY", 0)
    old = images_from(DataSource("mnist-mini", "test", cache_dir=str(tmp_path / "cache")))
    for images in (read, local, old):
        assert images.label_names == wanted.label_names
        assert images.labels.tolist() == wanted.labels.tolist()
        assert images.open_image(7).tobytes() == wanted.open_image(7).tobytes()
    assert data_bytes(DataSource(str(copy), cache_dir="here"), streaming=False)[1].name == "here"
    assert data_bytes(DataSource(str(copy)), streaming=True)[1] is None


def test_shards_are_read_in_order(monkeypatch, tmp_path):
    import pyarrow
    import pyarrow.parquet

    whole = pyarrow.parquet.read_table(DataSource("mnist-mini").path / "test.parquet").slice(0, 20)
    for number in range(2):
        part = whole.slice(10 * number, 10)
        pyarrow.parquet.write_table(part, tmp_path / f"train-0000{number}-of-00002.parquet")
    read = images_from(DataSource(str(tmp_path)))
    monkeypatch.setattr(sources, "MOST_IN_MEMORY", 0)
    old = images_from(DataSource(str(tmp_path), cache_dir=str(tmp_path / "cache")))
    assert read.count == old.count == 20
    assert read.labels.tolist() == old.labels.tolist()


@pytest.mark.parametrize("place", ["/proc/none", "a file"])
def test_a_cache_that_cannot_be_written_is_not_blamed_on_the_data(monkeypatch, tmp_path, place):
    (tmp_path / "a file").write_text("")
    monkeypatch.setattr(sources, "MOST_IN_MEMORY", 0)
    cache = place if place.startswith("/") else str(tmp_path / place)
    with pytest.raises(UsageError) as error:
        load_table(DataSource("mnist-mini", "test", cache_dir=cache))
    for word in ("The cache of datasets", cache, "--cache_dir", "HF_HOME", "--streaming"):
        assert word in str(error.value)
    assert "A folder must hold" not in str(error.value)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.ENOLCK, errno.EDQUOT])
def test_errors_of_a_cache(number):
    said = _cache_refused(DataSource("mnist-mini", cache_dir="/somewhere"), OSError(number, "why"))
    assert "/somewhere, cannot be used: [Errno" in said
    assert "A copy of 3 MB is written there." in said


def test_other_errors_are_none_of_the_cache():
    source = DataSource("mnist-mini", cache_dir="/somewhere")
    assert _cache_refused(source, ValueError("x")) is None
    assert _cache_refused(source, FileNotFoundError(errno.ENOENT, "no", "/elsewhere/x")) is None
    assert _cache_refused(source, OSError(errno.EIO, "no")) is None


def test_a_damaged_table_is_told(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UsageError, match="x.parquet' cannot be read"):
        load_table(DataSource(str(tmp_path / "x.parquet")))
