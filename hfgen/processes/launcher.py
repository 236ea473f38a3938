"""Starting several processes: `hfgen train --num_processes N`, on a CPU by torchrun, else by `accelerate launch`.

The process that was asked to stays behind. It hands signals on to those it started, tells the first error that one of
them met, once, and exits as they did: several processes look like one.
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

from hfgen.errors import HFGenError, UsageError, did_you_mean
from hfgen.processes.child import CONFIG, ERRORS, LAUNCHER, PRECISION, SCRIPT, is_launched

CONFIGS = Path(__file__).parent / "accelerate_configs"
MODULE = Path(__file__).parent.parent / "__main__.py"  # the command line, of any verb
ON_A_CPU = ("NO", "MULTI_CPU", "MULTI_GPU", "FSDP")


@dataclass(frozen=True)
class Wanted:
    """What the command line says of processes.

    Attributes:
        num_processes: of all machines; None leaves it to the configuration, else to the number of accelerators.
        accelerate_config: `single`, `multi_gpu`, `fsdp2` or a file.
        options: what else `accelerate launch` is told.
    """

    num_processes: int | None = None
    accelerate_config: str | None = None
    options: Sequence[str] = ()

    def here(self) -> bool:
        """Whether this process is the only one that is wanted, or one of those that were."""
        if is_launched():
            return True
        own = self.accelerate_config in ("single", "multi_gpu")
        alone = self.num_processes == 1 or (self.num_processes is None and self.accelerate_config in (None, "single"))
        return alone and (own or self.accelerate_config is None) and not self.options


class ProcessesError(HFGenError):
    """What the started processes ended with."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


# --- the process that starts the others -----------------------------------------------------------------------------
def launch(words: Sequence[str], wanted: Wanted, script: Path | None = None) -> None:
    """Run `hfgen train WORDS`, or WORDS with another script of hfgen's, in several processes, to their end.

    Raises:
        UsageError: what is wanted contradicts itself, the machine, or what Accelerate takes.
        ProcessesError: they failed or were stopped; with the exit code that one process would have.
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
    """The file of that name, of the package or the user's own, and what Accelerate reads in it.

    Raises:
        UsageError: there is none, or Accelerate does not take it.
    """
    from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file

    shipped = {file.stem: file for file in CONFIGS.glob("*.yaml")}
    path = shipped.get(name, Path(name))
    if not path.is_file():
        hint = did_you_mean(name, shipped) if not path.suffix else ""
        raise UsageError(f"accelerate_config {name!r} is no file and none of {', '.join(sorted(shipped))}.{hint}")
    try:
        config = load_config_from_file(str(path))
    except (ValueError, TypeError, AttributeError, KeyError, OSError, yaml.YAMLError) as error:
        raise UsageError(f"{path} is no configuration of Accelerate: {' '.join(str(error).split())}") from error
    if not isinstance(config, ClusterConfig):
        raise UsageError(f"{path} is for SageMaker; start that with `accelerate launch` itself.")
    return path, config


def number_of_processes(wanted: Wanted, config: Any) -> int:
    """As the command line says, else the configuration, else one for each accelerator."""
    from hfgen.processes.world import launched_processes

    count = wanted.num_processes or (config.num_processes if config.num_processes > 0 else _accelerators())
    if not count:
        raise UsageError("How many processes? This machine has no accelerators to count; give --num_processes.")
    above = launched_processes()
    if above not in (None, count):
        raise UsageError(
            f"`accelerate launch` was told {above} processes, and hfgen {count}; tell only one of the two."
        )
    return count


def check_kind(config: Any, count: int, on_cpu: bool, wanted: Wanted) -> None:
    """Raise a UsageError where processes of this number and kind cannot train together on this machine."""
    kind, name = str(config.distributed_type.value), wanted.accelerate_config
    if kind == "NO" and count > 1:
        raise UsageError(f"accelerate_config {name} is for one process, not {count}; there are multi_gpu and fsdp2.")
    if on_cpu and kind not in ON_A_CPU:
        raise UsageError(
            f"accelerate_config {name} is for {kind}, which needs accelerators; there is only a CPU here."
        )
    machines = config.num_machines
    if on_cpu and (machines > 1 or "--num_machines" in wanted.options):
        raise UsageError(
            "Several machines without accelerators: start torchrun on each of them, with its own options;\n"
            f"  torchrun --nnodes ... --nproc_per_node ... {SCRIPT} ..."
        )
    if not on_cpu and "--num_machines" not in wanted.options and count > _accelerators() * machines:
        raise UsageError(f"{count} processes were asked for; here are {_accelerators()} accelerators for them.")


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
        raise UsageError(f"What stands after -- goes to `accelerate launch`: {lines[-1]}") from error


def _shares(count: int, on_cpu: bool) -> dict[str, str]:
    """Each process its part of the cores; processes of one machine find each other on the loopback device."""
    import socket

    import torch

    loopback = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    found = {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // count))}
    if loopback and on_cpu:
        found["GLOO_SOCKET_IFNAME"] = loopback[0]
    return {name: os.environ.get(name, value) for name, value in found.items()}


def _run(parsed: Any, on_cpu: bool, plain: bool, count: int) -> dict[int, int]:
    """Start the processes and wait for them; rank -> exit code of those that failed, below 0 a signal's number."""
    from accelerate.commands.launch import launch_command
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    parsed.quiet = False  # where Accelerate would exit with 1, whatever the process's own code
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
    """What `accelerate launch` tells its processes; on a CPU it would start but one."""
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
    """torchrun logs each failure of a process at length, and says by what default values it goes; --debug shows it."""
    if os.environ.get("HFGEN_DEBUG", "0") in ("", "0"):
        logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


class HandedOn:
    """Within, SIGINT and SIGTERM go on to the processes that were started; `number` is the last one, or None.

    torchrun would pass them on too, but then kill what has not ended in half a minute, and exit with its own code.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "HandedOn":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._hand_on)
        self._theirs = os.environ.get("PET_SIGNALS_TO_HANDLE")
        os.environ["PET_SIGNALS_TO_HANDLE"] = ""  # torchrun's own option, by its variable: no handlers of its own
        return self

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        import psutil

        self.number = number
        started = psutil.Process().children()
        if not started:
            raise ProcessesError("Stopped before the training began.", 128 + number)
        for process in started:
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                # A terminal's Ctrl-C has already come to those of this process's group; torchrun's have their own.
                if number != signal.SIGINT or os.getpgid(process.pid) != os.getpgrp():
                    process.send_signal(number)

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._theirs is None:
            del os.environ["PET_SIGNALS_TO_HANDLE"]
        else:
            os.environ["PET_SIGNALS_TO_HANDLE"] = self._theirs


def _raise_as_one(ended: Mapping[int, int], folder: Path, stopped_by: int | None) -> None:
    """Raise what happened first: of the others' errors most are that one was gone."""
    if not ended:
        return
    told = sorted((json.loads(file.read_text()) for file in folder.glob("*.json")), key=lambda error: error["time"])
    silent = {rank: code for rank, code in ended.items() if rank not in {error["rank"] for error in told}}
    killed = [(rank, -code) for rank, code in silent.items() if code < 0 and code != -signal.SIGTERM]
    if killed and stopped_by not in [number for _, number in killed]:
        rank, number = killed[0]
        why = ", as a machine does that has no memory left" if number == signal.SIGKILL else ""
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
    code = next(iter(ended.values()))
    raise ProcessesError(f"Process {next(iter(ended))} of the training ended without a word.", abs(code) or 1)
