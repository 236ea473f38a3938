"""Images are decoded in worker processes, ahead of the training and in the order in which they are asked for."""

import atexit
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Sequence
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hfgen.errors import HFGenError

GRACE = 300  # seconds that a training has, once told to stop, for its last step and its checkpoint

Rest = TypeVar("Rest")


def decoded(
    asked: Generator[tuple[Sequence[Any], Rest], None, None],
    decode: Callable[[Any], np.ndarray],
    num_workers: int | None,
    device: torch.device,
) -> Generator[tuple[Tensor, Rest], None, None]:
    """(items, what belongs to them) -> (their pixels on the device, what belongs to them), in the same order.

    An error, of `asked` or of `decode`, is raised where its batch would have come: how far ahead the workers are does
    not decide at which step a training stops. The workers end with this generator.

    Args:
        decode: an item -> uint8, shape (C, H, W); runs in the workers.
        num_workers: 0 decodes here; None takes the cores of this process, but one.

    Raises:
        HFGenError: as above, or a worker died.
    """
    belongings: deque[Rest] = deque()
    failed: list[Exception] = []

    def items() -> Generator[Sequence[Any], None, None]:
        try:
            for batch, rest in asked:
                belongings.append(rest)
                yield batch
        except Exception as error:  # raised while the workers start, it would keep them
            failed.append(error)

    loader = DataLoader(
        _Decoding(decode),
        batch_sampler=items(),  # type: ignore[arg-type]  # iterated once
        num_workers=workers_here() if num_workers is None else num_workers,
        collate_fn=_as_it_is,
        pin_memory=device.type == "cuda",
        worker_init_fn=_leave_signals_to_the_trainer,
        generator=torch.Generator(),  # else each start draws a number from the one that noise may come from
    )
    batches = iter(loader)
    shutdown = getattr(batches, "_shutdown_workers", lambda: None)
    atexit.register(shutdown)  # Python would wait at its end for the workers of a training that was never finished
    try:
        for pixels in batches:
            if isinstance(pixels, HFGenError):
                raise pixels
            yield pixels.to(device, non_blocking=True), belongings.popleft()
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
    """The cores that this process may use, shared with the other processes on this machine, but one; at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    return max(1, min(8, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1))


class _Decoding(Dataset[Any]):
    """What the workers run. An error travels as a value: raised there, it would come back wrapped in a traceback."""

    def __init__(self, decode: Callable[[Any], np.ndarray]) -> None:
        self.decode = decode

    def __getitems__(self, items: Sequence[Any]) -> Tensor | HFGenError:
        try:
            return torch.from_numpy(np.stack([self.decode(item) for item in items]))
        except HFGenError as error:
            return HFGenError(str(error))  # without what caused it, which need not survive pickling


def _as_it_is(batch: Any) -> Any:
    return batch


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Ctrl-C, and a SIGTERM to a whole job, reach the workers too: without them no step would end, no checkpoint come.

    A second SIGTERM ends them, as it does the training, or `GRACE`; so nothing waits for them for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _await_a_second)


def _await_a_second(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    signal.alarm(GRACE)


def _died(error: RuntimeError) -> str:
    first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
    return (
        f"A process that decodes images died: {first_line}\n"
        "Memory, or shared memory (/dev/shm), may have run out; try fewer: --dataloader_num_workers 1, or 0."
    )
