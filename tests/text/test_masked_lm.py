"""Masked diffusion with transformers' encoders: both ways, known places, bounds, and plain transformers reads it."""

import itertools
import math

import pytest
import torch
from tiny_texts import LETTERS, texts, tiny
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertConfig, BertForMaskedLM

from hfgen import SeededNoise, StepNoise, UsageError
from hfgen_text.masked_lm import MaskedLMPipeline
from hfgen_text.masked_objective import MaskedDiffusionObjective, predict
from hfgen_text.masking import mean_cross_entropy
from hfgen_text.text_scheduler import TextScheduler
from hfgen_text.vocabularies import byte_tokenizer

CLASSES = ["EuroBertForMaskedLM", "ModernBertForMaskedLM", "BertForMaskedLM", "LlamaForCausalLM"]


@pytest.fixture(scope="module")
def pipeline():
    return tiny(MaskedLMPipeline)


def sample(pipeline, seeds, labels=None, **options):
    with torch.no_grad():
        return pipeline.sample(SeededNoise.from_seeds(seeds), labels, **options)


@pytest.mark.parametrize("class_name", CLASSES)
def test_each_place_sees_all_others(class_name, tmp_path):
    """Of every network, also as it comes back from a folder: one that stayed causal shows here."""
    made = tiny(MaskedLMPipeline, class_name)
    made.save_pretrained(tmp_path)
    loaded = MaskedLMPipeline.from_pretrained(tmp_path)
    assert type(loaded.transformer).__name__ == class_name
    ids = texts(made, 1)
    before = [predict(p.transformer, p.scheduler, ids) for p in (made, loaded)]
    assert torch.equal(*before)
    for place in (0, 5, 11):
        other = ids.clone()
        other[0, place] = (ids[0, place] + 1) % len(LETTERS)
        after = predict(loaded.transformer, loaded.scheduler, other)
        moved = (after - before[1]).nan_to_num().abs().amax(-1)[0]
        assert (moved > 0).all(), f"{class_name}: changing place {place} moves only {moved}"


def test_plain_transformers_loads_it(pipeline, tmp_path):
    from transformers import pipeline as transformers_pipeline

    pipeline.save_pretrained(tmp_path)
    network = AutoModelForMaskedLM.from_pretrained(tmp_path, subfolder="transformer")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, subfolder="tokenizer")
    ids = texts(pipeline, 2)
    assert torch.equal(network(input_ids=ids).logits, pipeline.transformer(input_ids=ids).logits)
    found = transformers_pipeline("fill-mask", model=network, tokenizer=tokenizer)("ab<mask>d", top_k=3)
    assert {one["token_str"] for one in found} <= {*LETTERS, "<mask>", "<s>"}


