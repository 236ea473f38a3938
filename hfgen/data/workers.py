"""Items are read and decoded in worker processes, ahead of the training and in the requested order."""

import atexit
import os
import shutil
import signal
import sys
from collections import deque
from collections.abc import Callable, Generator
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hfgen import signals
from hfgen.cores import usable_cores
from hfgen.errors import HFGenError, UsageError, first_line

SHARED = Path("/dev/shm")  # where Linux keeps shared memory
AHEAD = 2  # batches that each worker makes ahead, of torch's DataLoader
GRACE = 300  # seconds that a training has, after a signal to stop, for its last step and its checkpoint

Rest = TypeVar("Rest")


def decoded(
    asked: Generator[tuple[Any, Rest], None, None],
    fetch: Callable[[Any], np.ndarray],
    num_workers: int | None,
    device: torch.device,
) -> Generator[tuple[Tensor, Rest], None, None]:
    """Fetch batches of items in their stored form, on the device, in the same order.

    An error of `asked` or of `fetch` is raised where its batch would have come, so the step at which a training stops
    does not depend on how far ahead the workers are. The workers end with this generator.

    Args:
        asked: yields (what `fetch` takes for a batch, the rest of that batch, which is passed through).
        fetch: returns the stored items of a batch, (B, ...); runs in the workers.
        num_workers: 0 decodes in this process; None takes the cores of this process but one, at most 8.

    Yields:
        (the stored items, shape (B, ...); the rest of that batch).

    Raises:
        HFGenError: an item cannot be read, or a worker died.
    """
    belongings: deque[Rest] = deque()
    failed: list[Exception] = []

    def items() -> Generator[Any, None, None]:
        try:
            for batch, rest in asked:
                belongings.append(rest)
                yield batch
        except Exception as error:  # raised while the workers start, it would leave them running
            failed.append(error)

    loader = DataLoader(
        _Items(fetch),
        batch_sampler=items(),  # iterated once
        num_workers=workers_here() if num_workers is None else num_workers,
        collate_fn=_as_it_is,
        pin_memory=device.type == "cuda",
        worker_init_fn=_leave_signals_to_the_trainer,
        generator=torch.Generator(),  # else each start consumes a random number of the global generator
    )
    batches = iter(loader)
    shutdown = getattr(batches, "_shutdown_workers", lambda: None)
    atexit.register(shutdown)  # at its exit Python would wait for workers of an unfinished training
    try:
        for stored in batches:
            if isinstance(stored, HFGenError):
                raise stored
            yield torch.as_tensor(stored).to(device, non_blocking=True), belongings.popleft()
    except RuntimeError as error:
        raise HFGenError(_died(error)) from error
    finally:
        # Left to the garbage collector, they would live as long as the traceback of an error.
        atexit.unregister(shutdown)
        shutdown()
        asked.close()
    if failed:
        raise failed[0]


def workers_here() -> int:
    """Return the cores that this process may use, its share of this machine's, minus one; from 1 to 8."""
    return max(1, min(8, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1))


class _Items(Dataset[Any]):
    """The dataset that workers read. An error travels as a value; raised, it would come wrapped in a traceback."""

    def __init__(self, fetch: Callable[[Any], np.ndarray]) -> None:
        self.fetch = fetch

    def __getitems__(self, items: Any) -> Tensor | np.ndarray | HFGenError:
        try:
            stored = self.fetch(items)
            worker = torch.utils.data.get_worker_info()
            fits = worker is None or fits_shared_memory(stored.nbytes, worker.num_workers)
            return torch.from_numpy(stored) if fits else stored
        except HFGenError as error:
            kind = UsageError if isinstance(error, UsageError) else HFGenError
            return kind(str(error))  # without its cause, which may not be picklable


def fits_shared_memory(num_bytes: int, num_workers: int) -> bool:
    """Return True if a batch may be handed over in shared memory; a container's may be small, or missing.

    There must be room for what all workers hand over at once. A batch that does not fit goes through a pipe.
    """
    if sys.platform != "linux":
        return True
    try:
        return shutil.disk_usage(SHARED).free > num_bytes * (AHEAD * num_workers + 1)
    except OSError:
        return False


def _as_it_is(batch: Any) -> Any:
    return batch


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Keep a worker alive on what asks the whole job to end, so that the last step and checkpoint complete.

    A second SIGTERM ends it, as it ends the training; or the end of `GRACE`, so that no worker stays for ever.
    """
    for number in signals.present(*signals.BY_HAND, *signals.AS_A_WARNING):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _await_a_second)


def _await_a_second(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    if hasattr(signal, "alarm"):  # Windows has none, and no such signal either
        signal.alarm(GRACE)


def _died(error: RuntimeError) -> str:
    return (
        f"A process that reads the data died: {first_line(error)}\n"
        "Memory, or shared memory (/dev/shm), may have run out; try --dataloader_num_workers 1, or 0."
    )
