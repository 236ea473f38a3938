"""Trackers: what TensorBoard holds of a run and of a resumed one, adapters, and trackers that fail or hang."""

import io
import json
import sys
import threading
import time
import types

import numpy as np
import pytest
from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hfgen.errors import UsageError
from hfgen.training import trackers
from hfgen.training.trackers import Trackers, public_config, scalars, show, tracker_names

CONFIG = {"seed": 3, "learning_rate": 1e-3, "generator": {"dims": [4, 8]}, "resolution": None}
TOKEN = "hf_" + "a1B2" * 9


@pytest.fixture(autouse=True)
def state():
    """Accelerate's trackers ask it which process this is; a training has made it long before."""
    return PartialState(cpu=True)


@pytest.fixture
def warned():
    """What the user was told; a test that expects nothing checks it."""
    return []


def picture(value):
    return Image.new("L", (6, 4), value)


def report(run, steps):
    for step in steps:
        run.log_previews({"image": {"samples": picture(step), "reconstructions": picture(100 + step)}}, step)
        run.log({"step": step, "loss": step / 8, "diagnosis": {"active": 2, "kl": [0.1], "warnings": ["low"]}})


# --- TensorBoard ------------------------------------------------------------------------------------------------


def held(folder):
    """What TensorBoard reads from a run folder: tag -> {step: value}, twice the same step being an error."""
    events = EventAccumulator(str(folder / "logs"), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    found = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    found |= {tag: [(e.step, decoded(e)) for e in events.Images(tag)] for tag in events.Tags()["images"]}
    assert all(len(dict(pairs)) == len(pairs) for pairs in found.values()), found
    return {tag: dict(pairs) for tag, pairs in found.items()}


def decoded(event):
    return np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))


def test_tensorboard_holds_the_scalars_and_the_pictures_of_each_step(tmp_path, warned):
    run = Trackers(["tensorboard"], tmp_path, CONFIG, 0, warned.append)
    report(run, [2, 4])
    run.close()
    found = held(tmp_path)
    assert set(found) == {"loss", "diagnosis/active", "samples", "reconstructions"}
    assert found["loss"] == {2: 0.25, 4: 0.5}
    assert found["diagnosis/active"] == {2: 2.0, 4: 2.0}
    for tag, values in {"samples": {2: 2, 4: 4}, "reconstructions": {2: 102, 4: 104}}.items():
        assert {step: image.tolist() for step, image in found[tag].items()} == {
            step: np.full((4, 6, 3), value).tolist() for step, value in values.items()
        }
    assert warned == []


def test_a_resumed_run_goes_on_in_tensorboard_without_doubles(tmp_path, warned):
    """Killed at step 6, resumed at 4 with another learning rate: 6 is that of the resumed run."""
    for step, steps in ((0, [2, 4, 6]), (4, [6, 8])):
        run = Trackers(["tensorboard"], tmp_path, CONFIG, step, warned.append)
        report(run, steps)
        run.log({"step": steps[-1], "learning_rate": float(step)})
        run.close()
    found = held(tmp_path)
    assert found["loss"] == {2: 0.25, 4: 0.5, 6: 0.75, 8: 1.0}
    assert sorted(found["samples"]) == sorted(found["reconstructions"]) == [2, 4, 6, 8]
    assert found["learning_rate"] == {8: 4.0}
    assert [p for p in (tmp_path / "logs").iterdir() if p.is_dir()] == []
    assert warned == []


def test_tensorboard_is_given_the_config_without_secrets_or_paths(tmp_path, warned):
    private = {"train_data_dir": str(tmp_path / "faces"), "hub_token": TOKEN, "note": f"with {TOKEN}"}
    Trackers(["tensorboard"], tmp_path, {**CONFIG, **private}, 0, warned.append).close()
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    start = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert all(text in start for text in (b"learning_rate", b"generator.dims", b"[4, 8]", b"faces"))
    written = b"".join(p.read_bytes() for p in (tmp_path / "logs").rglob("*") if p.is_file())
    assert str(tmp_path).encode() not in written
    assert TOKEN.encode() not in written


# --- what is sent -----------------------------------------------------------------------------------------------


def test_scalars_are_finite_numbers_of_any_depth():
    line = {"step": 7, "epoch": 1, "loss": float("nan"), "a": {"b": {"c": True}, "d": [1.0]}, "e": "text", "f": None}
    assert scalars(line) == {"epoch": 1.0, "a/b/c": 1.0}


def test_a_public_config_has_one_level_and_no_secrets():
    config = {
        "model": "x",
        "report_to": "all",
        "data": {"files": ["/home/me/a.npz", "b/c.npz"], "url": "https://me:pass@host/data"},
        "folder": "~/faces",
        "windows": r"C:\Users\me\faces",
        "num_tokens": 512,
        "api_key": "abc",
        "words": f"see {TOKEN}",
        "unset": None,
        "flag": False,
    }
    assert public_config(config) == {
        "model": "x",
        "report_to": "all",
        "data.files": '["a.npz", "b/c.npz"]',
        "data.url": "https://host/data",
        "folder": "faces",
        "windows": "faces",
        "num_tokens": 512,
        "words": "see ***",
        "flag": False,
    }


