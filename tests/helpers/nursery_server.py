"""Run by `nursery.Nursery`: imports the libraries once, then forks a process for each script that it is given.

Each line of stdin is a job as JSON: `{"script": ...}` is answered by the process's id, `{"wait": ID}` by how it ended.
"""

import gc
import importlib
import json
import os
import signal
import sys
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


def serve() -> None:
    """Answer job after job, until stdin is closed."""
    for number in HANDLERS:  # a launcher under test hands its signals on to all children of the tests' process
        signal.signal(number, signal.SIG_IGN)
    os.environ.update(HUB, HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1")
    os.environ.pop("HF_HUB_OFFLINE", None)
    for name in LIBRARIES:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    gc.freeze()  # else each collection in a child copies the pages of all that was imported
    for line in sys.stdin:
        job = json.loads(line)
        if "wait" in job:
            print(os.waitpid(job["wait"], 0)[1], flush=True)
            continue
        child = os.fork()
        if child == 0:
            run(**job)
        print(child, flush=True)


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
    serve()
