"""Marks of the best values: only where it is separable, and likelihoods within a kind."""

import pytest
from compared import BOUND, EXACT, likelihood, marks

from hfgen.commands.compare import text
from hfgen.results.comparison import compare
from hfgen.results.rows import judge


@pytest.mark.parametrize(
    ("values", "lower", "expected"),
    [
        ([(1.0, 0.1), (1.41, 0.1)], True, ["best", None]),
        ([(1.0, 0.1), (1.39, 0.1)], True, ["not separable", "not separable"]),
        ([(1.0, 0.1), (1.41, 0.1)], False, [None, "best"]),
        ([(3.0, 0.1), (1.0, 0.1), (1.2, 0.1)], True, [None, "not separable", "not separable"]),
        (
            [(1.0, 0.1), (2.0, 0.1), (5.0, 3.0)],
            True,
            ["not separable", None, "not separable"],
        ),  # the third, not the second
        ([(1.0, 0.0), (2.0, 0.0)], True, ["best", None]),
        ([(1.0, None), (2.0, 0.1)], True, [None, None]),
        ([(1.0, 0.1)], True, [None]),
    ],
)
def test_the_best_only_where_it_is_separable(values, lower, expected):
    assert judge(values, lower) == expected


def test_what_has_no_error_or_no_better_is_not_ranked(put):
    names = [put("a", fid=(1, 0.1)), put("b", {"values.recall": {"value": 0.9}}, fid=(2, 0.1))]
    c = compare(names)
    assert marks(c, "fid") == {"a": "best", "b": None}
    for metric in ("recall", "seconds_per_image", "parameters", "authenticity"):
        assert marks(c, metric) == {"a": None, "b": None}


def test_a_method_in_its_former_spelling_is_the_same(put):
    ways = [{**EXACT, "kind": "estimate", "method": f"ODE; uniform dequant{end}"} for end in ("isation", "ization")]
    c = compare([put(f"of {value}", likelihood(way, value)) for way, value in zip(ways, (1.5, 1.0), strict=True)])
    assert marks(c, "bits_per_dim") == {"of 1.5": None, "of 1.0": "best"}
    assert {row.likelihood["method"] for row in c.rows} == {"ODE; uniform dequantization"}


def test_likelihoods_are_ranked_within_a_kind(put):
    told = {"bound 2.0": (BOUND, 2.0), "bound 1.5": (BOUND, 1.5), "exact 1.7": (EXACT, 1.7), "exact 1.9": (EXACT, 1.9)}
    told["of 2 values"] = ({**EXACT, "num_values": 2}, 0.2)
    told["K = 500"] = ({**BOUND, "num_importance_samples": 500}, 1.1)
    told["estimate"] = ({**EXACT, "kind": "estimate"}, 1.0)
    c = compare([put(name, likelihood(*value)) for name, value in told.items()])
    expected = dict.fromkeys(told) | {"bound 1.5": "best", "exact 1.7": "best"}
    assert marks(c, "bits_per_dim") == marks(c, "nats") == expected
    out = text(c)
    assert "<= 1.500 +- 0.010 *" in out
    assert ">= -814.500 +- 0.010 *" in out
    assert "  1.700 +- 0.010 *" in out
    assert "about 1.000 +- 0.010" in out
    assert "lower bound, 500 importance samples, of 256 values, 20 images" in out
    assert "exact, of 2 values, 20 images" in out
    assert "kind, method and number of values" in out
