"""The Accelerator of a training on a CPU."""

import torch
from accelerate import Accelerator, PartialState
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from hfgen.processes import world


def test_every_network_is_sharded_not_the_first_alone(monkeypatch):
    """A wrapper of an optimizer reads anew how processes share the work; the second network would be a replica."""
    monkeypatch.setenv("FSDP_VERSION", "2")
    accelerator = Accelerator(cpu=True)
    monkeypatch.setitem(PartialState._shared_state, "distributed_type", accelerator.distributed_type)
    world._shard_on_cpu(accelerator)
    AcceleratedOptimizer(torch.optim.SGD([torch.zeros(1, requires_grad=True)]))
    assert accelerator.distributed_type == DistributedType.FSDP
    AcceleratorState._reset_state()
