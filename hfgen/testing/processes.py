"""What the laws run in other processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

LOAD = """
import json, pathlib, sys
from hfgen import HFGenPipeline
folder = pathlib.Path(sys.argv[1])
import numpy, torch
for name, options in {"whole": {}, "variant": {"variant": "other"}, "shards": {}}.items():
    pipeline = HFGenPipeline.from_pretrained(folder / name, **options)
    numpy.save(folder / f"{name}.npy", pipeline(seeds=[0, 1], output_type="np").images)
double = HFGenPipeline.from_pretrained(folder / "whole", dtype=torch.float64)
dtypes = {str(p.dtype) for model in double.models().values() for p in model.parameters()}
print(json.dumps({"class": type(pipeline).__name__, "dtypes": sorted(dtypes)}))
"""

TWO_PROCESSES = """
import os, pathlib, sys
import torch
from accelerate import PartialState
from hfgen import trainer
from hfgen.train import main

def run(name, *options):
    try:
        main([*sys.argv[2:], "--output_dir", str(folder / name), *options])
    except SystemExit as stop:
        if stop.code:
            raise

folder, kept = pathlib.Path(sys.argv[1]), []
leave = trainer.Trainer._leave
def keep(self):
    kept.append({f"{c}.{n}": t.clone() for c, m in self.pipeline.models().items() for n, t in m.state_dict().items()})
trainer.Trainer._leave = keep  # the second training needs the process group
run("replicas")
state = PartialState()
torch.save({"world": state.num_processes, "weights": kept[0]}, folder / f"rank{state.process_index}.pt")
os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "NO_WRAP"}
trainer.Trainer._leave = lambda self: None
run("shards")
run("resumed", "--max_train_steps", "2")
trainer.Trainer._leave = leave
run("resumed", "--resume_from_checkpoint", "latest")
"""


def load_in_subprocess(folder: Path) -> dict[str, Any]:
    """What a process says that has imported nothing but hfgen and loads what was saved in `folder`."""
    command = [sys.executable, "-W", "ignore", "-c", LOAD, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=quiet_environment())
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def run_two_processes(script: str, arguments: list[str], folder: Path) -> str:
    """Run a script under torchrun on two CPU processes; return what it wrote."""
    path = folder / "two_processes.py"
    path.write_text(script, encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv_backend", "c10d"]
    launcher += ["--rdzv_endpoint", "127.0.0.1:0", "--local_addr", "127.0.0.1", str(path), str(folder), *arguments]
    done = subprocess.run(launcher, capture_output=True, text=True, env=quiet_environment(), timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def quiet_environment() -> dict[str, str]:
    """This process's environment, for a child on the loopback device and one thread."""
    extra = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **extra}
