"""Texts as data of a training, and the modality's files."""

import json

import pytest
import torch

from hfgen import UsageError
from hfgen_text.modality import TextModality
from hfgen_text.options import TextOptions
from hfgen_text.texts import TextSource, encoding_of
from hfgen_text.vocabularies import byte_tokenizer

TEXT = TextModality()


@pytest.fixture
def folder(tmp_path):
    rows = [{"text": word * 20, "label": label} for word, label in (("ab", "x"), ("cd", "y"), ("ef", "x"))]
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def source(texts, by_class=False, block_size=8, seed=0):
    return TextSource(texts, encoding_of(byte_tokenizer()), block_size, seed, by_class)


def test_windows_of_documents(folder):
    texts = TEXT.find(str(folder), "train", {"block_size": 8})
    assert (texts.count, texts.label_names, texts.labels.tolist()) == (3, ["x", "y"], [0, 1, 0])
    found = source(texts)
    assert len(found) == 122 // 8 - 1
    assert found.labels is None
    batch = found.finish(found.fetch(torch.tensor([0, 1]), None))
    assert batch["input_ids"].dtype == torch.int64
    assert bytes(batch["input_ids"].flatten().tolist()) == b"ab" * 8


def test_windows_have_the_class_of_their_documents(folder):
    found = source(TEXT.find(str(folder), "train", {}), by_class=True)
    assert found.labels.tolist() == [0] * 9 + [1] * 4
    for epoch in range(20):
        for index, label in enumerate(found.labels.tolist()):
            letters = {*bytes(found.fetch(torch.tensor([index]), epoch).flatten().tolist())}
            assert letters <= {*(b"abef\n" if label == 0 else b"cd")}


def test_a_part_of_the_documents(folder):
    """As `--validation_fraction` divides them."""
    texts = TEXT.find(str(folder), "train", {})
    part = texts.part(torch.tensor([1, 2]))
    found = source(part, seed=None)
    assert bytes(found.corpus.streams[0]) == b"cd" * 20 + b"\n" + b"ef" * 20
    assert found.fetch(torch.tensor([0]), 3).tolist() == [[*b"cdcdcdcd"]]
    by_class = source(part, by_class=True)
    assert {number: bytes(ids)[:2] for number, ids in by_class.corpus.streams.items()} == {0: b"ef", 1: b"cd"}


def test_tokenizers_that_options_name(folder, tmp_path):
    texts = TEXT.find(str(folder), "train", {})
    made = {name: TEXT.components(texts, {"tokenizer": name})["tokenizer"] for name in ("bytes", "characters")}
    assert [len(tokenizer) for tokenizer in made.values()] == [258, 7 + 2]
    made["characters"].save_pretrained(tmp_path / "tokenizer")
    again = TEXT.components(texts, {"tokenizer": str(tmp_path / "tokenizer")})
    assert again["tokenizer"].get_vocab() == made["characters"].get_vocab()
    assert TEXT.shape(texts, {"block_size": 16}, again) == (16, 9)


def test_options():
    assert TextOptions.of({"block_size": None, "seed": 3}) == TextOptions()
    with pytest.raises(UsageError, match="--block_size is 1; it must be at least 2"):
        TextOptions.of({"block_size": 1})


def test_one_document_shorter_than_a_block(tmp_path):
    (tmp_path / "x.txt").write_text("short")
    with pytest.raises(UsageError, match="--block_size 8 is longer than all of the text, which has 5 symbols"):
        source(TEXT.find(str(tmp_path / "x.txt"), "train", {}))


def test_previews_are_read_and_compared(tmp_path):
    stem, texts = tmp_path / "step_000500", [f"text {i}\n```" for i in range(16)]
    TEXT.write_preview(texts, range(16), stem)
    assert TEXT.previews(stem)["text"].startswith("==== seed 0 ====\ntext 0\n```\n")
    assert TEXT.previews(tmp_path / "other") == {}
    block = TEXT.card_block(16, {}, tmp_path, stem.name)
    assert block.startswith("Seed 0:\n\n````text\ntext 0\n```\n````")
    assert TEXT.different(texts[:8], range(8), 16, stem) == []
    changed = ["other", *texts[1:8]]
    assert TEXT.different(changed, range(8), 16, stem) == []
    assert TEXT.different(["other", "more", *texts[2:8]], range(8), 16, stem) == [
        *("seed 0 gives another text", "seed 1 gives another text")
    ]
    assert TEXT.different(changed[:4], range(4), 16, stem) == ["seed 0 gives another text"]
    assert TEXT.different(texts, range(16), 16, tmp_path / "other") == ["other.jsonl is missing"]