def test_a_published_encoder_is_trained_further():
    """A network with more symbols and places than the data need."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    network = BertForMaskedLM(BertConfig(vocab_size=300, max_position_embeddings=64, **sizes))
    made = MaskedLMPipeline(network, byte_tokenizer(), TextScheduler(sequence_length=20, vocab_size=258))
    assert sample(made, [0, 1]).max() < 256
    with pytest.raises(UsageError, match="300 symbols, and 308 are needed"):
        MaskedLMPipeline(network, byte_tokenizer(), TextScheduler(20, 258, num_classes=50))
    with pytest.raises(UsageError, match="64 places, and texts need 65"):
        MaskedLMPipeline(network, byte_tokenizer(), TextScheduler(65, 258))
    with pytest.raises(UsageError, match="258 symbols, the model was made for 9"):
        MaskedLMPipeline(network, byte_tokenizer(), TextScheduler(20, 9))


SAMPLERS = [
    {},
    {"num_inference_steps": 5},
    {"sampler": "bernoulli", "num_inference_steps": 5, "grid": "cosine"},
    {"sampler": "entropy_bound", "entropy_bound": 1.0},
    {"sampler": "confidence", "num_inference_steps": 4},
    {"sampler": "drawn_confidence", "num_inference_steps": 4},
    {"sampler": "remdm", "num_inference_steps": 20, "remasking_eta": 0.1, "remasking_rule": "rescale"},
    {"temperature": 0.5, "top_p": 0.9},
]


@pytest.mark.parametrize("options", SAMPLERS, ids=str)
def test_a_seed_is_a_text(pipeline, options):
    whole = sample(pipeline, range(20), **options)
    assert whole.shape == (20, 12)
    assert whole.dtype == torch.int64
    assert whole.max() < len(LETTERS)
    assert torch.equal(sample(pipeline, [3], **options)[0], whole[3])
    assert torch.equal(sample(pipeline, [11, 3, 19], **options), whole[[11, 3, 19]])
    assert not torch.equal(sample(pipeline, [20], **options)[0], whole[0])


@pytest.mark.whole
def test_known_places(pipeline):
    def drawn(**options):
        return pipeline.tokenizer.batch_decode(sample(pipeline, range(6), **options).tolist())

    assert all(text.startswith("abc") for text in drawn(prompt="abc"))
    assert all(text.startswith("ab") and text.endswith("e\n") for text in drawn(prompt="ab", suffix="e\n"))
    assert all(text[3:5] == "cd" for text in drawn(infill="<mask*3>cd<mask>"))
    assert all(text[1] == "a" for text in drawn(infill="<mask>a"))
    assert len({*drawn(infill="a<mask>")}) > 1
    assert drawn(prompt="abcde\nabcde\n") == ["abcde\nabcde\n"] * 6
    for sampler in ("bernoulli", "confidence", "drawn_confidence", "entropy_bound", "remdm"):
        assert all(text.startswith("abc") for text in drawn(prompt="abc", sampler=sampler))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt": "a" * 13}, "The prompt has 13 symbols, and a text of this model 12"),
        ({"prompt": "a" * 6, "suffix": "b" * 7}, "The prompt and suffix has 13 symbols"),
        ({"infill": "<mask*13>"}, "The infill has 13 symbols"),
        ({"infill": "abc"}, "infill has no gap: write <mask>"),
        ({"infill": "<mask>", "prompt": "a"}, "leave out prompt and suffix"),
        ({"prompt": "xyz"}, "prompt: .*'x'"),
        ({"sampler": "randem"}, "sampler is 'randem'.*random"),
        ({"sampler": "entropy_bound", "num_inference_steps": 3}, "chooses its steps"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"entropy_bound": -1}, "entropy_bound is -1"),
        ({"remasking_eta": 2}, "remasking_eta is 2"),
        ({"remasking_rule": "x"}, "remasking_rule is 'x'"),
        ({"temperature": -1}, "temperature is -1"),
    ],
)
def test_refused(pipeline, options, words):
    with pytest.raises(UsageError, match=words):
        sample(pipeline, [0], **options)


def test_a_network_that_knows_nothing():
    """Its bound is L ln V of the symbols that a text can have, for every draw; the mask and the begin do not count."""
    made = tiny(MaskedLMPipeline)
    torch.nn.init.zeros_(made.transformer.lm_head.weight)
    found = made.log_likelihood(texts(made), num_draws=3)
    assert found.nats.tolist() == pytest.approx([-12 * math.log(7)] * 5, rel=1e-6)
    assert found.kind == "lower bound"
    assert found.mean_bits == pytest.approx(math.log2(7), rel=1e-6)
    assert "bits per byte of 256 values (lower bound" in str(found)
    assert made.curve(texts(made)) == pytest.approx([math.log(7)] * 12, rel=1e-6)


@pytest.mark.whole
def test_the_bound_is_a_bound():
    """Of every text of three places: by all masks it is at most ln p of one symbol a step, and sums to at most 1."""
    made = tiny(MaskedLMPipeline, length=3, letters="ab")
    every = torch.tensor(list(itertools.product(range(2), repeat=3)))
    mask = made.scheduler.start_id

    def log_p(hidden):
        with torch.no_grad():
            return predict(made.transformer, made.scheduler, hidden).double().gather(-1, every[..., None])[..., 0]

    by_order = []
    for order in itertools.permutations(range(3)):
        hidden, total = torch.full_like(every, mask), torch.zeros(8, dtype=torch.float64)
        for place in order:
            total = total + log_p(hidden)[:, place]
            hidden[:, place] = every[:, place]
        by_order.append(total)
    by_order = torch.stack(by_order)
    exact, bound = by_order.logsumexp(0) - math.log(6), by_order.mean(0)
    assert float(exact.exp().sum()) == pytest.approx(1, abs=1e-6)
    assert (bound <= exact + 1e-12).all()
    assert 0.9 < float(bound.exp().sum()) <= 1
    measured = made.log_likelihood(every.repeat(400, 1), num_draws=3).nats.view(400, 8)
    assert (measured.mean(0) - bound).abs().max() < 4 * float(measured.std(0).max()) / 20


def test_the_likelihood_is_of_a_text_and_its_seed(pipeline):
    ids = texts(pipeline, 7)
    whole = pipeline.log_likelihood(ids, seeds=range(7)).nats
    parts = [pipeline.log_likelihood(ids[k : k + 1], seeds=[k]).nats for k in range(7)]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-5)
    assert not torch.allclose(pipeline.log_likelihood(ids, seeds=range(7, 14)).nats, whole, atol=1e-3)
    with pytest.raises(UsageError, match="holds the symbol 7, which no text"):
        pipeline.log_likelihood(torch.full((1, 12), 7))
    with pytest.raises(UsageError, match=r"expected ids of shape \(B, 12\)"):
        pipeline.log_likelihood(ids[:, :5])
    with pytest.raises(UsageError, match="num_draws is 0"):
        pipeline.log_likelihood(ids, num_draws=0)


@pytest.mark.whole
def test_the_loss_is_the_bound_without_clipping(pipeline):
    ids = texts(pipeline, 64)
    objective = MaskedDiffusionObjective(pipeline.transformer, pipeline.scheduler, min_share=0, max_share=1)
    losses = []
    for step in range(40):
        objective.noise = StepNoise(0, step, slice(0, 64), 64)
        (update,) = objective.training_step({"input_ids": ids})
        losses.append(update.loss.item())
    bound = -pipeline.log_likelihood(ids, num_draws=64).nats.mean() / 12
    assert sum(losses) / 40 == pytest.approx(float(bound), rel=0.01)
    assert update.loss.dtype == torch.float32


def test_the_loss_is_the_same_in_parts(pipeline):
    """However a batch is split: noise by row, and a mean over texts of each text's mean."""
    ids = texts(pipeline, 8)
    objective = MaskedDiffusionObjective(pipeline.transformer, pipeline.scheduler)

    def loss(rows):
        objective.noise = StepNoise(0, 0, rows, 8)
        (update,) = objective.training_step({"input_ids": ids[rows]})
        return update.loss.item()

    parts = [loss(slice(0, 4)), loss(slice(4, 6)), loss(slice(6, 8))]
    assert (2 * parts[0] + parts[1] + parts[2]) / 4 == pytest.approx(loss(slice(0, 8)), rel=1e-6)
    for shares in ({"min_share": 0.5, "max_share": 0.4}, {"max_share": 1.5}, {"min_share": -1}):
        with pytest.raises(UsageError, match="--objective.min_share"):
            MaskedDiffusionObjective(pipeline.transformer, pipeline.scheduler, **shares)


