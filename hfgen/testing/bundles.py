"""The law of bundled code: with it plain diffusers samples the same images as hfgen."""

import ast
import sys
import warnings
from pathlib import Path
from typing import Any, ClassVar

import pytest

from hfgen.pipeline import HFGenPipeline
from hfgen.repository.components import STACK
from hfgen.testing.culprits import assert_near


class BundleLaws:
    """Part of `FamilyTests`: the promise of `save_pretrained(..., bundle_code=True)`."""

    num_classes: ClassVar[int | None]
    sampling: ClassVar[dict[str, Any]]

    def build(self, num_classes: int | None = None) -> HFGenPipeline:
        raise NotImplementedError

    def test_bundled_code_draws_the_same(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Plain diffusers loads it, it imports neither hfgen nor the family, and hfgen loads the folder without it."""
        pipeline = self.build(self.num_classes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # saying that plain diffusers needs no code
            pipeline.save_pretrained(tmp_path / "saved", bundle_code=True)
        parts = {type(part).__module__.partition(".")[0] for part in pipeline.components.values() if part is not None}
        code = sorted((tmp_path / "saved").rglob("*.py"))
        if not code:
            assert parts <= set(STACK), "nothing was bundled of a family that plain diffusers cannot read"
            return
        for path in code:
            own = _imported(path) & {"hfgen", type(pipeline).__module__.partition(".")[0], *(parts - set(STACK))}
            assert not own, f"the bundled {path.name} imports {sorted(own)}"
        loaded: Any = load_by_its_code(tmp_path, monkeypatch)
        assert type(loaded).__module__.startswith("diffusers_modules.")
        again = HFGenPipeline.from_pretrained(tmp_path / "saved")
        assert type(again) is type(pipeline)
        expected = pipeline(seeds=[0, 1], output_type="pt", **self.sampling).images
        for who, other in {"plain diffusers": loaded, "hfgen": again}.items():
            images = other(seeds=[0, 1], output_type="pt", **self.sampling).images
            assert_near(images, expected, self._of_samples(), f"seeds 0 and 1 by the bundle, loaded by {who}")

    def _of_samples(self) -> float:
        raise NotImplementedError


def load_by_its_code(place: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Load `place / "saved"` with plain diffusers, which keeps its copies of the code in `place` too."""
    from diffusers import DiffusionPipeline
    from diffusers.utils import dynamic_modules_utils

    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(place / "modules"))
    try:
        return DiffusionPipeline.from_pretrained(place / "saved", trust_remote_code=True)
    finally:
        sys.path[:] = [entry for entry in sys.path if entry != str(place / "modules")]  # where diffusers has put it


def _imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names
