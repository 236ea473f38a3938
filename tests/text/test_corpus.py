"""Documents become streams of ids, without loss."""

import hashlib

import numpy as np
import pytest

from hfgen import UsageError
from hfgen_text.corpus import chosen, encode, letters_of
from hfgen_text.documents import Where, find_documents
from hfgen_text.vocabularies import Encoding, byte_tokenizer, character_tokenizer
from hfgen_text.windows import Windows

TEXTS = ["ab", "", "é\r\n", "c<mask>"]
BYTES = Encoding(byte_tokenizer())


def documents(texts=TEXTS, rows=None):
    return chosen((iter([text[:1], text[1:]]) for text in texts), rows)


def test_documents_are_joined_by_a_line_end():
    found = encode(documents(), BYTES)
    text = "ab\né\r\n\nc<mask>"
    assert BYTES.decode([found.streams[0]]) == [text]
    assert found.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert (found.num_bytes, found.num_characters) == (len(text.encode()), len(text))


def test_classes_have_their_streams():
    classes = np.array([1, 0, 1, -1])
    found = encode(documents(), BYTES, classes)
    assert [BYTES.decode([ids])[0] for ids in found.streams.values()] == ["", "ab\né\r\n"]
    assert [*found.streams] == [0, 1]


def test_some_documents():
    assert BYTES.decode([encode(documents(rows={0, 3}), BYTES).streams[0]]) == ["ab\nc<mask>"]


def test_characters_of_the_data():
    letters = letters_of(documents())
    encoding = Encoding(character_tokenizer(letters))
    assert letters == {*"abé\r\nc<mask>"}
    assert encoding.decode([encode(documents(), encoding).streams[0]]) == ["ab\né\r\n\nc<mask>"]
    with pytest.raises(UsageError, match="row 0: The text holds 'x'"):
        encode(documents(["x"]), encoding)


def test_many_ids_are_mapped(tmp_path):
    found = encode(documents(["a" * 1000, "b" * 1000]), BYTES, most=100, folder=tmp_path)
    assert isinstance(found.streams[0], np.memmap)
    assert BYTES.decode([found.streams[0]]) == ["a" * 1000 + "\n" + "b" * 1000]


def test_the_plays_in_blocks():
    """Bytes and characters give the same blocks of text."""
    found = find_documents(Where("shakespeare-mini", split="validation"))
    text = "".join("".join(document) for document in found.read())
    letters = Encoding(character_tokenizer(letters_of(chosen(found.read(), None))))
    for encoding in (BYTES, letters):
        windows = Windows(encode(chosen(found.read(), None), encoding).streams, 128)
        blocks = encoding.decode(windows.fetch(range(len(windows))).tolist())
        assert len(blocks) == 110_865 // 128
        assert "".join(blocks) == text[: len(blocks) * 128]
