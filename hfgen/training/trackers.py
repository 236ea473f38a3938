"""Trackers such as TensorBoard, trackio and wandb, which receive scalars, pictures and the config of a run.

They are Accelerate's, each in a thread of its own: if one cannot start, fails or hangs, a warning is printed and the
training goes on without it. The run's id in each tracker, by which a resumed run goes on in the same place, is kept in
`logs/trackers.json` of the run folder, which holds no secret.
"""

import contextlib
import functools
import json
import math
import os
import queue
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import LoggerType
from PIL import Image

from hfgen.errors import UsageError, did_you_mean, first_line
from hfgen.files import read_config_file, write_text
from hfgen.results.words import markdown_table
from hfgen.run_folder import CONFIG
from hfgen.tokens import without_secrets

PROJECT = "hfgen"
LOGS, IDS = "logs", "trackers.json"
START_SECONDS = 20.0  # the training waits so long for trackers to start; a slower one starts meanwhile
FINISH_SECONDS = 60.0  # it waits so long for them to send the rest
WAITING = 1000  # reports that may wait for a tracker; when they are more,
PATIENCE_SECONDS = 10.0  # the training waits so long, once, before it gives the tracker up
Scalar = bool | int | float | str


def tracker_names(report_to: str) -> list[str]:
    """Return the trackers of a comma-separated list; `all` means those that are installed, `none` none.

    Raises:
        UsageError: one is unknown or not installed.
    """
    known = {str(kind.value) for kind in LoggerType} - {"all"}
    found = [str(kind.value) for kind in get_available_trackers()]
    installed = [*found, *(name for name in LOGGER_TYPE_TO_CLASS if name not in known)]  # and registered ones
    if report_to in ("none", "all"):
        return [] if report_to == "none" else installed
    wanted = [name.strip() for name in report_to.split(",") if name.strip()]
    for name in wanted:
        if name not in installed:
            hint = f"pip install {name}" if name in known else did_you_mean(name, [*known, "all", "none"]).strip()
            raise UsageError(f"--report_to: the tracker {name!r} is not installed here. {hint}")
    return list(dict.fromkeys(wanted))


class Trackers:
    """The trackers of one run; only the main process has any.

    Args:
        names: as `tracker_names` gives them.
        folder: the run folder.
        config: the resolved config; `public_config` says which part of it is sent.
        step: the step from which the training goes on; later values in a tracker are replaced if it can do that.
        warn: called with a line for the user, from other threads too.
    """

    def __init__(
        self,
        names: Iterable[str] = (),
        folder: Path | None = None,
        config: Mapping[str, Any] | None = None,
        step: int = 0,
        warn: Callable[[str], None] = print,
    ) -> None:
        self.running: list[_Tracker] = []
        if folder is None:
            return
        logs, flat = folder / LOGS, public_config(config or {})
        ids = _read_ids(logs)
        self.running = [_Tracker(name, Run(folder.name, logs, step, ids.get(name)), flat, warn) for name in names]
        with _unattended() if self.running else contextlib.nullcontext():
            for tracker in self.running:
                tracker.start()
            deadline = time.monotonic() + START_SECONDS
            for tracker in self.running:
                tracker.ready.wait(max(0.0, deadline - time.monotonic()))

    def log(self, line: Mapping[str, Any]) -> None:
        """Report the scalars of a line of metrics at its `step`."""
        values, step = scalars(line), line["step"]
        for tracker in self.running:
            tracker.do(lambda it: it.log(values, step=step))

    def log_previews(self, previews: Mapping[str, Mapping[str, Any]], step: int) -> None:
        """Report what was drawn: kind (`image`, `text`) -> title -> a picture, or a text."""
        for tracker in self.running:
            for kind, found in previews.items():
                for title, content in found.items() if kind in SHOW else ():
                    tracker.do(functools.partial(SHOW[kind], tracker.title, title, content, step))

    def log_tables(self, tables: Mapping[str, Mapping[str, Any]], step: int) -> None:
        """Report tables, `columns` and `rows` under a name, to the trackers that take them."""
        for tracker in self.running:
            for title, table in tables.items():
                tracker.do(functools.partial(show_table, tracker.title, title, table, step))

    def close(self, seconds: float = FINISH_SECONDS) -> None:
        """Send the waiting reports and close the trackers; later reports are lost."""
        running, self.running = self.running, []
        with _unattended() if running else contextlib.nullcontext():
            for tracker in running:
                tracker.do(None)
            deadline = time.monotonic() + seconds
            for tracker in running:
                tracker.join(0.0 if tracker.given_up else max(0.0, deadline - time.monotonic()))
                if tracker.is_alive():
                    tracker.give_up(f"had not sent everything after {seconds:g} s")


def start_trackers(report_to: str, folder: Path, step: int, warn: Callable[[str], None]) -> Trackers:
    """Start the trackers of the run in `folder`, with its config, from `step` on."""
    config = folder / CONFIG
    settings = read_config_file(config) if config.is_file() else {}
    return Trackers(tracker_names(report_to), folder, settings, step, warn)


