"""Processes forked from one that has imported the libraries: a start costs a tenth of a second and not ten.

Of hfgen and the families nothing is imported before the fork, so they meet what they would meet in a fresh process.
All of pytest's workers share one such process, which ends with the last of them.
"""

import contextlib
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from hfgen.testing import quiet_environment

SERVER = Path(__file__).with_name("nursery_server.py")
TRAIN = "import sys; from hfgen.train import main; main(sys.argv[1:])"
HFGEN = "import sys; from hfgen.commands.main import main; main(sys.argv[1:])"


class Done(NamedTuple):
    """How a process ended; minus a signal's number as `returncode`, as subprocess has it."""

    returncode: int
    stdout: str
    stderr: str


class Child(NamedTuple):
    """A running process: its id, and the files that take what it writes."""

    nursery: "Nursery"
    pid: int
    stdout: Path
    stderr: Path

    def wait(self) -> Done:
        code = self.nursery.ask({"wait": self.pid})
        return Done(code, self.stdout.read_text(encoding="utf-8"), self.stderr.read_text(encoding="utf-8"))


class Nursery:
    """Runs scripts, each in a child of a process that has imported the libraries."""

    def __init__(self, name: str = "libraries") -> None:
        run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
        self.address = os.path.join(tempfile.gettempdir(), f"nursery-{run[:12]}-{name}")
        with contextlib.suppress(FileExistsError):  # another worker starts it
            os.close(os.open(f"{self.address}.started", os.O_CREAT | os.O_EXCL))
            self.serve()
        self.place = Path(tempfile.mkdtemp(prefix="nursery-"))
        self.count = 0
        self.connect()

    def serve(self) -> None:
        command = [sys.executable, "-W", "ignore", str(SERVER), self.address]
        os.posix_spawn(sys.executable, command, quiet_environment(), setsid=True)  # it outlives this process, perhaps

    def connect(self) -> None:
        self.socket, deadline = socket.socket(socket.AF_UNIX), time.monotonic() + 120
        while True:
            try:
                self.socket.connect(self.address)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        self.answers = self.socket.makefile()

    def ask(self, job: Mapping[str, object]) -> int:
        self.socket.sendall(json.dumps(job).encode() + b"\n")
        return json.loads(self.answers.readline())

    def start(
        self,
        script: str,
        *words: object,
        environment: Mapping[str, str] | None = None,
        stdin: str = os.devnull,
        stdout: Path | None = None,
        cwd: str | Path = ".",
        new_session: bool = False,
    ) -> Child:
        """Start a script.

        Args:
            words: its `sys.argv[1:]`.
            environment: its variables; `quiet_environment` by default.
            stdin, stdout: files, or pipes with names.
        """
        self.count += 1
        out, err = stdout or self.place / f"{self.count}.out", self.place / f"{self.count}.err"
        job = {
            "script": script,
            "words": [str(word) for word in words],
            "environment": dict(environment or quiet_environment()),
            "streams": [str(stdin), str(out), str(err)],
            "cwd": str(Path(cwd).absolute()),
            "new_session": new_session,
        }
        return Child(self, self.ask(job), out, err)

    def run(self, script: str, *words: object, text: str = "", **options: object) -> Done:
        """Run a script to its end, with `text` as its stdin."""
        given = self.place / f"{self.count + 1}.in"
        given.write_text(text, encoding="utf-8")
        return self.start(script, *words, stdin=str(given), **options).wait()

    def output(self, script: str, *words: object, **options: object) -> str:
        """Run a script, which must succeed; return what it printed."""
        done = self.run(script, *words, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def close(self) -> None:
        self.answers.close()
        self.socket.close()
