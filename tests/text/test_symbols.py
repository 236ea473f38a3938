"""Symbols are drawn with the probabilities that they have: the fault of float32 Gumbel numbers is not here."""

import math

import pytest
import torch

from hfgen import UsageError
from hfgen_text.symbols import draw, entropies, log_probs_of, tempered

RARE = [9e-3, 9e-4, 1e-4, 0.0, 0.0]
P = torch.tensor([*RARE, 1 - sum(RARE)], dtype=torch.float64)


def test_every_number_of_float32_is_used():
    """Of 2^20 evenly spaced numbers each symbol has its share, to one of them."""
    uniform = torch.arange(1 << 20) / (1 << 20)
    found = torch.bincount(draw(P.log().expand(len(uniform), -1), uniform), minlength=6) / len(uniform)
    assert (found.double() - P).abs().max() <= 2**-20
    assert found[3] == found[4] == 0


def test_the_ends():
    first, last = torch.tensor([0.0]), torch.tensor([1 - 2**-24])
    p = torch.tensor([[0.0, 0.5, 0.5, 0.0]], dtype=torch.float64).log()
    assert draw(p, first).item() == 1
    assert draw(p, last).item() == 2
    assert draw(torch.tensor([[1e-30, 1.0]], dtype=torch.float64).log(), last).item() == 1


def gumbel_float32(q, terms=64):
    """Probability that a symbol of probability q is drawn in one step, beside the mask, by a float32 Gumbel number.

    The largest numbers that float32 has decide; the mask's own Gumbel number is exact.
    """
    u = 1 - torch.arange(1, terms + 1) * 2**-24  # float32
    assert u.dtype == torch.float32
    g = -torch.log(-torch.log(u)).double()
    return float((2**-24 * torch.exp(-(1 - q) * torch.exp(-(g + math.log(q))))).sum())


def test_the_gumbel_fault():
    """In 10^4 steps, in each of which symbols and mask compete, rare symbols are drawn less often, or never."""
    assert -torch.log(-torch.log(torch.tensor(1 - 2**-24))) == pytest.approx(16.64, abs=0.01)
    q = 1e-7
    assert gumbel_float32(q) == pytest.approx(0.73e-7, rel=0.02)  # a quarter less

    kept = {p: gumbel_float32(1e-4 * p, 1 << 20) / (1e-4 * p) for p in (9e-3, 9e-4, 1e-4)}
    assert kept == pytest.approx({9e-3: 0.967, 9e-4: 0.705, 1e-4: 0.015}, abs=0.005)
    found = draw(P.log().expand(1 << 20, -1), torch.arange(1 << 20) / (1 << 20))
    assert float((found == 1).double().mean()) == pytest.approx(9e-4, abs=2**-20)


def test_temperature_and_top_p():
    p = torch.tensor([[0.5, 0.3, 0.15, 0.05]], dtype=torch.float64)
    assert torch.equal(tempered(p.log()), p.log())
    cold = tempered(p.log(), temperature=0.5).exp()
    assert torch.allclose(cold, p.square() / p.square().sum())
    kept = tempered(p.log(), top_p=0.8).exp()
    assert torch.allclose(kept, torch.tensor([[0.625, 0.375, 0, 0]], dtype=torch.float64))
    assert torch.allclose(tempered(p.log(), top_p=0.81).exp()[0, 2], torch.tensor(0.15 / 0.95, dtype=torch.float64))
    assert tempered(p.log(), top_p=1e-9).exp().tolist() == [[1, 0, 0, 0]]


@pytest.mark.parametrize("wrong", [{"temperature": 0}, {"temperature": math.nan}, {"top_p": 0}, {"top_p": 1.1}])
def test_refused(wrong):
    with pytest.raises(UsageError, match=f"{next(iter(wrong))} is"):
        tempered(torch.zeros(1, 2), **wrong)


def test_symbols_that_no_text_has():
    """Neither the mask, nor what the network has beyond the symbols, however likely it is."""
    logits = torch.tensor([[1.0, 2.0, 50.0, 99.0]])
    found = log_probs_of(logits, 3, torch.tensor([2]))
    assert found.shape == (1, 3)
    assert torch.allclose(found[0, :2], torch.tensor([1.0, 2.0]).log_softmax(0))
    assert found[0, 2] == -math.inf
    assert log_probs_of(logits.half(), 3, torch.tensor([2])).dtype == torch.float32
    assert float(entropies(found)[0]) == pytest.approx(0.5822, abs=1e-4)
