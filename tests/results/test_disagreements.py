"""Errors on results that do not compare: what differs, and the command that measures again."""

import pytest

from hfgen.errors import UsageError
from hfgen.results.comparison import compare
from hfgen.results.protocol import read_protocol


@pytest.mark.parametrize(
    ("field", "value", "shown", "remedy"),
    [
        ("protocol.num_images", 20, "num_images 50 / 20", "evaluate b --protocol few.yaml --num_images 50"),
        ("protocol.seed", 7, "seed 0 / 7", "--seed 0"),
        ("protocol.likelihood_images", 3, "likelihood_images 1000 / 3", "--num_likelihood_images 1000"),
        ("protocol.nearest_k", 3, "nearest_k 5 / 3", "a file with nearest_k: 5"),
        ("reference.sha256", "0" * 64, "... / 000000000000...", "--dataset_name data"),
        ("extractor.weights_sha256", "0" * 64, "extractor.weights_sha256 ", "--extractor_weights THE-SAME-FILE"),
        ("versions.torchmetrics", "0.1", " / 0.1", "With torchmetrics=="),
        ("versions.prdc", "0.1", "versions.prdc ", "With prdc=="),
    ],
)  # fmt: skip
def test_other_rules_do_not_compare(put, hfgen, field, value, shown, remedy):
    put("a"), put("b", {field: value})
    code, out, err = hfgen("compare", "a", "b")
    assert (code, out) == (2, "")
    flat = " ".join(err.split())
    assert "a and b were measured by different rules, so their values do not compare" in flat
    assert shown in flat
    assert remedy in flat
    assert len(err.splitlines()) <= 6


@pytest.mark.parametrize(("first", "remedy"), [({}, ""), ({"num_images": 500}, " --num_images 500")])
def test_a_protocol_that_comes_with_hfgen_needs_no_file(put, first, remedy):
    real = read_protocol("mnist-v1").to_dict()
    targets = [put("a", {"protocol": {**real, **first}}), put("b", {"protocol": {**real, "nearest_k": 3}})]
    with pytest.raises(UsageError) as error:
        compare(targets)
    assert str(error.value).endswith(f"Measure again: hfgen evaluate {targets[1]} --protocol mnist-v1{remedy}")


def test_a_field_that_only_one_protocol_has(put):
    with pytest.raises(UsageError, match="new_rule None / 1"):
        compare([put("a"), put("b", {"protocol.new_rule": 1})])


def test_all_that_differs_is_told(put):
    other = {"protocol.seed": 7, "protocol.num_images": 20, "versions.prdc": "0.1"}
    with pytest.raises(UsageError) as error:
        compare([put("a"), put("b", other)])
    assert all(
        word in str(error.value) for word in ("seed 0 / 7", "num_images 50 / 20", "versions.prdc ", "With prdc==")
    )
