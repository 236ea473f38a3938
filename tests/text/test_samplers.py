"""Samplers of masked diffusion on Markov chains with their exact denoisers: the law that each draws from."""

import itertools

import pytest
import torch
from markov_texts import CHAIN_A, CHAIN_B, Chain, Rows

from hfgen import UsageError
from hfgen.noise import SeededNoise
from hfgen_text.curve import cosine_grid, uniform_grid
from hfgen_text.samplers import (
    Canvas,
    by_confidence,
    by_drawn_confidence,
    by_entropy,
    by_grid,
    grid_of,
    in_random_order,
    remasking,
    step_sizes,
)

COUNT = 40_000
A, B = Chain(CHAIN_A, 4), Chain(CHAIN_B, 4)


def blank(chain, noise, known=None, **options):
    count = noise.count if isinstance(noise, Rows) else len(noise)
    ids, places = (
        torch.zeros(count, chain.length, dtype=torch.int64),
        torch.zeros(count, chain.length, dtype=torch.bool),
    )
    for place, symbol in (known or {}).items():
        ids[:, place], places[:, place] = symbol, True
    return Canvas.of(ids, places, noise, chain.size, **options)


def sampled(chain, sample, known=None, count=COUNT, **options):
    noise = Rows(count)
    canvas = blank(chain, noise, known, **options)
    sample(chain.predict, canvas, noise)
    assert not canvas.masked.any()
    assert (canvas.ids < chain.size).all()  # the mask is never a symbol
    return canvas.ids


SIZES = [(A, 1, 0.385273), (A, 2, 0.049325), (A, 3, 0.009231), (A, 4, 0.0), (A, None, 0.0), (B, 1, 0.580047)]
SIZES += [(B, None, 0.0)]


@pytest.mark.parametrize(("chain", "steps", "kl"), SIZES)
def test_random_order(chain, steps, kl):
    found = sampled(chain, lambda predict, canvas, _: in_random_order(predict, canvas, steps))
    assert chain.kl(found) == pytest.approx(kl, abs=0.004 + 0.02 * kl)


BERNOULLI = {
    (A, uniform_grid): {1: 0.385273, 2: 0.097632, 4: 0.026109, 16: 0.001791},
    (A, cosine_grid): {2: 0.117307, 4: 0.034683, 16: 0.002523},
    (B, uniform_grid): {2: 0.150651, 4: 0.042067, 16: 0.003087},
    (B, cosine_grid): {2: 0.178157, 4: 0.054971, 16: 0.004302},
}
GRIDS = [(chain, grid, steps, kl) for (chain, grid), found in BERNOULLI.items() for steps, kl in found.items()]


@pytest.mark.parametrize(("chain", "grid", "steps", "kl"), GRIDS)
def test_bernoulli_grids(chain, grid, steps, kl):
    found = sampled(chain, lambda predict, canvas, _: by_grid(predict, canvas, grid(steps)))
    assert chain.kl(found) == pytest.approx(kl, abs=0.002 + 0.04 * kl)


@pytest.mark.parametrize("chain", [A, B])
def test_confidence_before_a_symbol_is_drawn_keeps_the_law(chain):
    """And the least entropy, one place a step."""
    found = sampled(chain, lambda predict, canvas, _: by_confidence(predict, canvas, None))
    assert chain.kl(found) < 0.004
    found = sampled(chain, lambda predict, canvas, _: by_entropy(predict, canvas, 0.0))
    assert chain.kl(found) < 0.004
    found = sampled(chain, lambda predict, canvas, _: by_entropy(predict, canvas, 99.0))
    assert chain.kl(found) == pytest.approx({A: 0.385273, B: 0.580047}[chain], rel=0.04)  # one step


@pytest.mark.parametrize(("chain", "kl", "entropy"), [(A, 1.168990, 0.899132), (B, 1.389316, 1.686405)])
def test_confidence_of_drawn_symbols_has_another_law(chain, kl, entropy):
    found = sampled(chain, lambda predict, canvas, noise: by_drawn_confidence(predict, canvas, None, noise))
    law = chain.law_by_drawn_confidence()
    assert float((chain.p * (chain.p / law).log()).sum()) == pytest.approx(kl, abs=1e-6)
    assert float(-torch.special.xlogy(law, law).sum()) == pytest.approx(entropy, abs=1e-6)
    assert float((chain.law_of(found) - law).abs().sum()) < 0.05


