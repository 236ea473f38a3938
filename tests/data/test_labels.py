"""Labels as data have them become classes, or are refused with the reason."""

from decimal import Decimal

import numpy as np
import pytest

from hfgen.data.labels import classes_of
from hfgen.errors import UsageError

nan = float("nan")
MAPPED = {
    "numbers 0 to n - 1": ([0, 1, 2, 1], [0, 1, 2, 1], None),
    "the same as an array": (np.array([0, 1, 2, 1], np.uint8), [0, 1, 2, 1], None),
    "whole floats": ([0.0, 1.0, 0.0], [0, 1, 0], None),
    "decimals": ([Decimal("1.0"), Decimal("0")], [1, 0], None),
    "from 1": ([1, 2, 3, 1], [0, 1, 2, 0], ["1", "2", "3"]),
    "with holes": (np.array([0, 7, 3]), [0, 2, 1], ["0", "3", "7"]),
    "ids of a million": ([1_000_003, 1_000_001, 1 << 70], [1, 0, 2], ["1000001", "1000003", str(1 << 70)]),
    "unsigned of 64 bits": (np.array([2**64 - 1, 5], np.uint64), [1, 0], ["5", str(2**64 - 1)]),
    "words": (["dog", "cat", "dog"], [1, 0, 1], ["cat", "dog"]),
    "words with numbers": (["b10", "b2", "A1"], [2, 1, 0], ["A1", "b2", "b10"]),
    "words of numpy": (np.array(["dog", "cat"]), [1, 0], ["cat", "dog"]),
    "bytes": ([b"dog", b"cat"], [1, 0], ["cat", "dog"]),
    "digits as text": (["10", "0", "2"], [2, 0, 1], ["0", "2", "10"]),
    "digits with zeros before": (["010", "002"], [1, 0], ["002", "010"]),
    "floats as text": (["0.0", "1.0", "1"], [0, 1, 1], ["0", "1"]),
    "floats with a comma": (["1,0", "0,0"], [1, 0], ["0", "1"]),
    "booleans": ([True, False], [1, 0], ["False", "True"]),
    "booleans of numpy": (np.array([True, False]), [1, 0], ["False", "True"]),
    "-1 and 1": (np.array([-1, 1, 1], np.int8), [0, 1, 1], ["-1", "1"]),
    "numbers and words": ([3, "cat", 10], [0, 2, 1], ["3", "10", "cat"]),
    "spaces around, two forms of an accent": ([" caf\u00e9", "cafe\u0301 ", "a\nb"], [1, 1, 0], ["a b", "caf\u00e9"]),
    "a column of shape (N, 1)": (np.array([[1], [0]]), [1, 0], None),
    "lists of one": ([[3], [5]], [0, 1], ["3", "5"]),
    "one-hot rows": ([[0, 1, 0], [1, 0, 0], [0, 0, 1]], [1, 0, 2], None),
    "one-hot floats": (np.eye(3)[[2, 0, 1]], [2, 0, 1], None),
    "None among numbers": ([0, None, 1], [0, -1, 1], None),
    "NaN among floats": ([0.0, nan, 1.0], [0, -1, 1], None),
    "empty texts among words": (["cat", "", " ", "nan"], [0, -1, -1, -1], ["cat"]),
    "-1 among numbers": ([0, -1, 1], [0, -1, 1], None),
    "-1 among texts": (["0", "-1", "1"], [0, -1, 1], ["0", "1"]),
    "a row of zeros among one-hot rows": ([[0, 1], [0, 0], [1, 0]], [1, -1, 0], None),
    "an empty list": ([["cat"], [], ["dog"]], [0, -1, 1], ["cat", "dog"]),
}


@pytest.mark.parametrize("case", MAPPED)
def test_labels_become_classes(case):
    values, labels, names = MAPPED[case]
    found = classes_of(values)
    assert found.labels.tolist() == labels
    assert found.labels.dtype.itemsize == 8
    assert found.names == names
    assert (found.missing is not None) == (-1 in labels)


def test_declared_names_are_kept_whether_they_have_images_or_not():
    found = classes_of([2, 0, -1, None], ["a", "b", "c"])
    assert (found.labels.tolist(), found.names) == ([2, 0, -1, -1], ["a", "b", "c"])
    assert found.notes == ["1 of 3 declared classes have no image: b"]
    assert classes_of(["c", "a", ""], ["a", "b", "c"]).labels.tolist() == [2, 0, -1]


def test_what_was_mapped_and_what_is_missing_is_told():
    found = classes_of(["dog", "cat", None], column="kind", row=lambda i: f"row {i} (img_{i}.png)")
    assert found.notes == ["classes of 'kind': 0 cat, 1 dog"]
    assert found.missing == "1 of 3 images have no label in 'kind': row 2 (img_2.png)"
    assert classes_of([str(i % 20) + "x" for i in range(20)]).notes[0].endswith("7 = 7x ... 19 = 19x")
    assert classes_of(["Cat", "cat"]).notes[1] == "the classes Cat and cat differ only in case"
    assert classes_of([0, 1, 2]).notes == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 0.37], r"a number with a fraction, which is not a class: 0.37 \(row 1\)"),
        ([0.0, float("inf")], "a number with a fraction"),
        ([[1, 1, 0], [0, 1, 0]], r"several labels for 1 of 2 images, first for row 0: \[1, 1, 0\]"),
        ([["cat"], ["cat", "dog"], []], "several labels for 1 of 3 images, first for row 1"),
        ([[0.2, 0.8], [0.5, 0.5]], "several labels for 2 of 2"),
        (np.zeros((2, 4, 4)), "several labels"),
        ([{"x": 1}], "a dict, which is not a class"),
        ([None, nan, ""], "no row has a label in 'label'"),
        ([-1, -1], "no row has a label"),
    ],
)
def test_what_is_no_class_is_refused_with_the_reason(values, message):
    with pytest.raises(UsageError, match=message):
        classes_of(values)


def test_numbers_outside_the_declared_classes_are_refused():
    with pytest.raises(UsageError, match=r"declares 2 classes \(0 a, 1 b\); row 1 holds 5"):
        classes_of([0, 5], ["a", "b"])
    with pytest.raises(UsageError, match="row 0 holds 'z'"):
        classes_of(["z"], ["a", "b"])
