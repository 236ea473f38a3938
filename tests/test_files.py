"""Files on disks that cannot do all, and with names that are no UTF-8."""

import errno
import os

import pytest

from hfgen import files


@pytest.mark.parametrize("number", ["EINVAL", "ENOTSUP", "ENOSYS", "EBADF"])
def test_what_a_disk_cannot_sync_is_no_error(tmp_path, monkeypatch, number):
    (tmp_path / "a").touch()
    monkeypatch.setattr(files.os, "fsync", raising(getattr(errno, number)))
    files.sync(tmp_path)
    files.sync(tmp_path / "a")


def raising(number):
    def fsync(descriptor):
        raise OSError(number, os.strerror(number))

    return fsync


def test_folders_may_refuse_and_files_may_not(tmp_path, monkeypatch):
    (tmp_path / "a").touch()
    monkeypatch.setattr(files.os, "fsync", raising(errno.EACCES))
    files.sync(tmp_path)
    with pytest.raises(PermissionError):
        files.sync(tmp_path / "a")


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fails_is_an_error(tmp_path, monkeypatch, number):
    monkeypatch.setattr(files.os, "fsync", raising(number))
    with pytest.raises(OSError, match=os.strerror(number)):
        files.sync(tmp_path)


def test_a_system_that_opens_no_folders(tmp_path, monkeypatch):
    """Windows."""

    def refuse(path, flags):
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "a").touch()
    monkeypatch.setattr(files.os, "open", refuse)
    files.sync(tmp_path)
    with pytest.raises(PermissionError):
        files.sync(tmp_path / "a")


def test_a_name_that_is_no_utf8_can_be_written(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    files.write_text(tmp_path / "card.md", f"Trained on {name}, caf\xe9.")
    assert (tmp_path / "card.md").read_text(encoding="utf-8") == "Trained on caf\\udce9, caf\xe9."


@pytest.mark.parametrize(
    "name", ["C:\\photos", "C:/photos", "photos\\mine", "\\\\server\\share", "./a", "/a/b", "a.npz"]
)
def test_paths_that_are_no_ids_of_a_hub(name):
    assert files.looks_local(name)


def test_ids_of_a_hub():
    assert not any(files.looks_local(name) for name in ("mnist", "ylecun/mnist", "a-b/c.d_e"))
