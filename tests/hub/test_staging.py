"""Models are saved again before a push where there is room."""

import shutil
import tempfile
from pathlib import Path

import pytest

from hfgen.errors import HFGenError
from hfgen.hub.staging import staged


def test_a_small_folder_for_temporary_files_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with staged("model", 10) as place:
        place.mkdir()
    assert not any(tmp_path.iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(2, 1, 2_000_000))
    with pytest.raises(HFGenError, match=r"has 2.0 MB free; 3.8 MB are needed") as error:
        with staged("model", 3_800_000):
            pass
    assert "TMPDIR" in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert not any(tmp_path.iterdir())


def test_what_fails_inside_is_not_renamed():
    with pytest.raises(FileNotFoundError, match="of the caller"):
        with staged("model", 1):
            raise FileNotFoundError("of the caller")


def test_a_folder_for_temporary_files_that_is_none_is_told(monkeypatch):
    monkeypatch.setattr(tempfile, "TemporaryDirectory", _no_directory)
    with pytest.raises(HFGenError, match="TMPDIR"):
        with staged("model", 1) as place:
            assert isinstance(place, Path)


def _no_directory():
    raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")
