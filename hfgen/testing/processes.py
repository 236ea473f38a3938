"""Run parts of the laws in other processes: loading in a fresh one, training in two."""

import contextlib
import json
import multiprocessing
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PRELOADED = ["hfgen.training.run", "hfgen.train", "hfgen.commands.main", "torch.distributed.fsdp", "torch.testing"]
LOAD = """
import json, pathlib, sys
from hfgen import HFGenPipeline, list_families
assert not {family.module for family in list_families()} & {*sys.modules}  # none is imported
folder, sampling = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
import numpy, torch
for name, options in {"whole": {}, "variant": {"variant": "other"}, "shards": {}}.items():
    pipeline = HFGenPipeline.from_pretrained(folder / name, **options)
    numpy.save(folder / f"{name}.npy", pipeline(seeds=[0, 1], output_type="np", **sampling).images)
double = HFGenPipeline.from_pretrained(folder / "whole", dtype=torch.float64)
dtypes = {str(p.dtype) for model in double.models().values() for p in model.parameters()}
(folder / "loaded.json").write_text(json.dumps({"class": type(pipeline).__name__, "dtypes": sorted(dtypes)}))
"""

# Each of two processes trains under DDP, and keeps its weights as the last step left them.
UNDER_DDP = """
import os, pathlib, shutil, sys
import torch
from accelerate import PartialState
from hfgen.training import run as a_run, trainer
from hfgen.train import main

def run(name, *options):
    try:
        main([*sys.argv[2:], "--output_dir", str(folder / name), *options])
    except SystemExit as stop:
        if stop.code:
            raise

a_run.plot_run = lambda metrics, folder: None  # seconds for each run
folder, kept = pathlib.Path(sys.argv[1]), []
leave = trainer.Trainer._leave
def keep(self):
    kept.append({f"{c}.{n}": t.clone() for c, m in self.pipeline.models().items() for n, t in m.state_dict().items()})
    if LAST:
        leave(self)
trainer.Trainer._leave = keep
run("ddp")
state = PartialState()
torch.save({"world": state.num_processes, "weights": kept[0]}, folder / f"rank{state.process_index}.pt")
"""

# Then both train in shards, stop, and resume. All three runs share the process group, which the last one destroys.
UNDER_FSDP2 = """
os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "NO_WRAP"}
trainer.Trainer._leave = lambda self: None
run("fsdp2", "--checkpointing_steps", "2", "--checkpoints_total_limit", "0")
if state.is_main_process:  # as a kill in the third step would leave it
    shutil.copytree(folder / "fsdp2", folder / "resumed", ignore=shutil.ignore_patterns("checkpoint-3", ".*"))
state.wait_for_everyone()
trainer.Trainer._leave = leave
run("resumed", "--resume_from_checkpoint", "latest")
"""


def load_in_subprocess(folder: Path, sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Load the pipelines saved in `folder` in a process that has imported no family; return its report."""
    process = _forks().Process(
        target=_run, args=(LOAD, [str(folder), json.dumps(sampling)], quiet_environment(), folder / "log")
    )
    process.start()
    _wait([process], time.monotonic() + 240)
    assert process.exitcode == 0, (folder / "log").read_text(encoding="utf-8")
    return json.loads((folder / "loaded.json").read_text(encoding="utf-8"))


def split_of(pipeline: Any, objective: Mapping[str, Any]) -> tuple[int, list[str]]:
    """Return how many micro-batches each of two processes may accumulate, and the options of that split.

    Neither BatchNorm nor a coupled loss over two micro-batches is that of one batch.
    """
    from hfgen.processes.batch_norm import BATCH_NORMS
    from hfgen.settings.options import build_objective

    normed = any(isinstance(module, BATCH_NORMS) for model in pipeline.models().values() for module in model.modules())
    if normed or build_objective(pipeline.objective_class, pipeline.components, objective).coupled:
        return 1, ["--sync_batch_norm"] if normed else []
    return 2, ["--gradient_accumulation_steps", "2"]


def train_in_two_processes(arguments: list[str], folder: Path, in_shards: bool) -> str:
    """Train in `folder` under DDP and, `in_shards`, under FSDP2 too; return what the processes wrote."""
    script = f"LAST = {not in_shards}\n{UNDER_DDP}{UNDER_FSDP2 if in_shards else ''}"
    return run_two_processes(script, arguments, folder)


def run_two_processes(script: str, arguments: list[str], folder: Path) -> str:
    """Run a script in two processes on the CPU, started as torchrun starts them; return what they wrote."""
    context = _forks()
    address = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
    }
    environment = {**quiet_environment(), **address}
    logs = [folder / f"rank{rank}.log" for rank in (0, 1)]
    ended = context.Barrier(2)
    started = [
        context.Process(
            target=_as_rank, args=(rank, script, [str(folder), *arguments], environment, logs[rank], ended)
        )
        for rank in (0, 1)
    ]
    for process in started:
        process.start()
    _wait(started, time.monotonic() + 240)
    written = "".join(log.read_text(encoding="utf-8") for log in logs if log.is_file())
    assert [process.exitcode for process in started] == [0, 0], written
    return written


def _forks() -> Any:
    """Start processes as forks of one that has imported the libraries, which takes longer than the laws do."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _as_rank(rank: int, script: str, words: list[str], environment: dict[str, str], log: Path, ended: Any) -> None:
    """Run the script as one of two processes, and exit together with the other."""
    _run(script, words, {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}, log)
    with contextlib.suppress(threading.BrokenBarrierError):
        ended.wait(60)  # a process that exits closes connections that the other may still read


def _run(script: str, words: list[str], environment: dict[str, str], log: Path) -> None:
    """Run the script with its output in a log file."""
    import torch

    with log.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    sys.argv = ["law.py", *words]
    exec(compile(script, "law.py", "exec"), {"__name__": "__main__"})


def _wait(started: list[Any], deadline: float) -> None:
    """Wait until all have ended; kill the others once one fails, since they would wait for it forever."""
    while any(process.is_alive() for process in started):
        if any(process.exitcode for process in started) or time.monotonic() > deadline:
            started[0].join(5)
            for process in started:
                process.kill()
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def quiet_environment() -> dict[str, str]:
    """Copy this process's environment for a child: one thread, loopback network, no Hub."""
    extra = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **extra}
