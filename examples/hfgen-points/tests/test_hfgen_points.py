"""Points: their data, their measure, and a flow whose density is known."""

import math

import numpy as np
import pytest
import torch
from hfgen_points.data import energy_distance, read_table, two_moons
from hfgen_points.flow import PointFlow, PointFlowPipeline, log_density
from hfgen_points.modality import PointModality

from hfgen import HFGenPipeline, Trainer, TrainingArguments, UsageError


def test_moons_are_half_circles_with_noise():
    points, moon = two_moons("train")
    upper, lower = points[moon == 0], points[moon == 1]
    assert upper.norm(dim=1).mean() == pytest.approx(1, abs=0.01)
    assert (lower - torch.tensor([1.0, 0.5])).norm(dim=1).std() == pytest.approx(0.05, rel=0.1)
    assert not torch.equal(points[:2000], two_moons("test")[0])


@pytest.mark.parametrize("name", ["a.csv", "named.csv", "a.npy"])
def test_tables_of_ones_own(tmp_path, name):
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    if name == "a.npy":
        np.save(tmp_path / name, rows)
    else:
        np.savetxt(tmp_path / name, rows, delimiter=",", header="x,y,z" if name == "named.csv" else "", comments="")
    assert read_table(tmp_path / name).tolist() == rows.tolist()
    assert len(PointModality().find(str(tmp_path / name), "train", {})) == 4


@pytest.mark.parametrize("text", ["", "1,2\n3\n", "1,nan\n", "1,x\n2,y\n"])
def test_a_table_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UsageError, match=r"a\.csv"):
        read_table(tmp_path / "a.csv")


def test_the_energy_distance_of_two_points():
    """Compare {0} and {3}: 2 * 3."""
    assert energy_distance(torch.zeros(1, 1), torch.full((1, 1), 3.0)) == 6
    assert energy_distance(torch.arange(4.0)[:, None], torch.arange(4.0)[:, None]) == 0


@pytest.fixture
def flow():
    torch.manual_seed(0)
    made = PointFlow(2, num_couplings=3, hidden_dim=8).double()
    for network in made.networks:
        torch.nn.init.normal_(network[-1].weight, std=0.3)
    return made


def test_the_flow_is_a_bijection_whose_determinant_is_that_of_its_jacobian(flow):
    x = torch.randn(5, 2, dtype=torch.float64)
    z, log_det = flow(x)
    torch.testing.assert_close(flow.inverse(z), x)
    jacobian = torch.stack([torch.autograd.functional.jacobian(lambda v: flow(v[None])[0][0], row) for row in x])
    torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian).logabsdet)


@torch.no_grad()
def test_its_density_sums_to_one(flow):
    side = torch.linspace(-12, 12, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    assert float(log_density(flow, grid).exp().sum() * (side[1] - side[0]) ** 2) == pytest.approx(1, abs=1e-3)


def test_a_trained_flow_is_saved_and_measured(tmp_path):
    data = PointModality().find("two-moons", "train", {})
    test = PointModality().find("two-moons", "test", {}).stored()
    torch.manual_seed(0)
    pipeline = PointFlowPipeline.build(2, 1, **{"flow.hidden_dim": 16, "flow.num_couplings": 4})
    arguments = TrainingArguments(train_batch_size=128, max_train_steps=60, learning_rate=5e-3, ema_decay=0.9)
    before = float(pipeline.log_likelihood(test).nats.mean())
    assert before == pytest.approx(-math.log(2 * math.pi) - float(test.square().sum(1).mean()) / 2, rel=1e-5)
    Trainer(pipeline, data, arguments, tmp_path / "run").train()
    again = HFGenPipeline.from_pretrained(tmp_path / "run")
    assert float(again.log_likelihood(test).nats.mean()) > before + 0.5
    drawn = again(seeds=range(8)).points
    np.testing.assert_allclose(again(seeds=[5]).points[0], drawn[5], rtol=1e-5, atol=1e-6)