@pytest.mark.parametrize("rule", ["cap", "rescale"])
@pytest.mark.whole
def test_remasking_keeps_the_share_that_is_masked(rule):
    """At each time as many places are masked as without it; in many steps the law is the chain's."""
    shares = []

    def predict(ids):
        shares.append(float((ids == 2).double().mean()))
        return A.predict(ids)

    noise = Rows(COUNT)
    canvas = blank(A, noise)
    remasking(predict, canvas, uniform_grid(8), 0.3, rule, noise)
    assert shares == pytest.approx(uniform_grid(8)[:-1], abs=0.01)
    assert not canvas.masked.any()
    found = sampled(A, lambda predict, canvas, noise: remasking(predict, canvas, uniform_grid(64), 0.05, rule, noise))
    assert A.kl(found) < 0.005
    plain = sampled(A, lambda predict, canvas, noise: remasking(predict, canvas, uniform_grid(2), 0.0, rule, noise))
    assert A.kl(plain) == pytest.approx(0.097632, abs=0.006)  # without remasking: Bernoulli steps


@pytest.mark.parametrize("known", [{0: 1}, {3: 0}, {1: 0, 2: 1}, {0: 0, 1: 0, 2: 0, 3: 0}])
def test_known_places_condition_the_law(known):
    seen = []

    def predict(ids):
        seen.append(ids)
        return A.predict(ids)

    found = sampled(A, lambda _, canvas, __: in_random_order(predict, canvas, None), known)
    fits = torch.stack([A.texts[:, place] == symbol for place, symbol in known.items()]).all(0)
    p, q = A.p * fits / (A.p * fits).sum(), A.law_of(found)
    assert float(torch.special.xlogy(q, q / p).nan_to_num().sum()) < 0.004
    assert all((ids[:, place] == symbol).all() for ids in seen for place, symbol in known.items())
    assert len(seen) == 4 - len(known)  # a call for each unknown place


def test_visible_places_never_change():
    noise, before = Rows(100), []

    def predict(ids):
        if before:
            assert ((ids == before[-1]) | (before[-1] == 2)).all()
        before.append(ids)
        return A.predict(ids)

    in_random_order(predict, blank(A, noise), None)
    masked = [int((ids[0] == 2).sum()) for ids in before]
    assert masked == [4, 3, 2, 1]


def test_steps_that_open_nothing_call_no_network():
    calls = []
    noise = Rows(1)
    by_grid(lambda ids: calls.append(1) or A.predict(ids), blank(A, noise), uniform_grid(1000))
    assert len(calls) <= 4


def test_a_text_is_its_seed_alone():
    """In any batch, also where other texts have other known places and other numbers of steps are asked for."""
    whole = SeededNoise.from_seeds(range(16))
    canvas = blank(B, whole)
    in_random_order(B.predict, canvas, None)
    for samples in ([3], [3, 11], [11, 3, 5]):
        noise = SeededNoise.from_seeds(samples)
        own = blank(B, noise)
        in_random_order(B.predict, own, None)
        assert torch.equal(own.ids, canvas.ids[samples])
    for sample in (
        lambda canvas, noise: by_entropy(B.predict, canvas, 0.5),
        lambda canvas, noise: by_grid(B.predict, canvas, uniform_grid(3)),
        lambda canvas, noise: remasking(B.predict, canvas, uniform_grid(5), 0.2, "cap", noise),
        lambda canvas, noise: by_drawn_confidence(B.predict, canvas, 2, noise),
        lambda canvas, noise: by_confidence(B.predict, canvas, 3),
    ):
        found = []
        for seeds in (range(16), [3], [11, 3]):
            noise = SeededNoise.from_seeds(seeds)
            own = blank(B, noise)
            sample(own, noise)
            found.append(own.ids)
        assert torch.equal(found[1][0], found[0][3])
        assert torch.equal(found[2], found[0][[11, 3]])


def test_sizes_of_steps_with_known_places():
    canvas = blank(A, Rows(2), {0: 0})
    assert step_sizes(canvas, None)[0].tolist() == [1, 2, 3]
    assert step_sizes(canvas, 2)[0].tolist() == [1, 3]
    assert step_sizes(canvas, 9)[0].tolist() == [1, 2, 3, 3, 3, 3, 3, 3, 3]


def test_temperature_goes_to_the_likeliest_text():
    found = sampled(A, lambda predict, canvas, _: by_confidence(predict, canvas, None), temperature=1e-3, count=50)
    assert all(torch.equal(row, found[0]) for row in found)


def test_unknown_grid():
    assert grid_of("cosine", 3) == cosine_grid(3)
    with pytest.raises(UsageError, match="grid is 'linear'"):
        grid_of("linear", 3)


def test_the_chain_itself():
    for before, after in itertools.pairwise([A.predict(torch.tensor([[0, 2, 2, 2]])).exp()[0, i] for i in (1, 2)]):
        assert not torch.allclose(before, after)
    assert A.predict(torch.tensor([[0, 2, 2, 2]])).exp()[0, 1].tolist() == pytest.approx([0.8, 0.2])
