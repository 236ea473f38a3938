"""FID, KID and their like: closed forms, independent implementations, and what none of the libraries refuses."""

import sys
import types

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import NearestNeighbors

from hfgen.errors import CheckError, UsageError
from hfgen.evaluation import sample_metrics
from hfgen.evaluation.sample_metrics import Estimate, authenticity, fid, inception_score, kid, manifold

D = 64


def gaussian(n, seed=0, d=D):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def x():
    return gaussian(2000) * torch.linspace(0.2, 2, D)


@pytest.mark.whole
def test_fid_of_equal_features_is_nothing(x):
    assert fid(x, x).value == pytest.approx(0, abs=1e-6)
    assert fid(x, x[torch.randperm(len(x))]).value == pytest.approx(0, abs=1e-6)


@pytest.mark.whole
def test_fid_of_a_shift_is_its_square(x):
    assert fid(x, x + 0.5).value == pytest.approx(0.25 * D, rel=1e-4)


def test_fid_of_a_constant_is_the_variance_and_the_distance(x):
    expected = x.double().var(0).sum() + (x.double().mean(0) - 1).square().sum()
    assert fid(x, torch.ones(100, D)).value == pytest.approx(float(expected), rel=1e-4)


def test_fid_agrees_with_two_independent_implementations(x):
    y = gaussian(1500, 1) @ torch.linalg.qr(gaussian(D, 2))[0] + 0.1
    a, b = x.double().numpy(), y.double().numpy()
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    means = float(((a.mean(0) - b.mean(0)) ** 2).sum())
    with_sqrtm = means + np.trace(s + t - 2 * scipy.linalg.sqrtm(s @ t).real)
    root = scipy.linalg.sqrtm(s).real  # the symmetric form, by eigenvalues
    eigenvalues = np.linalg.eigvalsh(root @ t @ root).clip(0)
    with_eigenvalues = means + np.trace(s + t) - 2 * np.sqrt(eigenvalues).sum()
    value = fid(x, y).value
    assert value == pytest.approx(float(with_sqrtm), rel=1e-4)
    assert value == pytest.approx(float(with_eigenvalues), rel=1e-4)


@pytest.mark.whole
def test_the_bootstraps_error_is_that_of_other_draws():
    real = gaussian(4000)
    draws = torch.tensor([fid(real, gaussian(1000, seed) * 1.3).value for seed in range(1, 13)])
    found = fid(real, gaussian(1000, 1) * 1.3, bootstraps=50)
    assert found.error == pytest.approx(float(draws.std()), rel=0.6)
    assert fid(real, gaussian(1000, 1) * 1.3, bootstraps=50) == found


def test_kid_of_two_numbers():
    """1 + 343 - 2 * 23.25: the kernel (xy + 1)^3 of {0, 1} and {2, 3}."""
    assert kid(torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]]), 2).value == pytest.approx(297.5)


def test_kid_is_the_unbiased_estimate(x):
    a, b = x[:300], gaussian(300, 3)
    k = [polynomial_kernel(u.double(), v.double(), 3, 1 / D, 1) for u, v in ((a, a), (b, b), (a, b))]
    same = sum((m.sum() - np.trace(m)) / (300 * 299) for m in k[:2])
    assert kid(a, b, 300).value == pytest.approx(same - 2 * k[2].mean(), rel=1e-6)


def test_kid_of_one_distribution_is_nothing_within_its_error():
    found = kid(gaussian(3000), gaussian(3000, 1), 200)
    assert abs(found.value) < 4 * found.error
    assert found.error_of == "15 disjoint blocks of 200"


def test_kid_leaves_the_random_state_alone():
    before = torch.random.get_rng_state()
    kid(gaussian(50), gaussian(50, 1), 10)
    inception_score(gaussian(100, d=5))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_inception_score_at_its_ends():
    assert inception_score(50 * torch.eye(10).repeat(100, 1), splits=1 + 1).value == pytest.approx(10, rel=0.02)
    assert inception_score(torch.zeros(100, 10)).value == pytest.approx(1)


def test_manifolds_of_equal_and_of_distant_sets(capsys):
    x = gaussian(200)
    for values, expected in ((manifold(x, x, 5, 200), 1), (manifold(x, x + 100, 5, 200), 0)):
        assert list(values) == ["precision", "recall", "density", "coverage"]
        for name in ("precision", "recall", "coverage"):
            assert values[name].value == pytest.approx(expected, abs=1e-3)
    assert manifold(x, x, 5, 200)["density"].value == pytest.approx(1, abs=0.1)
    assert capsys.readouterr().out == ""  # prdc prints, which would break --json


def test_collapse_is_seen_by_recall_and_coverage():
    few = gaussian(5, 1).repeat(100, 1) + 1e-3 * gaussian(500, 2)
    values = manifold(gaussian(500), few, 5, 500)
    assert values["recall"].value < 0.01
    assert values["coverage"].value < 0.2


def test_authenticity_of_copies_is_nothing():
    train = gaussian(500, d=8)
    assert authenticity(train, train[:200]).value == 0
    assert authenticity(train, train[:200] + 100).value == 1
    drawn = gaussian(200, 1, d=8)
    distance, nearest = NearestNeighbors(n_neighbors=1).fit(train).kneighbors(drawn)
    own = NearestNeighbors(n_neighbors=2).fit(train).kneighbors(train[nearest[:, 0]])[0][:, 1]
    assert authenticity(train, drawn).value == (distance[:, 0] > own).mean()


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (torch.zeros(64), UsageError, "torch.float32 of \\(64,\\)"),  # torchmetrics would count 64 images
        (torch.zeros(10, D + 1), UsageError, "of \\(10, 65\\)"),
        (torch.zeros(10, D, dtype=torch.float64), UsageError, "float64"),
        (torch.zeros(1, D), UsageError, "at least two"),
        (torch.full((10, D), float("nan")), CheckError, "is not finite"),
    ],
)
@pytest.mark.parametrize("metric", [fid, lambda a, b: kid(a, b, 5), lambda a, b: manifold(a, b, 2, 9), authenticity])
def test_what_no_library_refuses(metric, rows, error, message):
    with pytest.raises(error, match=message):
        metric(gaussian(20), rows)


@pytest.mark.parametrize("broken", [Estimate, lambda v: Estimate(1.0, v)])
def test_a_value_that_is_no_number_is_an_error(broken):
    with pytest.raises(CheckError, match="nothing was written"):
        broken(float("nan"))


def test_too_few_images_for_neighbors_or_splits():
    with pytest.raises(UsageError, match="no 5 neighbors"):
        manifold(gaussian(5), gaussian(5), 5, 10)
    with pytest.raises(UsageError, match="more images"):
        inception_score(torch.zeros(3, 10))


def test_a_broken_torchvision_is_named(monkeypatch):
    class Broken(types.ModuleType):
        def __getattr__(self, name):
            raise RuntimeError("operator torchvision::nms does not exist\nand more")

    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", Broken("broken"))
    with pytest.raises(UsageError, match="nms does not exist\n.*\n?pip uninstall torchvision"):
        sample_metrics.fid(gaussian(5), gaussian(5))


def test_uneven_sets_are_compared_whole():
    """Where processes hold unequal lists, torchmetrics' own KID is wrong; here the features are of one process."""
    assert kid(gaussian(1000), gaussian(610, 1) + 1, 100).error_of == "6 disjoint blocks of 100"
