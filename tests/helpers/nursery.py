"""Processes forked from one that has imported the libraries: a start costs a tenth of a second and not ten."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from hfgen.testing import quiet_environment

SCRIPT = """
import importlib, json, os, signal, sys
HANDLERS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
for number in HANDLERS:  # a launcher under test hands its signals on to all children of the tests' process
    signal.signal(number, signal.SIG_IGN)
for name in sys.argv[1:]:
    importlib.import_module(name)
import torch
torch.set_num_threads(1)
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        for number, handler in HANDLERS.items():
            signal.signal(number, handler)
        for number, path in enumerate(job["streams"], 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        if job["new_session"]:
            os.setsid()
        os.chdir(job["cwd"])
        sys.argv = ["job", *job["words"]]
        exec(compile(job["script"], "job", "exec"), {"__name__": "__main__"})
        sys.exit()
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""
TRAIN = "import sys; from hfgen.train import main; main(sys.argv[1:])"
# What a training imports, but for its family.
TRAINING = [
    "hfgen.training.run",
    "hfgen.training.trainer",
    "hfgen.commands.train",
    "diffusers.optimization",
    "matplotlib.pyplot",
]


class Done(NamedTuple):
    """How a process ended; minus a signal's number as `returncode`, as subprocess has it."""

    returncode: int
    stdout: str
    stderr: str


class Nursery:
    """Runs one script at a time, each in a child of a process that has imported these modules."""

    def __init__(self, *modules, environment=None):
        command = [sys.executable, "-W", "ignore", "-c", SCRIPT, *modules]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=environment or quiet_environment(), **pipes)
        self.place = Path(tempfile.mkdtemp(prefix="nursery-"))

    def start(self, script, *words, new_session=False, cwd="."):
        """The child's process id."""
        streams = [str(self.place / name) for name in ("stdout", "stderr")]
        job = {"script": script, "words": [str(word) for word in words], "streams": streams}
        self.process.stdin.write(json.dumps({**job, "new_session": new_session, "cwd": str(cwd)}) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def wait(self):
        code = os.waitstatus_to_exitcode(int(self.process.stdout.readline()))
        return Done(code, *((self.place / name).read_text(encoding="utf-8") for name in ("stdout", "stderr")))

    def run(self, script, *words, **options):
        self.start(script, *words, **options)
        return self.wait()

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(timeout=60)
