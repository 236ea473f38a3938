"""Texts are measured by blocks: disjoint, bits as a sum over a sum, each block by itself; samples by their n-grams."""

import math

import pytest
import torch

from hfgen import Protocol, TrainingArguments, UsageError
from hfgen.evaluation.held_out import wanted_metrics
from hfgen.evaluation.measure import measure, prepare
from hfgen_text.causal_lm import CausalLMPipeline
from hfgen_text.measuring import blocks_of
from hfgen_text.modality import TextModality
from hfgen_text.vocabularies import byte_tokenizer

TEXT = "the cat sat on the mat, the rat ate the hat; é!" * 5


@pytest.fixture(scope="module")
def pipeline():
    small = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 32}
    torch.manual_seed(0)
    return CausalLMPipeline.build(
        8, 258, components={"tokenizer": byte_tokenizer()}, **{f"transformer.{k}": v for k, v in small.items()}
    )


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "x.txt").write_text(TEXT, encoding="utf-8")
    return TextModality().find(str(tmp_path / "x.txt"), "train", {})


def protocol(**rules):
    return Protocol.of(name="x", modality="text", **{"num_images": 12, "batch_size": 5, **rules})


def test_bits_of_all_blocks(pipeline, texts):
    real = blocks_of(texts, pipeline)
    text = TEXT.encode()
    assert bytes(real.stored.flatten().tolist()) == text[: len(text) // 8 * 8]
    values, facts = measure(pipeline, real, protocol(), ["bits_per_byte", "nats"], alone=True)
    nats = pipeline.log_likelihood(real.stored.long()).nats
    assert values["nats"].value == pytest.approx(float(nats.mean()))
    assert values["bits_per_byte"].value == pytest.approx(-float(nats.sum()) / real.stored.numel() / math.log(2))
    assert (facts["kind"], facts["unit"], facts["units"]) == ("exact", "byte", real.stored.numel())


def test_some_blocks_are_evenly_spaced(pipeline, texts):
    real = blocks_of(texts, pipeline)
    values, _ = measure(pipeline, real, protocol(likelihood_images=3), ["nats"], alone=True)
    assert len(real.stored) == 30
    nats = pipeline.log_likelihood(real.stored[[0, 10, 20]].long()).nats
    assert values["nats"].value == pytest.approx(float(nats.mean()))


def test_sampled_texts_beside_real_ones(pipeline, texts):
    wanted = ["ngram_divergence", "ngram_entropy", "copied_ngrams", "seconds_per_text", "network_evaluations"]
    real = prepare(blocks_of(texts, pipeline), lambda: texts, pipeline, protocol(), wanted)
    values, facts = measure(pipeline, real, protocol(), wanted, alone=True)
    assert facts is None
    assert set(values) == set(wanted)
    assert values["network_evaluations"].value == 8
    assert 0 <= real.floor["ngram_divergence"].value < values["ngram_divergence"].value <= 1 + 1e-9
    assert values["copied_ngrams"].value == 0


def test_without_training_texts_no_samples_are_compared(pipeline, texts):
    with pytest.raises(UsageError, match="training texts, which are not there"):
        prepare(blocks_of(texts, pipeline), lambda: None, pipeline, protocol(), ["ngram_entropy"])


def test_a_validation_does_not_compare_with_training_texts(pipeline):
    asked = TrainingArguments(validation_split="test", validation_metrics="ngram_entropy")
    with pytest.raises(UsageError, match="ngram_entropy"):
        wanted_metrics(pipeline, asked, "causal_lm")


def test_blocks_of_another_length_are_refused(pipeline, texts):
    with pytest.raises(UsageError, match="blocks of 64 symbols, and this model has blocks of 8"):
        TextModality().reference(texts, pipeline, protocol(block_size=64))
