"""Worker processes that decode: in order, with errors that can be read, and gone when the training is."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch

from hfgen.data import workers as workers_module
from hfgen.data.workers import decoded, fits_shared_memory
from hfgen.errors import HFGenError
from hfgen.testing import quiet_environment

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # where there is one core


def fetch(items):
    return np.stack([decode(item) for item in items])


def decode(item):
    """Runs in the workers; an item that is an error is one, a process id ends that process."""
    if isinstance(item, Exception):
        raise item
    if item == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02 if item % 3 else 0.0)
    return np.full((1, 2, 2), item, np.uint8)


def ask(*batches):
    for batch in batches:
        if isinstance(batch, Exception):
            raise batch
        yield batch, len(batch)


def workers():
    """Forks of this process; others are helpers of the tests, or Python's own."""
    here = psutil.Process()
    alive = [child for child in here.children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in alive if child.cmdline() == here.cmdline()]


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.whole
def test_the_order_is_that_of_the_asking(num_workers):
    batches = [[3 * i + j for j in range(i % 3 + 1)] for i in range(12)]
    found = list(decoded(ask(*batches), fetch, num_workers, CPU))
    assert [pixels[:, 0, 0, 0].tolist() for pixels, _ in found] == batches
    assert [rest for _, rest in found] == [len(batch) for batch in batches]
    assert workers() == []


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("where", ["decoding", "asking"])
@pytest.mark.whole
def test_an_error_comes_in_the_place_of_its_batch_and_without_a_traceback(num_workers, where):
    broken = HFGenError("x.png cannot be read\nMend it.")
    batches = [[1], [2], [3], [4, broken] if where == "decoding" else broken, [5]]
    source = decoded(ask(*batches), fetch, num_workers, CPU)
    assert [next(source)[0][0, 0, 0, 0].item() for _ in range(3)] == [1, 2, 3]
    with pytest.raises(HFGenError) as error:
        next(source)
    assert str(error.value) == str(broken)
    assert workers() == []


def test_workers_end_when_the_training_stops_asking():
    source = decoded(ask(*[[i] for i in range(1000)]), fetch, 2, CPU)
    next(source)
    assert len(workers()) == 2
    source.close()
    assert workers() == []


def test_a_worker_that_dies_is_told():
    source = decoded(ask([1], ["die"], [2]), fetch, 1, CPU)
    with pytest.raises(HFGenError, match="A process that reads the data died: .*\n.*--dataloader_num_workers"):
        list(source)
    assert workers() == []


SCRIPT = """
import sys, time
import numpy, torch
from hfgen.data.workers import decoded
def fetch(items):
    time.sleep(0.01)
    return numpy.zeros((1, 1, 2, 2), numpy.uint8)
source = decoded((([i], None) for i in range(10**9)), fetch, 2, torch.device("cpu"))
for _ in range(4):
    next(source)
print("running", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("way", ["killed", "never finished"])
def test_workers_do_not_outlive_a_training(way):
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=quiet_environment()
    ) as process:
        assert process.stdout.readline() == b"running\n"
        children = psutil.Process(process.pid).children()
        assert len(children) == 2
        if way == "killed":
            process.kill()
        process.stdin.close()
        assert process.wait(30) == (-signal.SIGKILL if way == "killed" else 0)
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []


def test_workers_leave_the_signals_of_a_whole_job_to_the_training():
    source = decoded(ask(*[[i] for i in range(1000)]), fetch, 2, CPU)
    for _ in range(8):  # each of both has begun
        next(source)
    for child in workers():
        child.send_signal(signal.SIGINT)
        child.send_signal(signal.SIGTERM)
    for _ in range(20):
        next(source)
    source.close()
    assert workers() == []


@pytest.mark.parametrize(("free", "fits"), [(10 * 2**20, True), (4 * 2**20, False), (None, False)])
def test_shared_memory_that_is_small_or_missing_is_left_alone(monkeypatch, free, fits):
    """Two workers may hand over four batches of 1 MiB at once."""

    def disk_usage(place):
        if free is None:
            raise FileNotFoundError
        return shutil._ntuple_diskusage(2**26, 2**26 - free, free)

    monkeypatch.setattr(workers_module.sys, "platform", "linux")
    monkeypatch.setattr(workers_module.shutil, "disk_usage", disk_usage)
    assert fits_shared_memory(2**20, 2) is fits


@pytest.mark.whole
def test_batches_come_without_shared_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(workers_module, "SHARED", tmp_path / "missing")
    batches = [[3 * i + j for j in range(i % 3 + 1)] for i in range(4)]
    found = list(decoded(ask(*batches), fetch, 1, CPU))
    assert [pixels[:, 0, 0, 0].tolist() for pixels, _ in found] == batches
