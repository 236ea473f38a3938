"""Likelihoods of validation texts: disjoint blocks, bits as a sum over a sum, each block by itself."""

import math

import pytest
import torch

from hfgen import UsageError
from hfgen_text.causal_lm import CausalLMPipeline
from hfgen_text.held_out import HeldOutTexts, log_likelihood
from hfgen_text.modality import TextModality
from hfgen_text.vocabularies import byte_tokenizer


@pytest.fixture(scope="module")
def pipeline():
    small = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 32}
    torch.manual_seed(0)
    return CausalLMPipeline.build(
        8, 258, components={"tokenizer": byte_tokenizer()}, **{f"transformer.{k}": v for k, v in small.items()}
    )


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "x.txt").write_text("the cat sat on the mat, the rat ate the hat; é!" * 5, encoding="utf-8")
    return TextModality().find(str(tmp_path / "x.txt"), "train", {})


def test_bits_of_all_blocks(pipeline, texts):
    found = HeldOutTexts(texts, 1000, ["bits_per_byte", "nats"])
    ids, labels, seeds = found.blocks(pipeline)
    text = ("the cat sat on the mat, the rat ate the hat; é!" * 5).encode()
    assert bytes(ids.flatten().tolist()) == text[: len(text) // 8 * 8]
    assert (labels, seeds) == (None, [*range(len(text) // 8)])
    values, nats = found.measure(pipeline, {}), log_likelihood(pipeline, ids, None, seeds).nats
    assert values["validation_nats"] == pytest.approx(float(nats.mean()))
    assert values["validation_bits_per_byte"] == pytest.approx(-float(nats.sum()) / ids.numel() / math.log(2))


def test_some_blocks_are_evenly_spaced(pipeline, texts):
    _, _, seeds = HeldOutTexts(texts, 3, ["nats"]).blocks(pipeline)
    assert seeds == [0, 10, 20]


def test_batches_do_not_matter(pipeline, texts, monkeypatch):
    from hfgen_text import held_out

    blocks = HeldOutTexts(texts, 9, ["nats"]).blocks(pipeline)
    whole = log_likelihood(pipeline, *blocks)
    monkeypatch.setattr(held_out, "BATCH", 2)
    again = log_likelihood(pipeline, *blocks)
    assert torch.allclose(whole.nats, again.nats)
    assert torch.equal(whole.num_dimensions, again.num_dimensions)
    assert (again.kind, again.unit) == ("exact", "byte")


def test_no_block(pipeline):
    with pytest.raises(UsageError, match="no block of text"):
        log_likelihood(pipeline, torch.empty(0, 8, dtype=torch.int64), None, [])
