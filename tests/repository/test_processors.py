"""Tokenizers and feature extractors of transformers as components: saved, loaded, refused where they could harm."""

import base64
import json
import struct

import pytest
import torch
from refusals import edit
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, WhisperFeatureExtractor

from hfgen import HFGenPipeline, PriorScheduler
from hfgen.errors import LoadError, UsageError
from hfgen.hub.download import component_files

FILE, CONFIG = "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"


class ReadsAndHears(HFGenPipeline):
    """A pipeline of a tokenizer, a feature extractor and a scheduler."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, extractor: WhisperFeatureExtractor, scheduler: PriorScheduler
    ) -> None:
        super().__init__()
        self.register_modules(tokenizer=tokenizer, extractor=extractor, scheduler=scheduler)


def bytes_tokenizer() -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, mask_token="<mask>", clean_up_tokenization_spaces=False)


def pipeline():
    return ReadsAndHears(bytes_tokenizer(), WhisperFeatureExtractor(feature_size=8), PriorScheduler((1, 2, 2)))


@pytest.fixture
def folder(tmp_path):
    pipeline().save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def refuse(folder, words):
    with pytest.raises(LoadError, match=words) as caught:
        ReadsAndHears.from_pretrained(folder)
    assert str(caught.value).count("\n") < 6
    return caught.value


def test_saved_loaded_and_saved_again(folder, tmp_path):
    loaded = ReadsAndHears.from_pretrained(folder)
    text = "Grüße, 世界!\n"
    assert loaded.tokenizer(text).input_ids == bytes_tokenizer()(text).input_ids
    assert loaded.tokenizer.decode(loaded.tokenizer(text).input_ids) == text
    assert loaded.tokenizer.mask_token_id == 256
    assert loaded.extractor.feature_size == 8
    assert AutoTokenizer.from_pretrained(folder, subfolder="tokenizer").mask_token == "<mask>"
    loaded.save_pretrained(tmp_path / "again")
    for name in ("model_index.json", FILE, CONFIG, "extractor/preprocessor_config.json"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_given_instead_of_loaded(folder):
    own = bytes_tokenizer()
    assert ReadsAndHears.from_pretrained(folder, tokenizer=own).tokenizer is own
    with pytest.raises(UsageError, match="'tokenizer' is a Linear; it must be a TokenizersBackend"):
        ReadsAndHears.from_pretrained(folder, tokenizer=torch.nn.Linear(1, 1))
    with pytest.raises(UsageError, match="'extractor' is a TokenizersBackend; it must be a FeatureExtractionMixin"):
        ReadsAndHears.from_pretrained(folder, extractor=own)


def test_what_is_fetched():
    """No sentencepiece, no tiktoken, no pickle."""
    names = [
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
        "merges.txt",
        "spiece.model",
        "x.tiktoken",
        "a.pkl",
    ]
    found = component_files([f"tokenizer/{name}" for name in names], "tokenizer/", None)
    assert found == [f"tokenizer/{name}" for name in names[:4]]


@pytest.mark.parametrize("class_name", ["PreTrainedTokenizer", "T5GemmaModel", "LlavaProcessor", "AutoTokenizer"])
def test_other_classes(folder, class_name):
    edit(folder / "model_index.json", tokenizer=["transformers", class_name])
    refuse(folder, class_name if class_name != "PreTrainedTokenizer" else "component class 'PreTrainedTokenizer'")


@pytest.mark.parametrize("name", [FILE, CONFIG, "extractor/preprocessor_config.json"])
def test_damaged_or_missing(folder, name):
    kept = (folder / name).read_text()
    for text in ("{", "[]", '"x"', "[" * 60 + "]" * 60):
        (folder / name).write_text(text)
        refuse(folder, name)
    (folder / name).write_text(kept)
    (folder / name).unlink()
    refuse(folder, "missing" if name != FILE else "has no tokenizer.json")


@pytest.mark.parametrize("other", ["spiece.model", "cl100k.tiktoken", "tekken.json", "vocab.pkl"])
def test_other_vocabularies(folder, other):
    (folder / FILE).rename(folder / "tokenizer" / other)
    refuse(folder, f"holds {other}, which hfgen does not read.*\n.*\n.*AutoTokenizer")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fast_tokenizer_files", ["tokenizer.0.0.0.json", "../../secret"]),
        ("gguf_file", "../x.gguf"),
        ("vocab", "/etc/passwd"),
        ("init_inputs", ["/etc/passwd"]),
    ],
)
def test_a_config_that_names_files(folder, key, value):
    edit(folder / CONFIG, **{key: value})
    refuse(folder, f"names files: {key}")


def test_paths_of_old_saves_are_not_followed(folder, tmp_path):
    (tmp_path / "other.json").write_text("{}")
    edit(folder / CONFIG, tokenizer_file=str(tmp_path / "other.json"), special_tokens_map_file="/nowhere/x.json")
    assert ReadsAndHears.from_pretrained(folder).tokenizer.mask_token_id == 256


def test_links_out(folder, tmp_path):
    (folder / FILE).rename(tmp_path / "elsewhere.json")
    (folder / FILE).symlink_to(tmp_path / "elsewhere.json")
    refuse(folder, "link out of the folder")


DOUBLE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}


def charsmap(replacement, trie=4):
    data = struct.pack("<I", trie) + bytes(4) + replacement
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"normalizer": {"type": "Sequence", "normalizers": [DOUBLE] * 40}}, "1,099,511,627,776 times as long"),
        ({"normalizer": DOUBLE | {"content": "a" * 5000}}, "5,000 times as long"),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "ByteLevel"}] * 20}}, "times as long"),
        ({"decoder": {"type": "Sequence", "decoders": [DOUBLE] * 40}}, "the decoder can make a text"),
        ({"normalizer": charsmap(b"x" * 9999)}, "9,999 times as long"),
        ({"normalizer": charsmap(b"", trie=1 << 20)}, "not a table of replacements"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "%"}}, "not base64"),
        ({"padding": {"strategy": {"Fixed": 10**12}, "direction": "Right"}}, "a length of 1000000000000"),
        ({"padding": {"strategy": "BatchLongest", "pad_to_multiple_of": 10**12}}, "a length of"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}}, "damaged"),
        ({"model": {"type": "Magic"}}, "damaged"),
        ({"model": {"type": "Unigram", "vocab": [], "unk_id": 5}}, "damaged"),
    ],
)
def test_a_hostile_tokenizer(folder, entries, words):
    edit(folder / FILE, **entries)
    refuse(folder, words)


def test_a_tokenizer_of_too_many_lists(folder):
    (folder / FILE).write_text('{"model": [' + "[]," * (1 << 22) + "[]]}")
    refuse(folder, "more than 4,194,304 lists")


def test_harmless_steps_pass(folder):
    steps = [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        *[{"type": "Replace", "pattern": {"String": "``"}, "content": '"'}] * 9,
        {"type": "NFKC"},
    ]
    edit(folder / FILE, normalizer={"type": "Sequence", "normalizers": steps})
    assert ReadsAndHears.from_pretrained(folder).tokenizer.decode([65])


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"n_fft": 1 << 40}, "n_fft"),
        ({"n_fft": 1 << 18, "feature_size": 1 << 18}, "its filters have 68,719,476,736 values"),
    ],
)
def test_a_hostile_feature_extractor(folder, entries, words):
    edit(folder / "extractor" / "preprocessor_config.json", **entries)
    refuse(folder, words)


def test_a_panic_is_an_error(folder):
    """What tokenizers ends in a panic for is an exception that is not an `Exception`."""
    template = {"type": "TemplateProcessing", "pair": [], "special_tokens": {}}
    template["single"] = [{"SpecialToken": {"id": "Q", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    edit(folder / FILE, post_processor=template)
    assert "damaged" in str(refuse(folder, "tokenizer.json"))


def test_the_index_is_plain(folder):
    index = json.loads((folder / "model_index.json").read_text())
    assert index["tokenizer"] == ["transformers", "TokenizersBackend"]
    assert index["extractor"] == ["transformers", "WhisperFeatureExtractor"]
