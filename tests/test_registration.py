"""Families registered by hand, as notebooks and tests do."""

import pytest
from plugin_site import install_family, on_path

from hfgen import HFGenPipeline, registry
from hfgen.errors import UsageError

BUILT_IN = next(family for family in registry.list_families() if family.is_built_in)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """An empty site-packages, and nothing registered."""
    monkeypatch.delenv("HFGEN_PLUGINS", raising=False)
    monkeypatch.setattr(registry, "_registered", {})
    with on_path(tmp_path):
        yield tmp_path


def names():
    return [family.name for family in registry.list_families()]


class HandPipeline(HFGenPipeline):
    """Of a notebook."""


def test_register_by_hand(site):
    registry.register_family("hand", HandPipeline)
    registry.register_family("hand", HandPipeline)
    assert names().count("hand") == 1
    assert registry.get_family("hand").load() is HandPipeline
    assert registry.find_by_class("HandPipeline").name == "hand"
    assert registry.family_of(HandPipeline).name == "hand"


def test_a_taken_name_or_class_name_is_refused(site):
    install_family(site, "toys", {"toy": "ToyPipeline"})
    for name in (BUILT_IN.name, "toy"):
        with pytest.raises(UsageError, match=f"'{name}' .* is taken by '{name}' of "):
            registry.register_family(name, HandPipeline)
    for class_name in (BUILT_IN.class_name, "ToyPipeline"):
        with pytest.raises(UsageError, match=rf"\({class_name}\) is taken by "):
            registry.register_family("hand", type(class_name, (HFGenPipeline,), {}))
    registry.register_family("hand", HandPipeline)
    with pytest.raises(UsageError, match=r"'hand' .* is taken by 'hand'"):
        registry.register_family("hand", type("OtherPipeline", (HFGenPipeline,), {}))
    assert names().count("hand") == 1
    assert registry.get_family("hand").load() is HandPipeline


def test_one_class_under_two_names_still_loads(site):
    registry.register_family("hand", HandPipeline)
    registry.register_family("other-hand", HandPipeline)
    assert registry.find_by_class("HandPipeline").load() is HandPipeline


@pytest.mark.parametrize("value", [3, dict, "HandPipeline", object()], ids=["int", "dict", "str", "object"])
def test_only_a_pipeline_class_can_be_registered(site, value):
    with pytest.raises(UsageError, match="HFGenPipeline"):
        registry.register_family("hand", value)
    assert "hand" not in names()
