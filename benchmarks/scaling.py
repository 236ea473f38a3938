"""From one process to two: training steps of the same global batch, one thread in each process, on the CPU.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --families dcgan ddpm

Each family's default networks on MNIST digits. "hfgen" is the Trainer as torchrun starts it, with metrics and run
folder. "By hand" is the plain loop round the same networks and losses: each network in its own
DistributedDataParallel where there are two processes, fused AdamW, bytes in memory of which each process takes its
share, no metrics, no signals, noise drawn for its own images only. EMA and clipping, which the loop by hand has not,
are off on both sides.

The processes of all four variants live through the whole measurement and wait in turn, without using a core.
"""

import argparse
import contextlib
import itertools
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from interleave import Goal, Variant, measure, options, record
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import hfgen
from hfgen.data.images import decode_images
from hfgen.registry import get_family
from hfgen.settings.options import build_objective
from hfgen.settings.resolve import resolve

FAMILIES = ["dcgan", "vae", "realnvp", "ddpm"]
OFF = {"use_ema": False, "max_grad_norm": 0.0, "checkpointing_steps": 0, "validation_steps": 0}
Run = Callable[[int], Any]


# --- in a worker: by hand ---------------------------------------------------------------------------------------


class LocalNoise:
    """Draws for the images of this process only."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self.size, *shape)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(self.size, *shape)

    def integers(self, high: int) -> Tensor:
        return torch.randint(high, (self.size,))


def local_batches(pixels: Tensor, batch: int, rank: int, size: int) -> Iterator[Tensor]:
    """This process's share of each global batch."""
    for epoch in itertools.count():
        order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(epoch))
        for rows in order.split(batch)[: len(pixels) // batch]:
            mine = rows[rank * batch // size : (rank + 1) * batch // size]
            yield pixels.index_select(0, mine).float().div_(127.5).sub_(1)


def by_hand(family: str, batch: int, rank: int, size: int) -> Run:
    if size > 1:
        torch.distributed.init_process_group("gloo")
    images, a = hfgen.load_images("mnist-mini"), settings(family, batch)
    source = local_batches(decode_images(images, images.resolution(), center_crop=True), batch, rank, size)
    torch.manual_seed(0)
    pipeline = get_family(family).load().build(images.resolution(), images.channels)
    pipeline.objective_class.initialize(pipeline, {"pixel_values": next(source)}, LocalNoise(batch // size))
    components, optimizers = dict(pipeline.components), {}
    for name, model in pipeline.models().items():
        trained = [p for p in model.train().parameters() if p.requires_grad]
        if trained:
            if a.channels_last:
                model.to(memory_format=torch.channels_last)
            betas = (a.adam_beta1, a.adam_beta2)
            optimizers[name] = torch.optim.AdamW(trained, lr=a.learning_rate, betas=betas, weight_decay=0, fused=True)
            components[name] = DistributedDataParallel(model) if size > 1 else model
    objective = build_objective(pipeline.objective_class, components, {})
    torch.manual_seed(rank)

    def run(steps: int) -> None:
        for x in itertools.islice(source, steps):
            objective.noise = LocalNoise(len(x))
            for update in objective.training_step({"pixel_values": x}):
                update.loss.backward()
                for name in update.components:
                    optimizers[name].step()
                for optimizer in optimizers.values():
                    optimizer.zero_grad()
            objective.finish_step()
            objective.step += 1

    return run


# --- in a worker: hfgen -----------------------------------------------------------------------------------------


def settings(family: str, batch: int) -> Any:
    given = {"train_batch_size": batch, "max_train_steps": 10**9, **OFF}
    return resolve([("benchmark", given)], family, get_family(family).load()).arguments


def by_hfgen(family: str, batch: int, rank: int, size: int) -> Run:
    images, folder = hfgen.load_images("mnist-mini"), Path(os.environ["RUN_FOLDER"])
    torch.manual_seed(0)
    pipeline = get_family(family).load().build(images.resolution(), images.channels)
    steps_of = hfgen.Trainer(pipeline, images, settings(family, batch // size), folder).steps()

    def run(steps: int) -> None:
        for _ in itertools.islice(steps_of, steps):
            pass

    return run


SIDES = {"by hand": by_hand, "hfgen": by_hfgen}


def work(given: argparse.Namespace) -> None:
    """Take so many steps for each number that comes in; answer when they are done."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    torch.set_num_threads(1)
    run = SIDES[given.worker](given.families[0], given.batch, rank, size)
    torch.set_num_threads(1)  # Accelerate sets it too
    for line in itertools.chain(["0"], sys.stdin):
        run(int(line))
        print("done", file=answers, flush=True)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


# --- the measurement --------------------------------------------------------------------------------------------


class Processes:
    """One or two workers of one side, which train together."""

    def __init__(self, side: str, family: str, batch: int, size: int, stack: contextlib.ExitStack) -> None:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        command = [sys.executable, __file__, "--worker", side, "--families", family, "--batch", str(batch)]
        self.workers = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for rank in range(size):
            ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
            together = {**ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
            given = {"RUN_FOLDER": folder, "OMP_NUM_THREADS": 1, **(together if size > 1 else {})}
            environment = {**os.environ, **{name: str(value) for name, value in given.items()}}
            pipe = subprocess.PIPE
            self.workers.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment))
        stack.callback(self.end)
        self._wait()

    def run(self, steps: int) -> None:
        for worker in self.workers:
            assert worker.stdin is not None
            worker.stdin.write(f"{steps}\n")
            worker.stdin.flush()
        self._wait()

    def _wait(self) -> None:
        for worker in self.workers:
            assert worker.stdout is not None
            if worker.stdout.readline() != "done\n":
                raise SystemExit("A worker ended; see above.")

    def end(self) -> None:
        for worker in self.workers:
            assert worker.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                worker.stdin.close()
        for worker in self.workers:
            try:
                worker.wait(30)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()


def compare(family: str, given: argparse.Namespace) -> None:
    with contextlib.ExitStack() as stack:
        variants = []
        for side in SIDES:
            for size in (1, 2):
                name = f"{side}, {size} process{'es' if size > 1 else ''}"
                variants.append(Variant(name, Processes(side, family, given.batch, size, stack).run, {}, given.batch))
        blocks = measure(variants, given)
    goals = [
        Goal("hfgen, 2 processes", "ratio", 0.95, "by hand, 2 processes"),
        Goal("hfgen, 1 process", "ratio", 0.95, "by hand, 1 process"),
    ]
    used = {
        "ms": f"per step of {given.batch} images of mnist-mini, 28x28x1, {given.batch // 2} in each of two processes; "
        "one thread in each process",
        "networks": f"the defaults of {family}",
        "threads": 1,
    }
    bases = ["by hand, 1 process", "hfgen, 1 process"]
    record(f"scaling_{family}", variants, blocks, given, bases, goals, used)


def arguments() -> argparse.Namespace:
    parser = options(__doc__, blocks=7, block_seconds=2.0)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--families", nargs="*", default=FAMILIES, help="Of which to train the default networks.")
    parser.add_argument("--batch", type=int, default=64, help="Images of all processes together.")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    if torch.accelerator.is_available():
        raise SystemExit("This compares processes on a CPU; hide the accelerator, for example CUDA_VISIBLE_DEVICES= .")
    if given.worker:
        work(given)
        return
    for family in given.families:
        compare(family, given)


if __name__ == "__main__":
    main()
