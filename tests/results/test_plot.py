"""Plots of quality against time."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from hfgen.results.comparison import compare
from hfgen.results.plot import figure


def test_plots_as_files(evil, hfgen):
    assert hfgen("compare", *evil, "--output", "a.png")[0] == 0
    with Image.open("a.png") as image:
        assert (image.format, image.size) == ("PNG", (960, 600))
    assert hfgen("compare", *evil, "--output", "a.svg")[0] == 0
    assert ElementTree.parse("a.svg").getroot().tag.endswith("svg")
    tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse("a.svg").iter()}
    assert not tags & {"script", "image", "foreignObject", "a"}
    assert Path("a.svg").read_bytes().count(b"<script") == 0


def lines_of(drawn):
    return {bar.get_label(): bar for bar in drawn.axes[0].containers}


def test_a_line_through_the_numbers_of_steps(put):
    for steps in (100, 9, 20):
        put("walk", steps=steps, stem=f"steps{steps}", fid=(200 / steps, 0.5))
    seconds = {"values.seconds_per_image": {"value": 0.001}}
    c = compare(
        [put("a", seconds, fid=(5, 0.1)), put("walk", steps=30, stem="ode", fid=(1, 0.5)), put("_b$x", seconds)]
    )
    drawn = figure(c)
    axes, lines = drawn.axes[0], lines_of(drawn)
    assert list(lines) == ["a", "walk", r" _b\$x"]
    x, y = lines["walk"].lines[0].get_data()
    assert list(x) == [0.09, 0.2, 0.3, 1.0]
    assert list(y) == [200 / 9, 10, 1, 2]
    bars = lines["walk"].lines[2][0].get_segments()
    assert bars[1][0][1] == pytest.approx(9.0)  # two errors below
    assert bars[1][1][1] == pytest.approx(11.0)
    assert [note.get_text() for note in axes.texts] == ["9", "20", "30", "100"]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    floor = [line for line in axes.lines if line.get_label() == "real images (the floor)"]
    assert list(floor[0].get_ydata()) == [c.floor["fid"]["value"]] * 2
    assert {words.get_text() for words in drawn.legends[0].texts} == {*lines, "real images (the floor)"}


def test_near_values_stay_on_a_plain_axis(put):
    floor = {"floor.fid": {"value": 1.5}, "values.seconds_per_image": {"value": 1.0}}
    axes = figure(compare([put("a", floor, fid=(2, 0.1)), put("b", floor, fid=(3, 0.1))])).axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "linear")


def test_solvers_and_machines_are_lines_of_their_own(put):
    put("walk", steps=9, stem="9")
    put("walk", steps=10, stem="10")
    scheduler = {"sampler.scheduler": "Other", "sampler.options": {"num_inference_steps": 10}}
    put("walk", {**scheduler, "sampler.config": {"order": 2}}, stem="other")
    c = compare([put("walk", {"hardware.processor": "Abacus"}, steps=20, stem="20")])
    assert [row.sampler for row in c.rows] == ["Other, 10 steps", *(f"Stepping, {k} steps" for k in (9, 10, 20))]
    assert len(lines_of(figure(c))) == 3
    assert all(label.endswith((" (a)", " (b)")) for label in lines_of(figure(c)))
    assert "on different hardware" in figure(c).axes[0].get_xlabel()
