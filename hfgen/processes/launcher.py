"""The launcher of several processes, `hfgen train --num_processes N`: torchrun on a CPU, else `accelerate launch`.

The launching process waits for them. It forwards signals, prints the first error once, and exits with their code, so
several processes behave like one.
"""

import contextlib
import io
import json
import logging
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from hfgen import signals
from hfgen.cores import usable_cores
from hfgen.errors import HFGenError, UsageError, did_you_mean
from hfgen.processes.child import CONFIG, ERRORS, LAUNCHER, PRECISION, SCRIPT, is_launched

CONFIGS = Path(__file__).parent / "accelerate_configs"
MODULE = Path(__file__).parent.parent / "__main__.py"  # the command line, of any verb
ON_A_CPU = ("NO", "MULTI_CPU", "MULTI_GPU", "FSDP")


@dataclass(frozen=True)
class Wanted:
    """Options of the command line about processes.

    Attributes:
        num_processes: on all machines together; None takes it from the configuration, else one for each accelerator.
        accelerate_config: `single`, `multi_gpu`, `fsdp2` or a file.
        options: further options for `accelerate launch`.
    """

    num_processes: int | None = None
    accelerate_config: str | None = None
    options: Sequence[str] = ()

    def here(self) -> bool:
        """Return True if this process is to train itself: it was launched, or it is the only one."""
        if is_launched():
            return True
        own = self.accelerate_config in ("single", "multi_gpu")
        alone = self.num_processes == 1 or (self.num_processes is None and self.accelerate_config in (None, "single"))
        return alone and (own or self.accelerate_config is None) and not self.options


