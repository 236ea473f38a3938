"""Facts that a process has from its launcher, which is `hfgen train --num_processes N` or another one."""

import json
import os
import shlex
import signal
import sys
import threading
import time
from pathlib import Path

from hfgen.errors import Interrupted
from hfgen.files import printable
from hfgen.settings.arguments import TrainingArguments
from hfgen.tokens import without_secrets

SCRIPT = Path(__file__).parent.parent / "train.py"

# Set by hfgen's launcher: its process id, the folder for errors, how the processes were started.
LAUNCHER, ERRORS, CONFIG, PRECISION = (f"HFGEN_LAUNCHER{end}" for end in ("", "_ERRORS", "_CONFIG", "_PRECISION"))


def is_launched() -> bool:
    """Return True in a process that a launcher started, with others or, by hfgen's launcher, alone."""
    together = any(name in os.environ for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    return together or os.environ.get(LAUNCHER) == str(os.getppid())


def leave_error(message: str, code: int, agreed: bool) -> bool:
    """Leave an error to hfgen's launcher, which prints the first one; False if there is none or it has ended."""
    folder, rank = os.environ.get(ERRORS), int(os.environ.get("RANK", "0"))
    if folder is None or os.environ.get(LAUNCHER) != str(os.getppid()):
        return False
    error = {"rank": rank, "code": code, "message": without_secrets(message), "agreed": agreed, "time": time.time()}
    try:
        (Path(folder) / f"{rank}.tmp").write_text(json.dumps(error), encoding="utf-8")
        (Path(folder) / f"{rank}.tmp").rename(Path(folder) / f"{rank}.json")
    except OSError:
        return False
    return True


def tell_error(message: str, code: int, agreed: bool) -> None:
    """Print an error, once if it is `agreed`: every process has raised it. Others are printed by each process.

    Processes that `hfgen train` started leave it to that launcher.
    """
    rank = int(os.environ.get("RANK", "0"))
    message = "\n".join(printable(line) for line in without_secrets(message).splitlines())  # of strangers' files
    if not leave_error(message, code, agreed) and (rank == 0 or not agreed):
        print(f"hfgen: {message}" if rank == 0 else f"hfgen[{rank}]: {message}", file=sys.stderr, flush=True)


def tell_now(error: Interrupted) -> None:
    """Print that the training was stopped, before anything slow: a launcher may not wait for that."""
    tell_error(str(error), error.exit_code, agreed=True)
    error.reported = True


def follow_launcher() -> None:
    """End as at SIGTERM when hfgen's launcher is killed; else the next run would share its folder with this one."""
    launcher = os.environ.get(LAUNCHER)
    if launcher != str(os.getppid()):
        return

    def watch() -> None:
        while launcher == str(os.getppid()):
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def launched_precision() -> str | None:
    """Return the launcher's mixed precision; `accelerate launch` sets "no" if none was asked for."""
    return os.environ.get(PRECISION, os.environ.get("ACCELERATE_MIXED_PRECISION")) or None


def resume_command(arguments: TrainingArguments, folder: Path, num_processes: int) -> str:
    """Return the command line that resumes a run."""
    words = ["--config", f"{folder}/config.yaml", "--output_dir", str(folder), "--resume_from_checkpoint", "latest"]
    for name in ("cache_dir", "push_to_hub", "hub_model_id", "hub_strategy", "hub_private_repo"):
        value = getattr(arguments, name)
        if value != getattr(TrainingArguments, name):
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    by_hfgen, config = LAUNCHER in os.environ, os.environ.get(CONFIG)
    if not by_hfgen and _needs_its_launcher():
        return f"accelerate launch ... {shlex.quote(str(SCRIPT))} {shlex.join(words)}"
    words += ["--num_processes", str(num_processes)] if num_processes > 1 else []
    words += ["--accelerate_config", config] if config else []
    return f"hfgen train {shlex.join(words)}"


def _needs_its_launcher() -> bool:
    """Return True for several machines or sharded weights, whose options only the launcher knows."""
    divided = any(os.environ.get(f"ACCELERATE_USE_{kind}") == "true" for kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM"))
    return divided or os.environ.get("LOCAL_WORLD_SIZE", "1") != os.environ.get("WORLD_SIZE", "1")
