"""Plots of metrics: panels and their axes."""

import doctest

import pytest
from PIL import Image

from hfgen.training import plots, progress


@pytest.mark.parametrize("module", [plots, progress])
def test_docstring_examples(module):
    result = doctest.testmod(module)
    assert (result.attempted > 0, result.failed) == (True, 0)


@pytest.mark.parametrize(("count", "size"), [(2, (960, 768)), (10, (1440, 1440))])
@pytest.mark.whole
def test_many_panels_are_in_two_columns(tmp_path, count, size):
    lines = [{"step": step, **{f"value_{i}": float(step * i) for i in range(count)}} for step in (1, 2, 3)]
    plots.plot_curves(lines, tmp_path / "loss.png")
    with Image.open(tmp_path / "loss.png") as image:
        assert image.size == size