class ProcessesError(HFGenError):
    """The error with which the started processes ended."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


# --- the process that starts the others -----------------------------------------------------------------------------
def launch(words: Sequence[str], wanted: Wanted, script: Path | None = None) -> None:
    """Run `hfgen train WORDS`, or WORDS with another script of hfgen's, in several processes, to their end.

    Raises:
        UsageError: the options contradict each other or the machine, or Accelerate refuses them.
        ProcessesError: the processes failed or were stopped; it has the exit code that one process would have.
    """
    path, config = read_accelerate_config(wanted.accelerate_config or "multi_gpu")
    count = number_of_processes(wanted, config)
    on_cpu = _accelerators() == 0 or config.use_cpu or "--cpu" in wanted.options
    check_kind(config, count, on_cpu, wanted)
    parsed = _parsed([*_flags(path, config, count, wanted), *wanted.options, str(script or SCRIPT), *words])
    precision = parsed.mixed_precision or config.mixed_precision or ""
    with contextlib.ExitStack() as stack:
        told = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hfgen-")))
        environment = {LAUNCHER: str(os.getpid()), ERRORS: str(told), PRECISION: precision}
        environment[CONFIG] = wanted.accelerate_config or ""
        stack.enter_context(_environment({**_shares(count, on_cpu), **environment}))
        stack.enter_context(_quiet_launchers())
        signals = stack.enter_context(HandedOn())
        ended = _run(parsed, on_cpu, plain=wanted.accelerate_config is None and not wanted.options, count=count)
        _raise_as_one(ended, told, signals.number)


def read_accelerate_config(name: str) -> tuple[Path, Any]:
    """Find a configuration of that name, hfgen's or the user's own file, and have Accelerate read it.

    Raises:
        UsageError: there is none, or Accelerate cannot read it.
    """
    from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file

    shipped = {file.stem: file for file in CONFIGS.glob("*.yaml")}
    path = shipped.get(name, Path(name))
    if not path.is_file():
        hint = did_you_mean(name, shipped) if not path.suffix else ""
        known = ", ".join(sorted(shipped))
        raise UsageError(f"--accelerate_config {name!r} is neither a file nor one of {known}.{hint}")
    try:
        config = load_config_from_file(str(path))
    except (ValueError, TypeError, AttributeError, KeyError, OSError, yaml.YAMLError) as error:
        raise UsageError(f"{path} is not a configuration of Accelerate: {' '.join(str(error).split())}") from error
    if not isinstance(config, ClusterConfig):
        raise UsageError(f"{path} is for SageMaker; start that with `accelerate launch` itself.")
    return path, config


def number_of_processes(wanted: Wanted, config: Any) -> int:
    """Take the number from the command line, else the configuration, else one process for each accelerator."""
    from hfgen.processes.world import launched_processes

    count = wanted.num_processes or (config.num_processes if config.num_processes > 0 else _accelerators())
    if not count:
        raise UsageError("How many processes? This machine has no accelerators to count; give --num_processes.")
    above = launched_processes()
    if above not in (None, count):
        raise UsageError(
            f"`accelerate launch` was given {above} processes, and hfgen {count}; give it to only one of them."
        )
    return count


def check_kind(config: Any, count: int, on_cpu: bool, wanted: Wanted) -> None:
    """Raise a UsageError if so many processes of this kind cannot train together on this machine."""
    kind, name = str(config.distributed_type.value), wanted.accelerate_config
    if kind == "NO" and count > 1:
        raise UsageError(f"--accelerate_config {name} is for one process, not {count}; use multi_gpu or fsdp2.")
    if on_cpu and kind not in ON_A_CPU:
        raise UsageError(
            f"--accelerate_config {name} is for {kind}, which needs accelerators; there is only a CPU here."
        )
    machines = config.num_machines
    if on_cpu and (machines > 1 or "--num_machines" in wanted.options):
        raise UsageError(
            "For several machines without accelerators, start torchrun on each of them, with its own options:\n"
            f"  torchrun --nnodes ... --nproc_per_node ... {SCRIPT} ..."
        )
    if not on_cpu and "--num_machines" not in wanted.options and count > _accelerators() * machines:
        raise UsageError(f"{count} processes were asked for, but this machine has {_accelerators()} accelerators.")


def _accelerators() -> int:
    import torch

    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0


def _flags(path: Path, config: Any, count: int, wanted: Wanted) -> list[str]:
    flags = ["--config_file", str(path), "--num_processes", str(count)]
    if config.main_process_port is None and config.num_machines == 1 and "--num_machines" not in wanted.options:
        flags += ["--main_process_port", "0"]  # any free one
    return flags


def _parsed(words: Sequence[str]) -> Any:
    from accelerate.commands.launch import launch_command_parser

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return launch_command_parser().parse_args(words)
    except SystemExit as error:
        lines = said.getvalue().strip().splitlines() or ["its help is `accelerate launch --help`"]
        raise UsageError(f"Options after -- go to `accelerate launch`: {lines[-1]}") from error


def _shares(count: int, on_cpu: bool) -> dict[str, str]:
    """Return variables that give each process its share of the cores and, on a CPU, the loopback device."""
    import socket

    import torch

    loopback = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    found = {"OMP_NUM_THREADS": str(max(1, min(torch.get_num_threads(), usable_cores()) // count))}
    if loopback and on_cpu:
        found["GLOO_SOCKET_IFNAME"] = loopback[0]
    return {name: os.environ.get(name, value) for name, value in found.items()}


def _run(parsed: Any, on_cpu: bool, plain: bool, count: int) -> dict[int, int]:
    """Run the processes to their end.

    Returns:
        rank -> exit code of those that failed; minus the number of the signal that ended it.
    """
    from accelerate.commands.launch import launch_command
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    parsed.quiet = False  # else Accelerate exits with 1, whatever the process's own code
    try:
        if on_cpu:
            with _environment({} if plain else _of_accelerate(parsed)):
                _torchrun(count, parsed.training_script, parsed.training_script_args)
        else:
            launch_command(parsed)
    except ChildFailedError as error:
        return {rank: failure.exitcode for rank, failure in error.failures.items()}
    except subprocess.CalledProcessError as error:
        return {0: error.returncode}
    except (ValueError, AssertionError, ImportError, OSError) as error:
        raise UsageError(f"accelerate launch: {error}") from error
    return {}


def _torchrun(count: int, script: str, words: Sequence[str]) -> None:
    import torch.distributed.run as torchrun

    options = ["--nproc_per_node", str(count), "--rdzv_backend", "c10d", "--rdzv_endpoint", "127.0.0.1:0"]
    options += ["--local_addr", "127.0.0.1", script, *words]
    torchrun.run(torchrun.parse_args(options))


def _of_accelerate(parsed: Any) -> dict[str, str]:
    """Return the variables that `accelerate launch` sets for its processes; on a CPU it would start only one."""
    from accelerate.commands.launch import _validate_launch_command
    from accelerate.utils.launch import prepare_multi_gpu_env

    arguments, *_ = _validate_launch_command(parsed)
    told = prepare_multi_gpu_env(arguments)
    own = {name: value for name, value in told.items() if name.startswith(("ACCELERATE_", "FSDP_"))}
    return {**own, "ACCELERATE_USE_CPU": "true"}


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def _quiet_launchers() -> Iterator[None]:
    """Silence torchrun, which logs its default values and each failure of a process at length; --debug shows it."""
    if os.environ.get("HFGEN_DEBUG", "0") in ("", "0"):
        logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


class HandedOn:
    """A context that forwards what asks a run to end to the started processes; `number` is the last signal, or None.

    torchrun would forward them too, but kill processes that have not ended in half a minute and exit with its own
    code.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "HandedOn":
        for number in signals.stopping():
            self._previous[number] = signal.signal(number, self._hand_on)
        self._theirs = os.environ.get("PET_SIGNALS_TO_HANDLE")
        os.environ["PET_SIGNALS_TO_HANDLE"] = ""  # torchrun's option, by its variable: it installs no handlers
        return self

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        import psutil

        self.number = number
        started = psutil.Process().children()
        if not started:
            raise ProcessesError("Stopped before the training began.", 128 + number)
        for process in started:
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                # A terminal's Ctrl-C has already reached this process's group; torchrun's processes have their own.
                if number != signal.SIGINT or not _is_in_this_group(process.pid):
                    process.send_signal(number)

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._theirs is None:
            del os.environ["PET_SIGNALS_TO_HANDLE"]
        else:
            os.environ["PET_SIGNALS_TO_HANDLE"] = self._theirs


