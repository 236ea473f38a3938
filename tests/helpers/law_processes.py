"""Processes of `hfgen.testing.processes` from the nursery that all workers share, in place of multiprocessing's own.

A fork server of the laws is a child of the nursery that has imported what the laws preload. (The example plugins' own
tests run under multiprocessing's, as those of any plugin do.)
"""

import base64
import os
import pickle
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nursery import Nursery

SERVE = """
import importlib, sys
import nursery_server
for name in sys.argv[2:]:
    importlib.import_module(name)
nursery_server.serve(sys.argv[1])
"""
CALL = """
import base64, os, pickle, sys, traceback
sys.path[:], target, args = pickle.loads(base64.b64decode(sys.argv[1]))  # the path as multiprocessing hands it on
code = 0
try:
    target(*args)
except SystemExit as stop:
    code = stop.code if isinstance(stop.code, int) else 1
except BaseException:
    traceback.print_exc()
    code = 1
sys.stdout.flush()
sys.stderr.flush()
os._exit(code)  # as multiprocessing ends: torch's threads may not survive the interpreter's own end
"""


class LawNursery(Nursery):
    """Forks processes that have imported `modules`."""

    def __init__(self, base: Nursery, modules: list[str]) -> None:
        self.base, self.modules = base, modules
        super().__init__("laws")

    def serve(self) -> None:
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        self.base.start(SERVE, self.address, *self.modules, environment={**os.environ, "PYTHONPATH": path})


class Context:
    """What the laws ask of a context of multiprocessing."""

    def __init__(self, nursery: Nursery) -> None:
        self.nursery = nursery

    def Process(self, target: Callable[..., Any], args: tuple[Any, ...]) -> "Process":
        return Process(self.nursery, target, args)

    def Barrier(self, parties: int) -> "Barrier":
        return Barrier(tempfile.mkdtemp(prefix="barrier-"), parties)


class Process:
    """A call in a process of its own."""

    def __init__(self, nursery: Nursery, target: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.nursery = nursery
        self.call = base64.b64encode(pickle.dumps((sys.path, target, args))).decode()

    def start(self) -> None:
        self.pid = self.nursery.start(CALL, self.call).pid

    @property
    def exitcode(self) -> int | None:
        return self.nursery.ask({"poll": self.pid})

    def is_alive(self) -> bool:
        return self.exitcode is None

    def join(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while self.is_alive() and time.monotonic() < deadline:
            time.sleep(0.05)

    def kill(self) -> None:
        if self.is_alive():
            os.kill(self.pid, signal.SIGKILL)


class Barrier:
    """A folder in which each process leaves a file when it arrives."""

    def __init__(self, folder: str, parties: int) -> None:
        self.folder, self.parties = folder, parties

    def wait(self, timeout: float) -> None:
        Path(self.folder, str(os.getpid())).touch()
        deadline = time.monotonic() + timeout
        while len(os.listdir(self.folder)) < self.parties and time.monotonic() < deadline:
            time.sleep(0.01)
