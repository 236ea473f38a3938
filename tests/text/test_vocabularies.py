"""Tokenizers: any text comes back, saved as transformers saves any, and what is refused."""

import json
import random

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer

from hfgen import UsageError
from hfgen_text.vocabularies import (
    BEGIN,
    MASK,
    Encoding,
    begin_id,
    byte_tokenizer,
    character_tokenizer,
    mask_id,
    read_tokenizer,
    text_ids,
)

TEXTS = ["", "abc", "naïve — 三\r\n\t\0\x7f", "<mask>[MASK]<s>", "😀\u2028x", "  two  blanks ", "a\ufeffb"]
LETTERS = "".join(TEXTS) + "xyz\n"


@pytest.fixture(params=["bytes", "characters"])
def tokenizer(request):
    return byte_tokenizer() if request.param == "bytes" else character_tokenizer(LETTERS)


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_comes_back(tokenizer, text):
    """By the quick way and by transformers' own, with equal ids."""
    encoding = Encoding(tokenizer)
    ids = encoding.encode(text)
    assert ids.dtype == np.int32
    assert encoding.decode([ids]) == [text]
    assert encoding.to_bytes(ids) == text.encode()
    assert ids.tolist() == tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def test_bytes_are_ids():
    encoding = Encoding(byte_tokenizer())
    every = bytes(range(128)).decode()
    assert encoding.encode(every).tolist() == [*range(128)]
    assert encoding.encode("é").tolist() == [0xC3, 0xA9]
    assert encoding.decode([[0xC3], [65, 0xFF, 66]]) == ["�", "A�B"]
    assert encoding.to_bytes([65, 256, 0xFF, 257]) == b"A\xff"


def test_special_symbols(tokenizer):
    assert (mask_id(tokenizer), begin_id(tokenizer)) == (len(tokenizer) - 2, len(tokenizer) - 1)
    assert text_ids(tokenizer) == [*range(len(tokenizer) - 2)]
    assert tokenizer.convert_ids_to_tokens([mask_id(tokenizer), begin_id(tokenizer)]) == [MASK, BEGIN]


def test_saved_as_transformers_saves(tokenizer, tmp_path):
    """AutoTokenizer reads it, and the reader of tokenizers too; both give the same ids and texts."""
    tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").stat().st_size < 20_000
    for again in (AutoTokenizer.from_pretrained(tmp_path), read_tokenizer(tmp_path, "saved")):
        assert again.get_vocab() == tokenizer.get_vocab()
        assert (mask_id(again), begin_id(again)) == (mask_id(tokenizer), begin_id(tokenizer))
        ids = again("abc xyz", add_special_tokens=False)["input_ids"]
        assert again.decode(ids) == "abc xyz"
        assert Encoding(again).encode("abc xyz").tolist() == ids


def test_a_mask_stays_a_mask_for_transformers(tokenizer):
    """As `fill-mask` needs it."""
    assert mask_id(tokenizer) in tokenizer(f"ab{MASK}c", add_special_tokens=False)["input_ids"]


def test_a_character_that_the_model_does_not_have():
    with pytest.raises(UsageError, match="The text holds 'é', which is none of the 3 characters of the model"):
        Encoding(character_tokenizer("abc")).encode("abé")


def bpe(**pieces):
    """A BPE of bytes, trained on a little text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    for name, piece in pieces.items():
        setattr(backend, name, piece)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<unk>", "[MASK]", "[CLS]"]
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=special)
    backend.train_from_iterator(["the cat sat on the mat, the rat ate the hat " * 20], trainer)
    return backend


def written(folder, backend, **special):
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    return folder


def test_a_fast_tokenizer_of_a_folder(tmp_path):
    """Its special symbols are those that its config names; a literal one in a text is not one."""
    folder = written(tmp_path / "t", bpe(), mask_token="[MASK]", cls_token={"content": "[CLS]"}, pad_token="[NONE]")
    tokenizer = read_tokenizer(folder, "t")
    encoding = Encoding(tokenizer, "t")
    for text in [*TEXTS, "the cat [MASK] sat [CLS]"]:
        ids = encoding.encode(text)
        assert encoding.decode([ids]) == [text]
        assert not {mask_id(tokenizer), begin_id(tokenizer)} & {*ids.tolist()}
    assert len(encoding.encode("the cat sat")) < len("the cat sat")
    assert (mask_id(tokenizer), begin_id(tokenizer), tokenizer.pad_token) == (1, 2, None)


def test_random_bytes_come_back_as_the_text_that_they_stand_for():
    source, encoding = random.Random(0), Encoding(byte_tokenizer())
    for _ in range(50):
        ids = [source.randrange(256) for _ in range(20)]
        assert encoding.decode([ids]) == [bytes(ids).decode("utf-8", "replace")]


def test_a_tokenizer_that_changes_texts(tmp_path):
    tokenizer = read_tokenizer(written(tmp_path / "t", bpe(normalizer=normalizers.Lowercase())), "lower")
    with pytest.raises(UsageError, match="lower does not give a text back: 'the Cat' becomes 'the cat'"):
        Encoding(tokenizer, "lower").encode("the Cat")


def test_an_unknown_word_is_not_given_back(tmp_path):
    backend = Tokenizer(models.WordLevel({"the": 0, "[UNK]": 1}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = read_tokenizer(written(tmp_path / "t", backend), "words")
    with pytest.raises(UsageError, match="words does not give a text back"):
        Encoding(tokenizer, "words").encode("the cat")


def test_symbols_that_are_needed(tmp_path):
    tokenizer = read_tokenizer(written(tmp_path / "t", bpe()), "t")
    with pytest.raises(UsageError, match="no mask symbol, which masked diffusion needs"):
        mask_id(tokenizer)
    with pytest.raises(UsageError, match="no begin symbol"):
        begin_id(tokenizer)


def hole(folder):
    written(folder, Tokenizer(models.WordLevel({"a": 0, "b": 2}, unk_token="a")))


def deep(folder):
    folder.mkdir()
    (folder / "tokenizer.json").write_text("[" * 100_000)


def long(folder):
    folder.mkdir()
    with (folder / "tokenizer.json").open("wb") as file:
        file.truncate((1 << 26) + 1)


def other(folder):
    folder.mkdir()
    (folder / "tokenizer.json").write_text('{"model": {"type": "Evil"}}')


def config(folder):
    written(folder, bpe())
    (folder / "tokenizer_config.json").write_text("[" * 100_000)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (hole, "2 symbols have ids up to 2, and none has 1"),
        (deep, "is damaged: it is nested more than 50 levels deep"),
        (long, "is longer than"),
        (other, "is damaged"),
        (config, "tokenizer_config.json cannot be read: it is nested"),
        (lambda folder: folder.mkdir(), "there is no tokenizer.json"),
    ],
)
def test_files_that_are_refused(make, said, tmp_path):
    make(tmp_path / "t")
    with pytest.raises(UsageError, match=said) as caught:
        read_tokenizer(tmp_path / "t", "mine")
    assert "--tokenizer mine" in caught.value.args[0]
    assert caught.value.args[0].count("\n") < 6
