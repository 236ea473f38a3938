"""Losses that wrappers and splits stand in the way of: penalties, coupled batches, state per forward, fresh images."""

import json
from pathlib import Path

import plugin_site
import pytest

from hfgen.testing import FamilyTests, make_data
from hfgen.testing.processes import run_two_processes

TOYS = Path(plugin_site.__file__).parent / "toy"
LAWS = {  # those about training: what a pipeline of these toys draws or saves is another's
    "test_every_parameter_gets_a_gradient",
    "test_is_registered",
    "test_resume_is_exact",
    "test_two_processes_train_what_one_does",
    "test_two_steps_change_the_weights",
}


@pytest.fixture(scope="module", autouse=True)
def site(tmp_path_factory):
    """Where the two families are installed, as one distribution."""
    folder = tmp_path_factory.mktemp("site")
    plugin_site.install(folder, "toys", *plugin_site.TOYS)
    with plugin_site.on_path(folder):
        yield folder


def trained(cls):
    """Keep the laws about training only."""
    for name in {name for name in dir(cls) if name.startswith("test_")} - LAWS:
        setattr(cls, name, None)
    return cls


@trained
class TestToyCritic(FamilyTests):
    """Penalties within, spectral norm, fresh images for each critic update, and a last call without backward pass."""

    family = "toy_critic"
    sample_size = 8
    in_shards = True
    objective = {"generator_first": True}
    overrides = {"generator.unsaved": True}
    training = {"use_ema": True}


@trained
class TestToyCoupled(FamilyTests):
    """The energy distance over the whole batch."""

    family = "toy_coupled"
    sample_size = 8
    in_shards = True
    training = {"use_ema": True}


# Two processes, without a training: each line of JSON that they print is one finding.
TWO = """
import copy, json, os, sys
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from hfgen import HFGenError, UsageError, directional_derivative, unwrapped
from hfgen.processes.shards import gathered, refuse_second_derivatives
from hfgen.training.ema import ModelEMA
from hfgen.whole_batch import gather_rows
from toy_transformer import ToyTransformer, ToyTransformerConfig

dist.init_process_group("gloo")
rank, found = dist.get_rank(), {}
torch.manual_seed(0)
own = slice(4 * rank, 4 * rank + 4)

# --- gather, in float64: losses of all rows, of own rows against all, and one of second order
def losses(f, x, everyone):
    pairs = torch.cdist(everyone(f), everyone(f)).square()
    yield (pairs / (1 + pairs)).mean()
    yield torch.log(1 + torch.cdist(f, everyone(f)).square()).sum(1).mean()
    energy = (everyone(f) @ everyone(f).T).sin().sum() / (8 if len(f) == 8 else 16)  # through gather: times processes
    yield torch.autograd.grad(energy, x, create_graph=True)[0].square().mean()

net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
x, errors = torch.randn(8, 3, dtype=torch.float64), []
for i in range(3):
    whole = x.clone().requires_grad_()
    loss = list(losses(net(whole), whole, lambda f: f))[i]
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])
    replica = DistributedDataParallel(copy.deepcopy(net))
    part = x[own].clone().requires_grad_()
    list(losses(replica(part), part, gather_rows))[i].backward()
    gradient = torch.cat([p.grad.flatten() for p in replica.parameters()])
    errors.append(((gradient - expected).abs().max() / expected.abs().max()).item())
found["gather"] = max(errors)
found["order"] = gather_rows(torch.arange(4) + 4 * rank).tolist()

# --- derivatives along a direction
net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
x, v = torch.randn(8, 3), torch.randn(8, 3)
exact = directional_derivative(net, (x,), (v,))
sharded = copy.deepcopy(net)
for module in (sharded[0], sharded):
    fully_shard(module, mesh=init_device_mesh("cpu", (2,)))
for name, network in {"ddp": DistributedDataParallel(copy.deepcopy(net)), "fsdp2": sharded}.items():
    found[name] = [(directional_derivative(network, (x,), (v,), h) - exact).abs().max().item() for h in (None, 1e-2)]
    found[name + " inside"] = unwrapped(network) is (network.module if name == "ddp" else network)

refuse_second_derivatives(sharded)
try:
    x = x.requires_grad_()
    torch.autograd.grad(sharded(x).sum(), x, create_graph=True)
except UsageError as error:
    found["second"] = str(error)

# --- EMA of tied weights in shards
class Tied(ToyTransformer):
    _tied_weights_keys = {"row.weight": "places.weight"}

whole = Tied(ToyTransformerConfig(tie_word_embeddings=True))
sharded = fully_shard(copy.deepcopy(whole), mesh=init_device_mesh("cpu", (2,)))
ema = ModelEMA(sharded, 0.5)
ema.average.shadow_params[0].to_local().fill_(3)
with gathered({"it": sharded}, {"it": whole}, {"it": ema}):
    found["tied"] = whole.row.weight is whole.places.weight and bool((whole.places.weight == 3).all())
print(json.dumps(found), flush=True)
dist.barrier()
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    output = run_two_processes(f"import sys; sys.path.insert(0, {str(TOYS)!r})\n{TWO}", [], folder)
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert len(lines) == 2, output
    return lines


def test_gathered_rows_bring_the_gradient_of_the_whole_batch(found):
    """In float64, relative to the largest entry, for a loss of all rows, one of own rows, and one of second order."""
    assert max(line["gather"] for line in found) < 1e-12
    assert found[0]["order"] == found[1]["order"] == list(range(8))


def test_directional_derivatives_inside_wrappers(found):
    """Exact by forward mode; a central difference is good to h^2."""
    for line in found:
        for name in ("ddp", "fsdp2"):
            assert line[name][0] == 0
            assert 0 < line[name][1] < 1e-4
            assert line[f"{name} inside"]


def test_a_second_derivative_in_shards_is_refused(found):
    """FSDP2 would read freed memory; `test_two_processes_train_what_one_does` shows the way that works."""
    assert all("Let the objective differentiate `unwrapped(network)`" in line["second"] for line in found)


def test_tied_weights_are_averaged_in_shards(found):
    assert all(line["tied"] for line in found)


def test_a_penalty_of_its_own_is_found_unreduced(tmp_path):
    """It has no call through DistributedDataParallel: the first update of its kind names network and way out."""
    data = make_data(tmp_path / "blobs.npz", 8, 1)
    words = ["toy_critic", "--dataset_name", str(data), "--train_batch_size", "4", "--objective.penalty", "alone"]
    output = run_two_processes(ALONE, [*words, "--max_train_steps", "2"], tmp_path)
    assert output.count("The gradients of critic differ between the processes, first that of inner.bias") == 2, output
    assert "0 * network(...).sum()" in output


ALONE = """
import sys
from hfgen.train import main
try:
    main([*sys.argv[2:], "--output_dir", sys.argv[1] + "/run"])
except SystemExit as stop:
    assert stop.code == 1, stop.code
"""
