"""BatchNorm over the images of all processes."""

import torch
from torch import nn

from hfgen.processes.batch_norm import GlobalBatchNorm, batch_norms, synchronized
from hfgen.testing.processes import run_two_processes

SPLIT = """
import pathlib, sys
import torch
from accelerate import PartialState
from torch import nn
from hfgen.processes.batch_norm import batch_norms, synchronized

state = PartialState(cpu=True)
rank = state.process_index
found = {}
for name, norm, shape in (("2d", nn.BatchNorm2d(3), (8, 3, 4, 4)), ("1d", nn.BatchNorm1d(3, momentum=None), (8, 3))):
    torch.manual_seed(0)
    x = torch.randn(shape) * 3 + 1
    target = torch.randn(shape)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    mine = x[rank * 4 : rank * 4 + 4].requires_grad_()
    for _ in range(2):
        with synchronized(batch_norms([norm])):
            y = norm(mine)
    (y * target[rank * 4 : rank * 4 + 4]).sum().backward()
    for parameter in norm.parameters():
        torch.distributed.all_reduce(parameter.grad)
    found |= {f"{name}.y": y.detach(), f"{name}.x.grad": mine.grad}
    found |= {f"{name}.{k}": v for k, v in norm.state_dict().items()}
    found |= {f"{name}.{k}.grad": p.grad for k, p in norm.named_parameters()}
    assert type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d)
torch.save(found, pathlib.Path(sys.argv[1]) / f"rank{rank}.pt")
state.destroy_process_group()
"""


def test_two_processes_normalise_as_one(tmp_path):
    """Output, gradients of input and parameters, running statistics: those of torch's BatchNorm on all images."""
    run_two_processes(SPLIT, [], tmp_path)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name, norm, shape in (
        ("2d", nn.BatchNorm2d(3), (8, 3, 4, 4)),
        ("1d", nn.BatchNorm1d(3, momentum=None), (8, 3)),
    ):
        torch.manual_seed(0)
        x = torch.randn(shape) * 3 + 1
        target = torch.randn(shape)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        x.requires_grad_()
        for _ in range(2):
            y = norm(x)
        (y * target).sum().backward()
        expected = {"y": y.detach(), "x.grad": x.grad}
        for key, tensor in expected.items():
            torch.testing.assert_close(torch.cat([rank[f"{name}.{key}"] for rank in ranks]), tensor)
        expected = {**norm.state_dict(), **{f"{k}.grad": p.grad for k, p in norm.named_parameters()}}
        for key, tensor in expected.items():
            for rank in ranks:
                torch.testing.assert_close(rank[f"{name}.{key}"], tensor, msg=f"{name} {key}")


def test_outside_it_is_torch_s_own():
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Sequential(nn.BatchNorm1d(2)), nn.Linear(2, 2))
    found = batch_norms([model])
    with synchronized(found):
        assert [type(m) for m in found] == [GlobalBatchNorm] * 2
        model.eval()
        x = torch.randn(3, 2, 4, 4)
        torch.testing.assert_close(found[0](x), nn.BatchNorm2d(2).eval()(x))
    assert [type(m) for m in found] == [nn.BatchNorm2d, nn.BatchNorm1d]
