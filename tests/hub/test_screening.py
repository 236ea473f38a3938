"""Files that must not be published."""

import os
import random
import re

import pytest

from hfgen.errors import UsageError
from hfgen.hub.contents import contents
from hfgen.hub.screening import refuse

CONFIG = '{"_class_name": "Net", "%s": "%s"}\n'
HF_TOKEN = "hf_" + "aB3" * 11
REFUSED = {
    "weights.bin": (b"", "weights.bin: a pickle, which runs code when it is read; save it as safetensors"),
    "generator/old.PT": (b"", "generator/old.PT: a pickle"),
    "extra/model.ckpt": (b"", "extra/model.ckpt: a pickle"),
    "innocent.txt": (b"\x80\x04\x95\x10\x00", "innocent.txt: a pickle"),
    "archive.dat": (b"PK\x03\x04" + b"\0" * 26 + b"archive/data.pkl", "archive.dat: a pickle"),
    "generator/net.py": (b"", "generator/net.py: code, which a model does not need"),
    "generator/other.safetensors": (b"\x80\x04.", "generator/other.safetensors: truncated or damaged; save it again"),
    "notes.md": (f"one\nuse {HF_TOKEN}".encode(), "notes.md: line 2 holds a token"),
    "params.yaml": (b"data: /data7/faces\n", "params.yaml: 'data' is '/data7/faces', a path of this machine"),
    "a/config.json": (
        (CONFIG % ("_name_or_path", "/home/kim/x")).encode(),
        "contains a path of this machine, /home/kim",
    ),
    "b/config.json": ((CONFIG % ("_name_or_path", "./runs/x")).encode(), "'_name_or_path' is './runs/x'"),
    "c/config.json": ((CONFIG % ("p", r"C:\\Users\\kim\\x")).encode(), "contains a path of this machine, C:"),
    "card.md": (b"From ~/data/faces.", "card.md: line 1 contains a path of this machine, ~/data"),
    "LOG.txt": (b"file:///x", "LOG.txt: line 1 contains a path of this machine"),
    "d/config.json": ((CONFIG % ("author", "kimberley")).encode(), "contains your user name, kimberley"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path, monkeypatch, name):
    monkeypatch.setenv("LOGNAME", "kimberley")
    data, says = REFUSED[name]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UsageError) as error:
        refuse(contents(tmp_path), "me/x", "AGAIN")
    assert says in str(error.value)
    assert HF_TOKEN not in str(error.value)
    assert str(error.value).startswith("Nothing was sent")
    assert str(error.value).endswith("AGAIN")


ALLOWED = {
    "README.md": "See https://example.org/home/x, `runs/x`, and/or 1/2 of kimberley/faces, at ~ 3 s.",
    "config.json": '{"_name_or_path": "kimberley/model", "act": "a:\\n"}',
    "env.json": '{"processor": "A / B", "hf_hub": "hf_hub_download_of_a_very_long_name"}',
    "LICENSE": "MIT",
    "samples/a.png": b"\x89PNG /home/kim",
}


@pytest.mark.parametrize("name", ALLOWED)
def test_allowed(tmp_path, monkeypatch, name):
    monkeypatch.setenv("LOGNAME", "kimberley")
    content = ALLOWED[name]
    refuse({name: content if isinstance(content, bytes) else content.encode()}, "me/x", "AGAIN")
    refuse({"README.md": b"By kimberley."}, "kimberley/x", "AGAIN")


@pytest.mark.parametrize("name", ["demo.mp4", "paper.pdf", "x.zip", "t.parquet", "x.wav", "reference.npz", "odd"])
def test_bytes_that_look_like_a_path_are_none(tmp_path, monkeypatch, name):
    """Of a megabyte of random bytes, nearly every one holds some `~/x`."""
    data = random.Random(0).randbytes(2**20)
    assert re.search(rb"~/\w", data)
    refuse({name: data}, "me/x", "AGAIN")
    monkeypatch.setenv("HOME", "/data7/people/kim")
    for text in ("/data7/people/kim/faces", HF_TOKEN, "private-token-1"):
        for encoding in ("utf-8", "utf-16-le", "utf-32-le") if text != HF_TOKEN else ("utf-8",):
            with pytest.raises(UsageError, match=f"{name}: (contains a path of this|holds a token)") as error:
                refuse({name: data[:4096] + text.encode(encoding) + data[:4096]}, "me/x", "AGAIN", "private-token-1")
            assert text not in str(error.value).replace("/faces", "")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252"])
def test_texts_of_any_encoding_are_searched(encoding):
    for name in ("notes.txt", "page.ipynb", "table.csv"):
        with pytest.raises(UsageError, match=f"{name}: line 2 contains a path of this machine, /home/kim"):
            refuse({name: "Größe\n/home/kim/x\n".encode(encoding)}, "me/x", "AGAIN")


def test_links_are_refused_not_followed(tmp_path):
    (tmp_path / "model" / "samples").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("x")
    (tmp_path / "model" / "samples" / "all").symlink_to(tmp_path / "secret")
    (tmp_path / "model" / "key.txt").symlink_to(tmp_path / "secret" / "key")
    os.mkfifo(tmp_path / "model" / "pipe")
    with pytest.raises(UsageError) as error:
        refuse(contents(tmp_path / "model"), "me/x", "AGAIN")
    assert "key.txt: a link" in str(error.value)
    assert "samples/all: a link" in str(error.value)
    assert "pipe: not a regular file" in str(error.value)


def test_the_token_in_use_is_refused_wherever_it_stands():
    with pytest.raises(UsageError, match="train.log: line 1 holds a token"):
        refuse({"train.log": b"with private-token-1"}, "me/x", "AGAIN", "private-token-1")


def test_a_refusal_sends_nothing_and_leaves_the_message_short(copy, hfgen):
    for number in range(9):
        (copy / f"{number}.pkl").write_text("")
    done = hfgen("push", copy, "me/refused", code=2)
    assert not done["requests"]
    assert "and 5 more: hfgen push" in done["err"]
