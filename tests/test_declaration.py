"""Names in a family's class attributes that exist nowhere are refused when it is built."""

import pytest
from toy.toy_family import ToyPipeline

from hfgen import PluginError, list_families
from hfgen.declaration import require_known_names


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("ema_components", ("generatr",), r"Wrong.ema_components names 'generatr', but no component .* 'generator'"),
        ("ema_components", "critics", "names 'critics', but no component is called that. Did you mean 'critic'"),
        ("measured_on_request", ("log_likelihood",), "names 'log_likelihood', but no metric is called that"),
        ("_optional_components", ["critic", "teacher"], "_optional_components names 'teacher'"),
        ("some_later_components", {"teacher"}, "some_later_components names 'teacher'"),
    ],
)
def test_a_name_that_does_not_exist_is_refused(attribute, value, message):
    wrong = type("Wrong", (ToyPipeline,), {attribute: value})
    with pytest.raises(PluginError, match=message):
        wrong.build(4, 1)


def test_what_exists_is_built():
    right = {"ema_components": ("generator",), "measured_on_request": ("fid", "nats")}
    type("Right", (ToyPipeline,), right).build(4, 1)


def test_the_built_in_families_name_what_exists():
    for family in (family for family in list_families() if family.is_built_in):
        require_known_names(family.load())
