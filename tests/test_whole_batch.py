"""Parts of a batch: the same parts of the global batch, however it is split."""

import pytest
import torch

from hfgen import Objective, PluginError, UsageError, parts
from hfgen.data.layout import Layout


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_a_part_is_the_same_part_of_the_global_batch(processes, accumulation):
    """Together, the parts k of all processes and micro-batches are rows k, k + 3 ... of 24."""
    rows, size = torch.arange(24), 24 // processes // accumulation
    found = [[] for _ in range(3)]
    for micro in range(accumulation):
        for process in range(processes):
            share = rows[Layout(size, processes, process, accumulation).rows(micro)]
            for k, part in enumerate(parts({"rows": share, "doubled": 2 * share}, 3)):
                assert torch.equal(part["doubled"], 2 * part["rows"])
                found[k] += part["rows"].tolist()
    assert [sorted(part) for part in found] == [list(range(k, 24, 3)) for k in range(3)]


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(UsageError, match=r"3 equal parts, which 8 images are not.\n.* 6, for example"):
        parts({"pixel_values": torch.zeros(8, 1, 2, 2)}, 3)


def test_only_a_coupled_objective_gathers():
    class Coupled(Objective):
        coupled = True

    tensor = torch.randn(3)
    assert Coupled().gather(tensor) is tensor, "one process has the whole batch"
    with pytest.raises(PluginError, match="`coupled = True` in Objective"):
        Objective().gather(tensor)
