"""Pickles: read only if the user allows it, and refused if they hold more than tensors."""

import os
import pickle
import re
import zipfile

import pytest
import torch
from foreign_models import HERE, Bomb, TutorialGenerator, hfgen, refused, saved_by_diffusers

from hfgen.conversion.foreign_files import ForeignFiles


class Zeros:
    """Bytes without end, for torch's unpickler one of the plain values."""

    def __reduce__(self):
        return bytearray, (1000,)


def test_a_pickle_is_read_on_the_users_word_only(tmp_path):
    saved_by_diffusers(tmp_path / "ddpm", safe_serialization=False)
    sources = [HERE / "torchgan" / "generator.pt", HERE / "pythae-mse", tmp_path / "ddpm"]
    for source in sources:
        refused("is a pickle, which can run code when it is read", source, tmp_path / "made")


@pytest.mark.parametrize("protocol", ["torch", "plain"])
@pytest.mark.whole
def test_a_pickle_of_more_than_tensors_is_refused(protocol, tmp_path, monkeypatch):
    """Whatever the environment says."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    content = {"main.0.weight": torch.zeros(1, 1, 4, 4), "bomb": Bomb(tmp_path / "exploded")}
    if protocol == "torch":
        torch.save(content, tmp_path / "netG.pth")
    else:
        (tmp_path / "netG.pth").write_bytes(pickle.dumps(content["bomb"], protocol=2))
    refused("mkdir, which is code", tmp_path / "netG.pth", tmp_path / "made", "--allow_pickle")
    assert not (tmp_path / "exploded").exists()
    torch.save({"generator": TutorialGenerator()}, tmp_path / "whole.pth")
    refused(
        "foreign_models.TutorialGenerator, which is code", tmp_path / "whole.pth", tmp_path / "made", "--allow_pickle"
    )
    torch.save({"a": Zeros()}, tmp_path / "zeros.pth")
    refused("holds a bytearray", tmp_path / "zeros.pth", tmp_path / "made", "--allow_pickle")
    (tmp_path / "empty.pth").write_bytes(b"")
    refused(
        "it is not a torch file of tensors, or it is damaged",
        tmp_path / "empty.pth",
        tmp_path / "made",
        "--allow_pickle",
    )
    (tmp_path / "cut.pth").write_bytes((HERE / "torchgan" / "generator.pt").read_bytes()[:1000])
    refused("was refused: it is damaged", tmp_path / "cut.pth", tmp_path / "made", "--allow_pickle")


@pytest.mark.parametrize("protocol", [*range(6), "in an archive"])
@pytest.mark.whole
def test_nobody_is_told_how_to_run_a_refused_pickle(protocol, tmp_path):
    """torch's own message tells it; here the code is named, in words of hfgen's alone, whatever the protocol."""
    bomb = Bomb(tmp_path / "exploded")
    for name in ("bad.pkl", "bad.pth"):
        if protocol == "in an archive":
            torch.save({"a": torch.zeros(1), "b": bomb}, tmp_path / name, pickle_protocol=4)
        else:
            (tmp_path / name).write_bytes(pickle.dumps({"a": [os.name, os.name], "b": bomb}, protocol=protocol))
        code, output = hfgen(tmp_path / name, tmp_path / "made", "--allow_pickle")
        assert code == 2
        assert "does not only hold tensors, but also posix.mkdir, which is code" in output
        assert not re.search("weights_only|torch.load|Re-running|github|pytorch", output)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content", [b"hello world", b"\x80\x04\x95", b"\x80\x04]q\x00.", b"(" * 9, b"\x93."])
def test_what_is_no_pickle_of_tensors(content, tmp_path):
    (tmp_path / "odd.pkl").write_bytes(content)
    code, output = hfgen(tmp_path / "odd.pkl", tmp_path / "made", "--allow_pickle")
    assert code == 2
    assert output == "hfgen: odd.pkl was refused: it is not a torch file of tensors, or it is damaged.\n"


def test_a_refused_archive_that_is_damaged_too(tmp_path):
    """Python's reader of archives raises what is neither a ValueError nor an OSError."""
    torch.save({"a": Bomb("exploded")}, tmp_path / "it.pth", pickle_protocol=4)
    content = (tmp_path / "it.pth").read_bytes()
    (tmp_path / "it.pth").write_bytes(content.replace(b"exploded", b"Exploded"))  # its checksum is another's
    words = "it is not a torch file of tensors, or it is damaged"
    refused(words, tmp_path / "it.pth", tmp_path / "made", "--allow_pickle")


def repacked(path, change=lambda archive: None, compression=zipfile.ZIP_STORED):
    """The archive of torch with its entries written anew by Python."""
    with zipfile.ZipFile(HERE / "torchgan" / "generator.pt") as source, zipfile.ZipFile(path, "w", compression) as new:
        for name in source.namelist():
            new.writestr(name, source.read(name))
        change(new)
    return path


def test_an_archive_that_is_larger_inside_is_refused(tmp_path, monkeypatch):
    def twenty_times(archive):
        archive.filelist.extend(archive.filelist * 20)

    cases = {
        "whose entries are compressed": repacked(tmp_path / "a.pth", compression=zipfile.ZIP_DEFLATED),
        "compressed or overlap": repacked(tmp_path / "b.pth", twenty_times),
        "its table of contents is not where torch puts it": repacked(tmp_path / "c.pth"),
    }
    moved = (tmp_path / "c.pth").read_bytes()
    first = moved.index(b"PK\x01\x02")  # of the list of entries, which Python finds 8 bytes further on as well
    (tmp_path / "c.pth").write_bytes(moved[:first] + bytes(8) + moved[first:])
    for words, source in cases.items():
        refused(words, source, tmp_path / "made", "--allow_pickle")
    plain = repacked(tmp_path / "d.pth")
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)  # zip64, as of more than 4 GiB
    large = repacked(tmp_path / "e.pth")
    assert b"PK\x06\x06" in large.read_bytes()
    for path in (plain, large):
        assert ForeignFiles(path, "it", allow_pickle=True).networks().keys() == {path.stem}