@dataclass(frozen=True)
class Run:
    """The facts of a run with which a tracker starts.

    Attributes:
        name: the name of the run folder.
        logs: the folder for files of the tracker.
        step: the step from which the training goes on.
        id: the run's id in the tracker, if it has been there before.
    """

    name: str
    logs: Path
    step: int
    id: str | None


class _Tracker(threading.Thread):
    """A thread that makes the calls of one tracker, in order; the first that fails is the last."""

    def __init__(self, title: str, place: Run, config: dict[str, Scalar], warn: Callable[[str], None]) -> None:
        super().__init__(name=f"tracker {title}", daemon=True)
        self.title, self.place, self.config, self.warn = title, place, config, warn
        self.calls: queue.Queue[Callable[[Any], Any] | None] = queue.Queue(WAITING)
        self.ready, self.lock, self.given_up = threading.Event(), threading.Lock(), False

    def do(self, call: Callable[[Any], Any] | None) -> None:
        """Queue a call of Accelerate's tracker; None closes it."""
        try:
            if not self.given_up:
                self.calls.put(call, timeout=PATIENCE_SECONDS)
        except queue.Full:
            self.give_up(f"has taken none of {WAITING} reports for {PATIENCE_SECONDS:g} s")

    def run(self) -> None:
        try:
            tracker = begin(self.title, self.place, dict(self.config))
            self.ready.set()
            while (call := self.calls.get()) is not None:
                call(tracker)
            tracker.finish()
        except BaseException as error:  # whatever a tracker raises, SystemExit too, must not end the training
            self.give_up(f"failed: {type(error).__name__}: {without_secrets(first_line(error))}")
        finally:
            self.ready.set()

    def give_up(self, why: str) -> None:
        with self.lock:
            first, self.given_up = not self.given_up, True
        if first:
            self.warn(f"the tracker {self.title} {why}\nThe training goes on without it.")


@contextlib.contextmanager
def _unattended() -> Iterator[None]:
    """Keep libraries from waiting for a login and send what they print to stderr, inside the context.

    Standard output is for the result of the command.
    """
    with open(os.devnull) as nothing, contextlib.redirect_stdout(sys.stderr):
        terminal, sys.stdin = sys.stdin, nothing
        try:
            yield
        finally:
            sys.stdin = terminal