def _is_in_this_group(process: int) -> bool:
    return hasattr(os, "getpgid") and os.getpgid(process) == os.getpgrp()  # Windows has no groups


def _raise_as_one(ended: Mapping[int, int], folder: Path, stopped_by: int | None) -> None:
    """Raise the error that happened first; most of the others only say that a process was gone."""
    if not ended:
        return
    told = sorted((json.loads(file.read_text()) for file in folder.glob("*.json")), key=lambda error: error["time"])
    silent = {rank: code for rank, code in ended.items() if rank not in {error["rank"] for error in told}}
    killed = [(rank, -code) for rank, code in silent.items() if code < 0 and code != -signal.SIGTERM]
    if killed and stopped_by not in [number for _, number in killed]:
        rank, number = killed[0]
        why = ", which a machine sends when it runs out of memory" if number == signal.SIGKILL else ""
        raise ProcessesError(
            f"Process {rank} of the training was ended by {signal.Signals(number).name}{why}.\n"
            "Go on from its last checkpoint: the same command with --resume_from_checkpoint latest",
            128 + number,
        )
    if told:
        first = told[0]
        who = f"[process {first['rank']}] " if first["rank"] and not first["agreed"] else ""
        raise ProcessesError(f"{who}{first['message']}", first["code"])
    if stopped_by is not None:
        raise ProcessesError("Stopped; nothing further was saved.", 128 + stopped_by)
    rank, code = next(iter(ended.items()))
    raise ProcessesError(f"Process {rank} of the training ended without an error message.", abs(code) or 1)
