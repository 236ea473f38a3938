"""Autoregressive models with transformers' decoders: causal, exact, cached; plain transformers reads them."""

import itertools
import math

import pytest
import torch
from tiny_texts import LETTERS, texts, tiny
from transformers import AutoModelForCausalLM

from hfgen import SeededNoise, UsageError
from hfgen_text.causal_lm import CausalLMObjective, CausalLMPipeline, predict

CLASSES = ["LlamaForCausalLM", "GPT2LMHeadModel"]


@pytest.fixture(params=CLASSES, scope="module")
def pipeline(request):
    return tiny(CausalLMPipeline, request.param)


def sample(pipeline, seeds, labels=None, **options):
    with torch.no_grad():
        return pipeline.sample(SeededNoise.from_seeds(seeds), labels, **options)


def test_a_symbol_sees_earlier_ones_alone(pipeline, tmp_path):
    """Changing one leaves all predictions up to it bit-equal, and moves all after it."""
    pipeline.save_pretrained(tmp_path)
    loaded = CausalLMPipeline.from_pretrained(tmp_path)
    ids = texts(pipeline, 1)
    for made in (pipeline, loaded):
        before = predict(made.transformer, made.scheduler, ids)
        for place in (0, 5, 10):
            other = ids.clone()
            other[0, place] = (ids[0, place] + 1) % len(LETTERS)
            after = predict(made.transformer, made.scheduler, other)
            assert torch.equal(after[:, : place + 1], before[:, : place + 1])
            assert ((after - before).nan_to_num().abs().amax(-1)[0, place + 1 :] > 0).all()


def test_plain_transformers_loads_it(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    network = AutoModelForCausalLM.from_pretrained(tmp_path, subfolder="transformer")
    ids = texts(pipeline, 2)
    assert torch.equal(network(input_ids=ids).logits, pipeline.transformer(input_ids=ids).logits)


def test_probabilities_sum_to_one():
    made = tiny(CausalLMPipeline, length=3, letters="ab")
    every = torch.tensor(list(itertools.product(range(2), repeat=3)))
    found = made.log_likelihood(every)
    assert float(found.nats.exp().sum()) == pytest.approx(1, abs=1e-6)
    assert found.kind == "exact"
    drawn = sample(made, range(4000))
    law = torch.bincount((drawn * torch.tensor([4, 2, 1])).sum(-1), minlength=8) / 4000
    assert (law - found.nats.exp()).abs().max() < 0.03


def test_teacher_forcing_is_one_symbol_at_a_time(pipeline):
    """By the whole text, by prefixes, and by the objective."""
    ids = texts(pipeline, 3)
    found = pipeline.log_likelihood(ids)
    one_by_one = torch.zeros(3, dtype=torch.float64)
    for end in range(1, 13):
        log_probs = predict(pipeline.transformer, pipeline.scheduler, ids[:, :end])
        one_by_one += log_probs[:, -1].gather(-1, ids[:, end - 1 : end])[:, 0].double()
    assert torch.allclose(found.nats, one_by_one, atol=1e-4)
    (update,) = CausalLMObjective(pipeline.transformer, pipeline.scheduler).training_step({"input_ids": ids})
    assert float(update.loss.detach()) == pytest.approx(float(-found.nats.mean() / 12), rel=1e-5)
    assert found.num_dimensions.tolist() == [12, 12, 12]


def test_a_network_that_knows_nothing():
    made = tiny(CausalLMPipeline)
    torch.nn.init.zeros_(made.transformer.lm_head.weight)
    assert made.log_likelihood(texts(made)).mean_bits == pytest.approx(math.log2(7), rel=1e-6)


def test_a_seed_is_a_text_with_a_cache(pipeline):
    whole = sample(pipeline, range(20))
    assert whole.max() < len(LETTERS)
    assert torch.equal(sample(pipeline, [3])[0], whole[3])
    assert torch.equal(sample(pipeline, [11, 3, 19]), whole[[11, 3, 19]])
    without_cache = torch.zeros_like(whole)
    from hfgen_text.symbols import draw

    chance, network = SeededNoise.from_seeds(range(20)).uniform(12), pipeline.transformer.double()
    try:
        for place in range(12):
            log_probs = predict(network, pipeline.scheduler, without_cache[:, : place + 1])[:, -1]
            without_cache[:, place] = draw(log_probs, chance[:, place])
    finally:
        pipeline.transformer.float()
    assert torch.equal(without_cache, whole)


def test_a_prompt(pipeline):
    found = pipeline.tokenizer.batch_decode(sample(pipeline, range(6), prompt="abc").tolist())
    assert all(text.startswith("abc") and len(text) == 12 for text in found)
    assert len({*found}) > 1
    assert sample(pipeline, [0], prompt="abcde\nabcde\n").shape == (1, 12)
    with pytest.raises(UsageError, match="13 symbols"):
        sample(pipeline, [0], prompt="a" * 13)
    with pytest.raises(UsageError, match="a step for each symbol, 12"):
        sample(pipeline, [0], num_inference_steps=4)
    assert sample(pipeline, [0, 1], temperature=1e-4).unique(dim=0).shape[0] == 1


def test_classes_stand_for_the_begin(tmp_path):
    made = tiny(CausalLMPipeline, num_classes=3)
    made.save_pretrained(tmp_path)
    made = CausalLMPipeline.from_pretrained(tmp_path)
    made.set_progress_bar_config(disable=True)
    ids = texts(made, 2)
    found = [made.log_likelihood(ids, torch.full((2,), k)).nats for k in range(3)]
    assert not torch.allclose(found[0], found[1], atol=1e-4)
    drawn = [sample(made, range(8), torch.full((8,), k)) for k in range(3)]
    assert not torch.equal(drawn[0], drawn[1])
    assert all(ids.shape == (8, 12) and ids.max() < 7 for ids in drawn)
