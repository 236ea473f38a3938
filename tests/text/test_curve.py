"""The curve f(n) of Markov chains with their exact denoisers, and every bound that follows from it."""

import math

import pytest
import torch
from markov_texts import CHAIN_A, CHAIN_B, Chain

from hfgen_text.curve import (
    best_sizes,
    bound_of_grid,
    bound_of_sizes,
    cosine_grid,
    equal_sizes,
    estimate,
    measured_curve,
    nelbo,
    uniform_grid,
)
from hfgen_text.masking import counts_of, masked_places, mean_cross_entropy, strata

CASES = {
    ("A", 3): (1.762186017, 2.019035001, [0.512192, 0.576983, 0.673012]),
    ("A", 4): (2.306773192, 2.692046668, [0.495994, 0.540678, 0.597089, 0.673012]),
    ("B", 4): (3.695743895, 4.275791286, [0.803748, 0.869544, 0.953505, 1.068948]),
    ("B", 5): (4.596364294, 5.367596134, [0.794591, 0.844794, 0.904842, 0.978617, 1.073519]),
}
BERNOULLI = {
    ("A", 3): {2: 1.886706, 4: 1.823470, 16: 1.777324, 1000: 1.762427},
    ("A", 4): {2: 2.491601, 4: 2.397235, 16: 2.329022, 1000: 2.307127},
    ("B", 4): {2: 3.973356, 4: 3.831447, 16: 3.729088, 1000: 3.696274},
    ("B", 5): {2: 4.963612, 4: 4.775348, 16: 4.640238, 1000: 4.597062},
}


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}{case[1]}")
def case(request):
    return request.param


def chain_of(case, power=1.0):
    return Chain({"A": CHAIN_A, "B": CHAIN_B}[case[0]], case[1], power)


def test_the_exact_denoiser(case):
    entropy, marginals, f = CASES[case]
    chain = chain_of(case)
    assert chain.entropy == pytest.approx(entropy, abs=1e-9)
    assert chain.curve() == pytest.approx(f, abs=1e-6)
    assert nelbo(chain.curve()) == pytest.approx(entropy, abs=1e-9)
    assert bound_of_sizes(chain.curve(), [case[1]]) == pytest.approx(marginals, abs=1e-9)
    of_each = chain.curve_of_each().sum(1)
    assert torch.allclose(of_each, -chain.p.log(), atol=4e-15, rtol=1e-14)  # for every text, not only in the mean


def test_bernoulli_steps(case):
    f = chain_of(case).curve()
    for steps, bound in BERNOULLI[case].items():
        assert bound_of_grid(f, uniform_grid(steps)) == pytest.approx(bound, abs=1e-6)
    assert bound_of_grid(f, [1.0, 0.0]) == pytest.approx(CASES[case][1], abs=1e-9)
    for steps in (2, 3):
        assert bound_of_sizes(f, equal_sizes(case[1], steps)) < bound_of_grid(f, uniform_grid(steps))


def test_sizes_of_steps():
    f = chain_of(("A", 4)).curve()
    bounds = {(4,): 2.692047, (2, 2): 2.427380, (1, 3): 2.464280, (3, 1): 2.515029, (1, 1, 2): 2.351458}
    bounds |= {(2, 1, 1): 2.382695, (1, 1, 1, 1): 2.306773}
    for sizes, bound in bounds.items():
        assert bound_of_sizes(f, sizes) == pytest.approx(bound, abs=1e-6)
    assert best_sizes(f, 2) == [2, 2]
    assert best_sizes(f, 3) == [1, 1, 2]
    assert best_sizes(f, 9) == [1, 1, 1, 1]
    for sizes in ([1, 2], [4, 1], [0, 4]):
        with pytest.raises(ValueError, match="do not reveal"):
            bound_of_sizes(f, sizes)


def test_an_imperfect_denoiser():
    chain = chain_of(("A", 4), power=0.5)
    assert chain.curve() == pytest.approx([0.536835, 0.573988, 0.619433, 0.678003], abs=1e-6)
    of_each = chain.curve_of_each().sum(1)
    assert float((chain.p * of_each).sum()) == pytest.approx(2.408259, abs=1e-6)
    assert float((-of_each).exp().sum()) == pytest.approx(0.999071, abs=1e-6)


@pytest.mark.parametrize("draws", [1, 4, 16])
@pytest.mark.whole
def test_the_estimate_is_unbiased(draws):
    """The mean of many estimates, each of a few numbers of places, is the bound itself."""
    chain, count = chain_of(("A", 4), power=0.5), 60_000
    generator = torch.Generator().manual_seed(draws)
    texts = chain.texts[torch.multinomial(chain.p, count, True, generator=generator)]
    counts = counts_of(strata(torch.rand(count, draws, generator=generator)), 4)
    masked = masked_places(torch.rand(count * draws, 4, generator=generator), counts.flatten())
    whole = texts.repeat_interleave(draws, dim=0)
    nats = mean_cross_entropy(chain.predict(whole.masked_fill(masked, 2)), whole, masked).view(count, draws)
    found = estimate(nats, 4)
    assert float(found.mean()) == pytest.approx(2.408259, abs=4 * float(found.std()) / count**0.5)
    if draws == 4:  # one in each stratum: every number of places once
        assert measured_curve(counts.flatten(), nats.flatten(), 4, 4) == pytest.approx(chain.curve(), abs=0.01)


def test_a_network_that_knows_nothing():
    """f is ln V, and every draw with an exact number of places gives L ln V, whatever the masks."""
    ids = torch.randint(27, (8, 64))
    log_probs = torch.full((8, 64, 27), -math.log(27), dtype=torch.float64)
    masked = masked_places(torch.rand(8, 64), counts_of(torch.rand(8), 64))
    bits = estimate(mean_cross_entropy(log_probs, ids, masked).unsqueeze(1), 64) / 64 / math.log(2)
    assert torch.allclose(bits, torch.full((8,), 4.754888, dtype=torch.float64), atol=1e-6)
    for bound in (nelbo, lambda f: bound_of_grid(f, cosine_grid(7)), lambda f: bound_of_sizes(f, [60, 4])):
        assert bound([math.log(27)] * 64) == pytest.approx(64 * math.log(27), rel=1e-12)


def test_grids():
    for grid in (uniform_grid(5), cosine_grid(5)):
        assert (grid[0], grid[-1], len(grid)) == (1, 0, 6)
        assert sorted(grid, reverse=True) == grid
    assert cosine_grid(2)[1] == pytest.approx(math.cos(math.pi / 4))


def test_a_measured_curve_is_straight_between_bins():
    counts = torch.arange(1, 129)
    assert measured_curve(counts, counts.double(), 128) == pytest.approx(list(range(1, 129)))
    assert measured_curve(torch.tensor([5]), torch.tensor([2.0]), 8) == [2.0] * 8