def test_names_are_checked_before_anything_starts():
    assert tracker_names("none") == []
    assert "tensorboard" in tracker_names("all")
    assert tracker_names("tensorboard, tensorboard,") == ["tensorboard"]
    with pytest.raises(UsageError, match="'tensorbord' is not installed here. Did you mean 'tensorboard'?"):
        tracker_names("tensorbord")


def test_a_known_tracker_that_is_not_installed_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: [])
    with pytest.raises(UsageError, match="'tensorboard' is not installed here. pip install tensorboard"):
        tracker_names("tensorboard")
    assert tracker_names("all") == []


# --- the others, by stand-ins of their libraries ------------------------------------------------------------------


class Recorder(types.ModuleType):
    """Takes the place of a tracker's library, and of the run that its `init` gives; keeps every call."""

    def __init__(self, title, /, **attributes):
        super().__init__(title)
        self.calls, self.config = [], self
        self.__dict__.update(attributes)

    def __getattr__(self, method):
        def call(*args, **kwargs):
            self.calls.append((method, args, kwargs))
            return self

        return call

    def of(self, method):
        return [(*args, kwargs) for name, args, kwargs in self.calls if name == method]


@pytest.fixture
def library(monkeypatch):
    def stand_in(module, **attributes):
        attributes = {"Image": lambda image: ("image", image.getpixel((0, 0))), **attributes}
        recorder = Recorder(module, **attributes)
        monkeypatch.setitem(sys.modules, module, recorder)
        return recorder

    return stand_in


def test_trackio_is_given_pictures_and_the_config_and_finds_its_run_again(tmp_path, warned, library):
    folder = tmp_path / "dcgan-mnist"
    first = library("trackio", name="dcgan-mnist-12ab")
    run = Trackers(["trackio"], folder, CONFIG, 0, warned.append)
    report(run, [2])
    run.close()
    (options,) = first.of("init")[0]
    assert options["project"] == "hfgen"
    assert options["name"].startswith("dcgan-mnist-")
    assert options["config"] == {"seed": 3, "learning_rate": 1e-3, "generator.dims": "[4, 8]"}
    assert first.of("log") == [
        ({"samples": ("image", 2)}, {"step": 2}),
        ({"reconstructions": ("image", 102)}, {"step": 2}),
        ({"loss": 0.25, "diagnosis/active": 2.0}, {"step": 2}),
    ]
    assert json.loads((folder / "logs" / "trackers.json").read_text()) == {"trackio": "dcgan-mnist-12ab"}
    again = library("trackio", name="dcgan-mnist-12ab")
    Trackers(["trackio"], folder, CONFIG, 2, warned.append).close()
    (options,) = again.of("init")[0]
    assert (options["name"], options["resume"]) == ("dcgan-mnist-12ab", "allow")
    assert warned == []


def test_wandb_resumes_by_the_id_in_the_run_folder(tmp_path, warned, library):
    seen = [library("wandb", id="k3y")]
    Trackers(["wandb"], tmp_path, CONFIG, 0, warned.append).close()
    seen.append(library("wandb", id="k3y"))
    run = Trackers(["wandb"], tmp_path, CONFIG, 4, warned.append)
    run.log_previews({"image": {"samples": picture(9)}}, 6)
    run.close()
    options = [recorder.of("init")[0][0] for recorder in seen]
    assert [(o["id"], o["resume"], o["name"]) for o in options] == [
        (None, "allow", tmp_path.name),
        ("k3y", "allow", tmp_path.name),
    ]
    assert seen[1].of("log") == [({"samples": [("image", 9)]}, {"step": 6})]
    assert warned == []


def test_a_damaged_file_of_ids_starts_new_runs(tmp_path, warned, library):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "trackers.json").write_text('{"wandb": 5, "other": "x"')
    recorder = library("wandb", id="new")
    Trackers(["wandb"], tmp_path, CONFIG, 4, warned.append).close()
    assert recorder.of("init")[0][0]["id"] is None
    assert json.loads((tmp_path / "logs" / "trackers.json").read_text()) == {"wandb": "new"}
    assert warned == []


def test_libraries_whose_trackers_take_no_pictures_are_called_themselves(library):
    image, comet, dvclive = picture(1), Recorder("experiment"), Recorder("live")
    mlflow = library("mlflow")
    show("comet_ml", "samples", image, 5, types.SimpleNamespace(tracker=comet))
    show("mlflow", "samples", image, 5, None)
    show("dvclive", "samples", image, 5, types.SimpleNamespace(tracker=dvclive))
    assert comet.of("log_image") == [(image, {"name": "samples", "step": 5})]
    assert mlflow.of("log_image") == [(image, {"key": "samples", "step": 5})]
    assert dvclive.of("log_image") == [("samples/5.png", image, {})]