# --- what is sent -----------------------------------------------------------------------------------------------
def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers of a line of metrics without the step; nested ones as `diagnosis/active_units`.

    Lists, such as one number for each latent dimension, and texts are left out: they are in `metrics.jsonl`.

    >>> scalars({"step": 5, "loss": 0.5, "diagnosis": {"active": 3, "kl": [0.1, 0.2], "warnings": ["low"]}})
    {'loss': 0.5, 'diagnosis/active': 3.0}
    """
    found: dict[str, float] = {}
    for name, value in line.items():
        if isinstance(value, Mapping):
            found |= {f"{name}/{inner}": number for inner, number in scalars(value).items()}
        elif isinstance(value, (bool, int, float)) and math.isfinite(value) and name != "step":
            found[name] = float(value)
    return found


def public_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, Scalar]:
    """Return the config without nesting and without private parts: tokens, and the folders of a path.

    Unset options are left out; lists become text.

    >>> public_config({"seed": 0, "generator": {"dims": [4, 8]}, "train_data_dir": "/home/me/faces", "hub_token": "x"})
    {'seed': 0, 'generator.dims': '[4, 8]', 'train_data_dir': 'faces'}
    """
    found: dict[str, Scalar] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= public_config(value, f"{prefix}{name}.")
        elif isinstance(value, (bool, int, float)):
            found[prefix + name] = value
        elif value is not None and not SECRET.search(name):
            listed = [harmless(v) if isinstance(v, str) else v for v in value] if isinstance(value, list) else value
            found[prefix + name] = harmless(value) if isinstance(value, str) else json.dumps(listed, default=str)
    return found


SECRET = re.compile("token|secret|password|api_?key|credential", re.IGNORECASE)


def harmless(text: str) -> str:
    """Return the last name of an absolute path, which would describe this machine; other text without secrets."""
    if PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute() or text.startswith(("~", "file:")):
        text = PureWindowsPath(text).name  # which knows both separators
    return without_secrets(text)


# --- each tracker's own way -------------------------------------------------------------------------------------
def begin(name: str, run: Run, config: dict[str, Scalar]) -> Any:
    """Start Accelerate's tracker, in the run that it had before if there is one, and keep that run's id."""
    run.logs.mkdir(parents=True, exist_ok=True)
    tracker_class = LOGGER_TYPE_TO_CLASS[name]
    place = [str(run.logs)] if tracker_class.requires_logging_directory else []
    project = "" if name == "tensorboard" else PROJECT  # which takes it for a sub-folder
    tracker = tracker_class(project, *place, **(START[name](run, config) if name in START else {}))
    tracker.start()
    if name in ID:
        _write_id(run.logs, name, str(ID[name](tracker.tracker)))
    if name == "aim":
        tracker.tracker.name = run.name
    elif name == "comet_ml":
        tracker.tracker.set_name(run.name)
    if name == "tensorboard":
        _store_hparams(tracker.tracker, config)
    elif name != "trackio" and not (name == "mlflow" and run.id):  # which has it, and refuses a value that changed
        tracker.store_init_configuration(config)
    return tracker


START: dict[str, Callable[[Run, dict[str, Scalar]], dict[str, Any]]] = {  # options of Accelerate's class
    "tensorboard": lambda run, config: {"purge_step": run.step + 1},  # hides what the folder holds beyond
    "trackio": lambda run, config: {
        "name": run.id or f"{run.name}-{secrets.token_hex(2)}",  # by which it finds the run again
        "resume": "allow",
        "embed": False,
        "config": config,  # Accelerate's way adds wandb's `allow_val_change` to it
    },
    "wandb": lambda run, config: {"name": run.name, "dir": str(run.logs), "id": run.id, "resume": "allow"},
    "swanlab": lambda run, config: {
        "experiment_name": run.name,
        "logdir": str(run.logs / "swanlab"),
        **({"id": run.id, "resume": "allow"} if run.id else {}),
    },
    "comet_ml": lambda run, config: {"experiment_key": run.id} if run.id else {},
    "mlflow": lambda run, config: {"run_name": run.name, "run_id": run.id},
    "aim": lambda run, config: {"run_hash": run.id} if run.id else {},
    "clearml": lambda run, config: {"task_name": run.name, "continue_last_task": run.id or False},
    "dvclive": lambda run, config: {
        "dir": str(run.logs / "dvclive"),
        "dvcyaml": str(run.logs / "dvclive" / "dvc.yaml"),
        "resume": run.step > 0,
    },
}
ID: dict[str, Callable[[Any], Any]] = {  # of the run, in the tracker
    "trackio": lambda run: run.name,
    "wandb": lambda run: run.id,
    "swanlab": lambda run: run.id,
    "comet_ml": lambda run: run.get_key(),
    "mlflow": lambda run: run.info.run_id,
    "aim": lambda run: run.hash,
    "clearml": lambda run: run.id,
}


def _store_hparams(writer: Any, config: dict[str, Scalar]) -> None:
    """Write the config into the run's own file; `add_hparams`, which Accelerate calls, would start a second run."""
    from torch.utils.tensorboard.summary import hparams

    for summary in hparams(config, {}):
        writer.file_writer.add_summary(summary)


def show(name: str, title: str, image: Image.Image, step: int, tracker: Any) -> None:
    """Report a picture; Accelerate's trackers differ in what they accept, and some accept none."""
    if name == "tensorboard":
        tracker.log_images({title: np.asarray(image.convert("RGB"))[None]}, step=step, dataformats="NHWC")
    elif name == "trackio":
        import trackio

        tracker.log({title: trackio.Image(image)}, step=step)
    elif name == "comet_ml":
        tracker.tracker.log_image(image, name=title, step=step)
    elif name == "mlflow":
        import mlflow

        mlflow.log_image(image, key=title, step=step)
    elif name == "dvclive":
        tracker.tracker.log_image(f"{title}/{step}.png", image)  # names that are numbers become a slider
    elif hasattr(tracker, "log_images"):
        tracker.log_images({title: image if name in ("aim", "clearml") else [image]}, step=step)


def show_table(name: str, title: str, table: Mapping[str, Any], step: int, tracker: Any) -> None:
    """Report a table; TensorBoard takes it as Markdown, others only where Accelerate's class has a method for it."""
    if name == "tensorboard":
        tracker.tracker.add_text(title, markdown_table(table["columns"], table["rows"]), step)
    elif hasattr(tracker, "log_table"):
        tracker.log_table(title, columns=table["columns"], data=table["rows"], step=step)


def show_text(name: str, title: str, text: str, step: int, tracker: Any) -> None:
    """Report a text, as it is; to trackers without a method for texts as a table of one cell."""
    if name == "tensorboard":
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
        tracker.tracker.add_text(title, f"{fence}text\n{text}\n{fence}", step)
    else:
        show_table(name, title, {"columns": ["text"], "rows": [[text]]}, step, tracker)


SHOW: dict[str, Callable[..., None]] = {"image": show, "text": show_text}
_ids_lock = threading.Lock()


def _read_ids(logs: Path) -> dict[str, str]:
    try:
        found = json.loads((logs / IDS).read_text(encoding="utf-8"))
        return {name: id for name, id in found.items() if isinstance(id, str)}
    except (OSError, ValueError, AttributeError):
        return {}


def _write_id(logs: Path, name: str, id: str) -> None:
    with _ids_lock:
        write_text(logs / IDS, json.dumps({**_read_ids(logs), name: id}, indent=2) + "\n")
