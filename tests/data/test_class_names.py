"""Classes of other data get the numbers that a model has for their names."""

from collections import Counter

import pytest
import torch
from PIL import Image

from hfgen.commands.class_labels import parse_classes
from hfgen.data.class_names import aligned
from hfgen.data.images import Images
from hfgen.errors import UsageError

ALIGNED = {
    "the same": (["cat", "dog"], [0, 1, -1], ["cat", "dog"], 2, [0, 1, -1]),
    "another order": (["dog", "cat"], [0, 1, -1], ["cat", "dog"], 2, [1, 0, -1]),
    "some of the classes": (["cat", "owl"], [0, 1], ["cat", "dog", "owl"], 3, [0, 2]),
    "a declared class without images": (["cat", "fox"], [0, 0], ["cat", "dog"], 2, [0, 0]),
    "another case": (["Dog"], [0], ["cat", "dog"], 2, [1]),
    "numbers with holes": (["1", "3"], [0, 1, 1], None, 4, [1, 3, 3]),
    "an order of folders as it was sorted once": (["1", "2", "10"], [0, 1, 2], ["1", "10", "2"], 3, [0, 2, 1]),
    "numbers of a model with words": (None, [0, 1], ["cat", "dog"], 2, [0, 1]),
    "words of a model with numbers": (["cat", "dog"], [0, 1], None, 2, [0, 1]),
    "numbers": (None, [0, 1], None, 3, [0, 1]),
    "a model without classes": (["cat", "dog"], [0, 1], None, None, [0, 1]),
}
REFUSED = {
    "another word": (["cat", "fox"], [0, 1], ["cat", "dog"], 2, "does not have: fox.\nIts classes are 0 cat, 1 dog"),
    "another number": (["1", "7"], [0, 1], ["1", "2"], 2, "does not have: 7"),
    "numbers where names are numbers": (None, [0, 1, 2], ["1", "2", "3"], 3, "does not have: 0"),
    "more numbers": (None, [0, 1, 2], ["cat", "dog"], 2, "has 3 classes, and the model has 2"),
}


def images_of(names, labels):
    label = torch.tensor(labels)
    return Images(
        name="data",
        mode="L",
        sizes=Counter({(4, 4): len(labels)}),
        count=len(labels),
        open_image=lambda index: Image.new("L", (4, 4)),
        labels=label,
        label_names=names,
    )


@pytest.mark.parametrize("case", ALIGNED)
def test_classes_are_found_by_name(case):
    names, labels, model_names, num_classes, right = ALIGNED[case]
    assert aligned(images_of(names, labels), model_names, num_classes).labels.tolist() == right


@pytest.mark.parametrize("case", REFUSED)
def test_classes_that_a_model_does_not_have_are_refused(case):
    names, labels, model_names, num_classes, message = REFUSED[case]
    with pytest.raises(UsageError, match=message):
        aligned(images_of(names, labels), model_names, num_classes)


@pytest.mark.parametrize(
    ("text", "names", "classes"),
    [
        ("shapes", ["digits", "shapes"], [1]),
        ("Shapes, 0,digits", ["digits", "shapes"], [1, 0, 0]),
        ("0-1", ["digits", "shapes"], [0, 1]),
        ("red, green", ["blue", "red, green"], [1]),
        ("3-d", ["2-d", "3-d"], [1]),
        ("1000003", ["1000001", "1000003"], [1]),
        ("1-3", ["1", "2", "3"], [0, 1, 2]),
        ("3,7-8", None, [3, 7, 8]),
    ],
)
def test_classes_are_typed_by_name_or_number(text, names, classes):
    assert parse_classes(text, names) == classes


def test_a_misspelt_class_is_told():
    with pytest.raises(UsageError, match="no class 'shape'. Did you mean 'shapes'"):
        parse_classes("shape", ["digits", "shapes"])
    with pytest.raises(UsageError, match="no class '4'. Known: 1, 2"):
        parse_classes("4", ["1", "2"])
    with pytest.raises(UsageError, match="It has 30 classes"):
        parse_classes("zzz", [f"class{i}x" for i in range(30)])
