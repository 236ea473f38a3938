"""What a diagnosis shows: pictures, curves and tables in the run folder, on the card and in trackers; its limits."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_trainings import config_of

from hfgen import Diagnosis
from hfgen.errors import CheckError, HFGenError
from hfgen.registry import get_family
from hfgen.run_folder import pictured, read_metrics, tabled
from hfgen.training import run
from hfgen.training.shown import MOST, line_of, write_pictures

SHOWN = Diagnosis(
    {"health": torch.tensor(0.5), "bars": torch.tensor([1.0, 2.0])},
    ["it ails"],
    {"face": torch.linspace(0, 1, 12).view(3, 4), "color": np.zeros((2, 2, 3), np.uint8)},
    {"decay": (torch.arange(3), [1.0, 0.5, 0.25])},
    {"norms": (["layer", "norm"], [["a|b", torch.tensor(1.5)], ["[x](y)", 2]])},
)


def test_a_line_of_metrics_holds_all_but_the_pixels():
    assert line_of(SHOWN, "Toy") == json.loads(json.dumps(line_of(SHOWN, "Toy")))
    assert line_of(SHOWN, "Toy") == {
        "health": 0.5,
        "bars": [1.0, 2.0],
        "warnings": ["it ails"],
        "pictures": ["color", "decay", "face"],
        "curves": {"decay": {"x": [0.0, 1.0, 2.0], "y": [1.0, 0.5, 0.25]}},
        "tables": {"norms": {"columns": ["layer", "norm"], "rows": [["a|b", 1.5], ["[x](y)", 2]]}},
    }
    assert line_of(Diagnosis({"health": 0.5}), "Toy") == {"health": 0.5}


def test_pictures_are_written_as_they_are(tmp_path):
    write_pictures(SHOWN, tmp_path, 7, "Toy")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{n}_000007.png" for n in ("color", "decay", "face")]
    with Image.open(tmp_path / "face_000007.png") as face:
        assert (face.size, face.getpixel((0, 0)), face.getpixel((3, 2))) == ((4, 3), 0, 255)


GRAY = np.zeros((2, 2), np.uint8)
REFUSED = {
    "too many": ({"pictures": {f"p{i}": GRAY for i in range(MOST + 1)}}, "returned 9 pictures; at most 8 fit"),
    "too large": ({"pictures": {"p": np.zeros((4096, 4096), np.uint8)}}, "'p' has 4096x4096 pixels; at most"),
    "a batch": ({"pictures": {"p": torch.zeros(1, 1, 2, 2)}}, r"'p' has the shape \(1, 1, 2, 2\); expected \(H, W\)"),
    "another range": ({"pictures": {"p": torch.full((2, 2), -1.0)}}, "'p' has float32 from -1.0 to -1.0; expected"),
    "whole numbers": ({"pictures": {"p": torch.ones(2, 2, dtype=torch.int64)}}, "'p' has int64 from 1 to 1; expected"),
    "a path": ({"pictures": {"../p": GRAY}}, r"shows '../p'; such a name is a file's"),
    "the grid's name": ({"pictures": {"step": GRAY}}, "shows 'step' which is the training's own"),
    "the plot's name": ({"values": {"loss": [1.0, 2.0]}}, "shows 'loss' which is the training's own"),
    "twice": ({"pictures": {"p": GRAY}, "tables": {"p": (["a"], [])}}, "shows 'p' twice"),
    "a field's name": ({"values": {"warnings": 3.0}}, "a value called 'warnings'"),
    "lengths": ({"curves": {"c": ([1, 2], [1])}}, "the curve 'c' has 2 x and 1 y; expected as many"),
    "points": ({"curves": {"c": (range(501), range(501))}}, "the curve 'c' has 501 x and 501 y"),
    "rows": ({"tables": {"t": (["a", "b"], [[1]])}}, "the table 't' must have rows as long as its 2 columns"),
    "cells": ({"tables": {"t": (["a"], [[1]] * 500)}}, "at most 500 cells"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_shown_is_refused_by_name(tmp_path, name):
    fields, message = REFUSED[name]
    with pytest.raises(HFGenError, match=f"Toy.diagnose.*{message}"):
        line_of(Diagnosis(**fields), "Toy")
        write_pictures(Diagnosis(**fields), tmp_path, 1, "Toy")
    assert not list(tmp_path.iterdir())


def test_a_curve_of_a_diverged_model_is_a_warning_and_no_end():
    with pytest.raises(CheckError, match="the curve 'c' has a point that is not a finite number"):
        line_of(Diagnosis(curves={"c": ([1.0], [float("nan")])}), "Toy")


@pytest.mark.whole
def test_a_run_shows_them_on_its_card_and_in_trackers(splits, tmp_path, monkeypatch):
    family = get_family("dcgan").load()

    class Diagnosing(family.objective_class):
        @classmethod
        def diagnose(cls, pipeline, examples):
            return SHOWN

    monkeypatch.setattr(family, "objective_class", Diagnosing)
    config = config_of(splits, max_train_steps=2, validation_steps=1, report_to="tensorboard")
    run.train(config, family, tmp_path / "run", say=print)
    line = read_metrics(tmp_path / "run")[-1]
    assert (pictured(line), list(tabled(line))) == (["color", "decay", "face"], ["norms"])
    card = (tmp_path / "run" / "README.md").read_text()
    for name in ("color", "decay", "face"):
        assert (tmp_path / "run" / "samples" / f"{name}_000001.png").is_file()
        assert f"![{name}](samples/{name}_000002.png)" in card
    assert "| layer | norm |\n|---|---|\n| a\\|b | 1.5 |\n| \\[x\\](y) | 2 |" in card
    events = EventAccumulator(str(tmp_path / "run" / "logs"))
    events.Reload()
    assert {"samples", "color", "decay", "face"} <= set(events.Tags()["images"])
    assert [event.step for event in events.Images("face")] == [1, 2]
    assert "norms/text_summary" in events.Tags()["tensors"]


def test_a_card_shows_no_file_that_a_stranger_names():
    assert pictured({"diagnosis": {"pictures": ["../../x", "a](http://x)", 3, "fine"]}}) == ["fine"]