def test_a_list_or_one_picture_as_each_tracker_wants_it():
    image, one, several = picture(1), Recorder("aim"), Recorder("swanlab")
    show("aim", "samples", image, 5, one)
    show("swanlab", "samples", image, 5, several)
    assert one.of("log_images") == [({"samples": image}, {"step": 5})]
    assert several.of("log_images") == [({"samples": [image]}, {"step": 5})]


# --- trackers that fail or hang -----------------------------------------------------------------------------------


class StandIn(GeneralTracker):
    """Fails, hangs or talks where its class attribute says."""

    name, requires_logging_directory, tracker = "stand_in", False, None
    where, what = "never", "nothing"
    hanging: threading.Event
    steps: list

    def __init__(self, run_name, **kwargs):
        super().__init__()

    def start(self):
        self._do("start")

    def store_init_configuration(self, values):
        self._do("config")

    def log(self, values, step=None, **kwargs):
        self._do("log")
        self.steps.append(step)

    def finish(self):
        self._do("finish")

    def _do(self, where):
        if where != self.where:
            return
        if self.what == "hang":
            self.hanging.wait()
        elif self.what == "exit":
            sys.exit("no license")
        elif self.what == "ask":
            self.steps.append(input("Your key? "))
        else:
            raise ConnectionError(f"https://me:pw@host: no network\nwith {TOKEN}")


@pytest.fixture
def stand_in(monkeypatch):
    """Registers a stand-in that fails there; what hangs is let go at the end."""
    monkeypatch.setattr(trackers, "START_SECONDS", 0.2)
    monkeypatch.setattr(trackers, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(trackers, "WAITING", 100)
    event = threading.Event()

    def register(where, what="fail"):
        kind = type("Kind", (StandIn,), {"where": where, "what": what, "hanging": event, "steps": []})
        monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "stand_in", kind)
        return kind

    yield register
    event.set()


@pytest.mark.parametrize("where", ["start", "config", "log", "finish"])
def test_a_tracker_that_fails_is_one_warning_and_the_others_go_on(tmp_path, warned, stand_in, where):
    stand_in(where)
    assert tracker_names("stand_in,tensorboard") == ["stand_in", "tensorboard"]
    run = Trackers(["stand_in", "tensorboard"], tmp_path, CONFIG, 0, warned.append)
    report(run, range(1, 30))
    run.close()
    assert warned == [
        "the tracker stand_in failed: ConnectionError: https://host: no network\nThe training goes on without it."
    ]
    assert len(held(tmp_path)["loss"]) == 29


@pytest.mark.parametrize("where", ["start", "log"])
def test_a_tracker_that_hangs_is_given_up_and_nothing_waits_for_it(tmp_path, warned, stand_in, where):
    stand_in(where, "hang")
    start = time.monotonic()
    run = Trackers(["stand_in"], tmp_path, CONFIG, 0, warned.append)
    for step in range(300):
        run.log({"step": step, "loss": 1.0})
    run.close()
    assert time.monotonic() - start < 5
    assert warned == ["the tracker stand_in has taken none of 100 reports for 0.3 s\nThe training goes on without it."]


def test_a_tracker_that_hangs_at_the_end_is_left_behind(tmp_path, warned, stand_in):
    kind = stand_in("finish", "hang")
    run = Trackers(["stand_in"], tmp_path, CONFIG, 0, warned.append)
    run.log({"step": 5, "loss": 1.0})
    run.close(seconds=0.2)
    run.close()
    assert kind.steps == [5]
    assert warned == ["the tracker stand_in had not sent everything after 0.2 s\nThe training goes on without it."]


def test_a_slow_start_loses_nothing(tmp_path, warned, stand_in):
    kind = stand_in("start", "hang")
    run = Trackers(["stand_in"], tmp_path, CONFIG, 0, warned.append)
    run.log({"step": 5, "loss": 1.0})
    kind.hanging.set()
    run.close()
    assert (kind.steps, warned) == ([5], [])


@pytest.mark.parametrize("what", ["exit", "ask"])
def test_a_tracker_that_exits_or_asks_for_a_login_fails_at_once(tmp_path, warned, stand_in, monkeypatch, what):
    kind, terminal = stand_in("start", what), io.StringIO("my key\n")
    monkeypatch.setattr(sys, "stdin", terminal)
    Trackers(["stand_in"], tmp_path, CONFIG, 0, warned.append).close()
    assert kind.steps == []
    assert len(warned) == 1
    assert sys.stdin is terminal


def test_what_a_library_prints_is_no_result(tmp_path, warned, library, capsys):
    library("trackio", name="x", init=lambda **options: (print("* Trackio project initialized"), Recorder("run"))[1])
    run = Trackers(["trackio"], tmp_path, CONFIG, 0, warned.append)
    run.close()
    out, err = capsys.readouterr()
    assert (out, err) == ("", "* Trackio project initialized\n")


def test_without_a_folder_or_names_nothing_starts_and_nothing_is_written(tmp_path):
    before = threading.active_count()
    for run in (Trackers(), Trackers(["tensorboard"]), Trackers([], tmp_path / "run", CONFIG)):
        report(run, [1])
        run.close()
    assert threading.active_count() == before
    assert not (tmp_path / "run").exists()
