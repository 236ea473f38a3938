"""Bundled code of a plugin whose package exports its names lazily, by a module's `__getattr__` (PEP 562)."""

import numpy as np
import pytest
from plugin_site import TOY, install, on_path

from hfgen.errors import UsageError
from hfgen.testing.bundles import load_by_its_code

LAZY = """
import importlib
HOME = {"ToyCritic": "networks", "ToyGenerator": "networks", "half": "scale", "LIMIT": "scale"}
def __getattr__(name):
    if name not in HOME:
        raise AttributeError(name)
    return getattr(importlib.import_module(f"{__name__}.{HOME[name]}"), name)
"""
SCALE = "LIMIT = 0.5\ndef half(call: object):\n    return lambda x: call(x) / 2\n"


def build(site, package, used):
    """A toy pipeline of a package whose module `family` uses one more lazy name, with the expression `used`."""
    start, pipeline = TOY.split("class ToyPipeline")
    imported = f"from {package} import LIMIT, ToyCritic, ToyGenerator, half as scaled\n"
    head = f"from torch import Tensor\nfrom hfgen import HFGenPipeline, PriorScheduler\n{imported}"
    family = f"{head}class ToyPipeline{pipeline}".replace("return self.generator(", f"return {used}(self.generator)(")
    modules = {f"{package}.networks": start, f"{package}.scale": SCALE, f"{package}.family": family}
    install(site, package.replace("_", "-"), {package: f"{package}.family:ToyPipeline"}, modules)
    (site / package / "__init__.py").write_text(LAZY)


def test_a_lazy_export_is_followed_to_its_module(tmp_path, monkeypatch):
    build(tmp_path / "site", "lazy_toy", "scaled")
    with on_path(tmp_path / "site"):
        pipeline = __import__("lazy_toy.family").family.ToyPipeline.build(4, 1)
        pipeline.save_pretrained(tmp_path / "saved", bundle_code=True)
        loaded = load_by_its_code(tmp_path, monkeypatch)
    expected = pipeline(seeds=[0], output_type="np").images
    assert 0.25 <= expected.min() <= expected.max() <= 0.75
    assert np.abs(loaded(seeds=[0], output_type="np").images - expected).max() <= 1e-5
    text = next((tmp_path / "saved").glob("*.py")).read_text()
    assert "scaled = half" in text
    assert "lazy_toy import" not in text


def test_a_lazy_value_that_does_not_name_its_module(tmp_path):
    build(tmp_path / "site", "lazy_number", "(lambda call: lambda x: call(x) * LIMIT)")
    with on_path(tmp_path / "site"):
        pipeline = __import__("lazy_number.family").family.ToyPipeline.build(4, 1)
        with pytest.raises(UsageError, match="imports LIMIT, which lazy_number does not define"):
            pipeline.save_pretrained(tmp_path / "saved", bundle_code=True)
        assert not (tmp_path / "saved").exists()
