"""Run by `nursery.Nursery`: imports the libraries once, then forks a process for each script that it is given.

It listens on a Unix socket. Each line is a job as JSON: `{"script": ...}` is answered by the process's id,
`{"wait": ID}` by its exit code once it has ended, `{"poll": ID}` by its exit code or null at once.
"""

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

# Where the libraries look for the Hub and their caches: what they read from here, a process replaces by its own.
HUB = {"HF_ENDPOINT": "http://nursery.invalid", "HF_HOME": "/nursery.invalid"}
LIBRARIES = [
    "accelerate",
    "datasets",
    "diffusers.optimization",
    "diffusers.pipelines.pipeline_utils",
    "huggingface_hub.hf_api",
    "matplotlib.pyplot",
    "torch.distributed.fsdp",
    "transformers.modeling_utils",
]
HANDLERS: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


def prepare() -> None:
    """Import the libraries."""
    os.environ.update(HUB, HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1")
    os.environ.pop("HF_HUB_OFFLINE", None)
    for name in LIBRARIES:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    os.fsync = lambda number: None  # the disk takes longer than what is written


def serve(address: str) -> None:
    """Answer job after job, until the last client has gone."""
    for number in HANDLERS:  # a launcher under test hands its signals on to all children of the tests' process
        signal.signal(number, signal.SIG_IGN)
    gc.freeze()  # else each collection in a child copies the pages of all that was imported
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    Server(listener).run()
    for name in (address, f"{address}.started"):
        os.unlink(name)


class Server:
    """Children of this process, for several clients, none of which waits for another's."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.clients: dict[socket.socket, bytes] = {}  # -> what is left of a line
        self.waiting: list[tuple[socket.socket, int]] = []
        self.ended: dict[int, int] = {}

    def run(self) -> None:
        known, started = False, time.monotonic()
        while self.clients or (not known and time.monotonic() < started + 120):
            ready, _, _ = select.select([self.listener, *self.clients], [], [], 0.02 if self.waiting else 5)
            for found in ready:
                if found is self.listener:
                    self.clients[found.accept()[0]] = b""
                    known = True
                else:
                    self.read(found)
            self.answer_waiting()

    def read(self, client: socket.socket) -> None:
        text = client.recv(1 << 16)
        if not text:
            del self.clients[client]
            client.close()
            return
        *lines, self.clients[client] = (self.clients[client] + text).split(b"\n")
        for line in lines:
            job = json.loads(line)
            if "wait" in job:
                self.waiting.append((client, job["wait"]))
            else:
                self.answer(client, self.exit_code(job["poll"]) if "poll" in job else self.fork(job))

    def answer(self, client: socket.socket, value: int | None) -> None:
        client.sendall(json.dumps(value).encode() + b"\n")

    def answer_waiting(self) -> None:
        for client, child in list(self.waiting):
            if (code := self.exit_code(child)) is not None:
                self.waiting.remove((client, child))
                self.answer(client, code)

    def exit_code(self, child: int) -> int | None:
        if child not in self.ended:
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                self.ended[child] = os.waitstatus_to_exitcode(status)
        return self.ended.get(child)

    def fork(self, job: dict[str, Any]) -> int:
        child = os.fork()
        if child == 0:
            for held in [self.listener, *self.clients]:
                held.close()
            run(**job)
        self.ended.pop(child, None)  # the number may have been another one's
        return child


def run(
    script: str, words: list[str], environment: dict[str, str], streams: list[str], cwd: str, new_session: bool
) -> None:
    """Become a process that runs this script; the streams are files for stdin, stdout and stderr."""
    for number, handler in HANDLERS.items():
        signal.signal(number, handler)
    for number, path in enumerate(streams):
        os.dup2(os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # the server's may hold jobs that it has read ahead
    if new_session:
        os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    importlib.invalidate_caches()
    use_hub(environment)
    sys.argv = ["job", *words]
    exec(compile(script, "job", "exec"), {"__name__": "__main__"})
    sys.exit()


def use_hub(environment: dict[str, str]) -> None:
    """Put this process's Hub and caches where the libraries keep what they read when they were imported."""
    import huggingface_hub

    own = {name: environment.get(name, place) for name, place in HUB.items()}
    apis = [huggingface_hub.hf_api.api, huggingface_hub.hffs, huggingface_hub.hffs._api]
    for holder in [*sys.modules.values(), *apis]:
        for key, value in list(getattr(holder, "__dict__", {}).items()):
            for name, place in HUB.items():
                if isinstance(value, str | Path) and str(value).startswith(place):
                    setattr(holder, key, type(value)(str(value).replace(place, own[name])))
    offline = environment.get("HF_HUB_OFFLINE", "0") == "1"
    sys.modules["huggingface_hub.constants"].HF_HUB_OFFLINE = offline  # type: ignore[attr-defined]
    sys.modules["datasets.config"].HF_HUB_OFFLINE = offline  # type: ignore[attr-defined]


if __name__ == "__main__":
    prepare()
    serve(sys.argv[1])
