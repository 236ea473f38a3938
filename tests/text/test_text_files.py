"""Text files: strict UTF-8 in pieces; one clear error for anything else."""

import pytest

from hfgen import UsageError
from hfgen_text import text_files
from hfgen_text.text_files import json_lines, pieces


@pytest.fixture(params=[1, 2, 3, 5, 8, 1 << 20])
def piece(request, monkeypatch):
    monkeypatch.setattr(text_files, "PIECE", request.param)


@pytest.mark.parametrize("text", ["", "abc", "naïve — 三😀\r\n\n😀😀😀x\ny", "é" * 9, "\n\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_pieces_are_the_text(text, mark, piece, tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(mark + text.encode())
    assert "".join(pieces(path)) == text


def test_pieces_end_at_line_ends(monkeypatch, tmp_path):
    monkeypatch.setattr(text_files, "PIECE", 16)
    path = tmp_path / "x.txt"
    path.write_text("one two\nthree four five\nsix\n" * 20)
    found = [*pieces(path)]
    assert len(found) > 10
    assert all(piece.endswith("\n") for piece in found)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("café".encode("latin-1"), "not UTF-8: byte 0xE9 at 3 \\(Latin-1 has 'é' for it\\)"),
        (b"a" * 5000 + b"\n" + b"b" * 70_000 + "é".encode("latin-1") + b"x", "not UTF-8: byte 0xE9 at 75,001"),
        ("text".encode("utf-16"), "is UTF-16, not UTF-8"),
        ("text".encode("utf-32"), "is UTF-32, not UTF-8"),
        ("text".encode("utf-16-le"), "is a binary file, or UTF-16"),
        (b"\x89PNG\r\n\x1a\n\0\0", "is a binary file, or UTF-16"),
        (b"\x7fELF\xff", "not UTF-8: byte 0xFF"),
        ("é".encode()[:1], "not UTF-8: byte 0xC3 at 0"),
    ],
)
def test_what_is_no_text(content, said, tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=said) as caught:
        "".join(pieces(path))
    assert str(path) in str(caught.value)
    assert str(caught.value).count("\n") < 6


def test_lines_of_json(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\n\n{"text": "\xc3\xa9", "label": 3}')
    assert [*json_lines(path)] == [{"text": "a"}, {"text": "é", "label": 3}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1}\n[1]', "line 2 is not a dictionary"),
        (b'{"a": 1}\n{"a"', "line 2 is not JSON"),
        (b'{"a": 1}\n' * 9000 + b'{"a": "\xe9"}', "line 9001 is not UTF-8"),
        (b"[" * 100_000, "line 1 is not JSON: it is nested"),
    ],
)
def test_other_lines(content, said, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=said):
        list(json_lines(path))


def test_a_line_without_end(monkeypatch, tmp_path):
    monkeypatch.setattr(text_files, "LONGEST", 100)
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"{" + b" " * 100)
    with pytest.raises(UsageError, match="line 1 is longer than"):
        list(json_lines(path))