def test_classes_are_symbols_in_front(tmp_path):
    made = tiny(MaskedLMPipeline, num_classes=3)
    made.save_pretrained(tmp_path)
    made = MaskedLMPipeline.from_pretrained(tmp_path)
    assert made.num_classes == 3
    ids = texts(made, 2)
    found = [made.log_likelihood(ids, torch.full((2,), k)).nats for k in range(3)]
    assert not torch.allclose(found[0], found[1], atol=1e-4)
    made.set_progress_bar_config(disable=True)
    drawn = [sample(made, range(8), torch.full((8,), k)) for k in range(3)]
    assert not torch.equal(drawn[0], drawn[1])
    assert all(ids.shape == (8, 12) and ids.max() < 7 for ids in drawn)
    with pytest.raises(UsageError, match="class-conditional"):
        made.log_likelihood(ids)


def test_diagnosis(pipeline):
    found = MaskedDiffusionObjective.diagnose(pipeline, {"input_ids": texts(pipeline)})
    (shown, f) = found.curves["cross_entropy_by_masked_places"]
    assert shown == list(range(1, 13))
    assert len(f) == 12
    assert found.values["nats_per_symbol"] == pytest.approx(sum(f) / 12)
    assert [row[0] for row in next(iter(found.tables.values()))[1]] == [1, 4, 12]


def test_sizes_in_bytes_and_characters():
    tokenizer = byte_tokenizer()
    made = tiny(MaskedLMPipeline)
    made.register_modules(tokenizer=tokenizer)
    text = "Grüße 世!"
    ids = torch.tensor([[*text.encode()], [*"aü".encode() * 4]])
    sizes = made.sizes_of(ids)
    assert sizes["byte"].tolist() == [12, 12]
    assert sizes["character"].tolist() == [len(text), 8]
    cut = torch.tensor([[*"世界".encode()[2:]]])  # the last byte of a character, and a whole one
    assert made.sizes_of(cut)["byte"].tolist() == [4]
    assert made.sizes_of(cut)["character"].tolist() == [1]


def test_mean_cross_entropy_counts_masked_places_only():
    log_probs = torch.log(torch.tensor([[[0.5, 0.5], [0.25, 0.75], [0.1, 0.9]]]))
    found = mean_cross_entropy(log_probs, torch.tensor([[0, 1, 0]]), torch.tensor([[True, False, True]]))
    assert float(found) == pytest.approx(-(math.log(0.5) + math.log(0.1)) / 2)
