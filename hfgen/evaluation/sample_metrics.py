"""FID, KID and their like from features of real and sampled images, computed by torchmetrics and prdc.

Features are (N, D), float32, of this process alone: those libraries gather lists of unequal length wrongly or not at
all (torchmetrics#2170, #3336), so features are gathered first.
"""

import contextlib
import io
import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from hfgen.errors import CheckError, UsageError
from hfgen.evaluation.real import Estimate

KEEPS_FEATURES = "Metric `.*` will save all extracted features"  # which are what it is given
SPLITS = 10  # of the Inception score
FEW_BLOCKS = 5  # with fewer, a standard error means little
DIMENSIONS = 10  # images for each feature, below which FID is dominated by its bias: a value is only a smoke test


class _Given(nn.Module):
    """Features in, features out: torchmetrics asks for a network."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def check_features(real: Tensor, fake: Tensor) -> None:
    """Raise a UsageError unless both are float32 (N, D) of one D, finite, with two rows or more: none of the libraries
    does."""
    for which, rows in (("real", real), ("sampled", fake)):
        if rows.ndim != 2 or rows.dtype != torch.float32 or rows.shape[1:] != real.shape[1:]:
            raise UsageError(f"Features of the {which} images are {rows.dtype} of {tuple(rows.shape)}.")
        if len(rows) < 2:
            raise UsageError(f"{len(rows)} {which} images: at least two are needed.")
        if not rows.isfinite().all():
            raise CheckError(f"A feature of the {which} images is not finite.")


def fid(real: Tensor, fake: Tensor, bootstraps: int = 0, seed: int = 0) -> Estimate:
    """Fréchet distance of two Gaussians with the features' means and covariances (Heusel et al. 2017,
    arXiv:1706.08500, eq. 6). Biased upwards, the more the fewer images."""
    check_features(real, fake)
    metric = _fid_metric()(feature=_Given(real.shape[1]), reset_real_features=False, sync_on_compute=False)
    metric.update(real, real=True)

    def distance(rows: Tensor) -> float:
        metric.reset()
        metric.update(rows, real=False)
        return float(metric.compute())

    value = max(distance(fake), 0.0)  # of equal features -1e-12 by rounding
    if bootstraps < 2:
        return Estimate(value)
    generator = torch.Generator().manual_seed(seed)
    draws = [torch.randint(len(fake), (len(fake),), generator=generator) for _ in range(bootstraps)]
    spread = torch.tensor([distance(fake[rows]) for rows in draws], dtype=torch.float64).std()
    return Estimate(value, float(spread), f"{bootstraps} bootstraps of the drawn images")


def kid(real: Tensor, fake: Tensor, subset_size: int, seed: int = 0) -> Estimate:
    """Squared MMD of kernel (x.y / D + 1)^3, unbiased: may be below 0 (Binkowski et al. 2018, arXiv:1801.01401,
    section 4). The mean over disjoint blocks of both sets, in an order drawn by the seed, and its standard error."""
    check_features(real, fake)
    size = min(subset_size, len(real), len(fake))
    if size < 2:
        raise UsageError(f"KID of {size} images: at least two are needed.")
    generator = torch.Generator().manual_seed(seed)
    shuffled = [rows[torch.randperm(len(rows), generator=generator)].split(size) for rows in (real, fake)]
    blocks = [_kid_of_block(x, y) for x, y in zip(*shuffled, strict=False) if len(x) == len(y) == size]
    values = torch.tensor(blocks, dtype=torch.float64)
    if len(blocks) < FEW_BLOCKS:
        return Estimate(float(values.mean()))
    error = float(values.std() / math.sqrt(len(blocks)))
    return Estimate(float(values.mean()), error, f"{len(blocks)} disjoint blocks of {size}")


def _kid_of_block(real: Tensor, fake: Tensor) -> float:
    from torchmetrics.image.kid import KernelInceptionDistance

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):  # it shuffles, though it takes all
        warnings.filterwarnings("ignore", message=KEEPS_FEATURES)
        options: dict[str, Any] = {
            "feature": _Given(real.shape[1]),
            "subsets": 1,
            "subset_size": len(real),
            "sync_on_compute": False,
        }
        metric = KernelInceptionDistance(**options).set_dtype(torch.float64)
        metric.update(real.double(), real=True)
        metric.update(fake.double(), real=False)
        return float(metric.compute()[0])


def inception_score(logits: Tensor, splits: int = SPLITS) -> Estimate:
    """exp of the mean KL of p(class|image) from p(class) (Salimans et al. 2016, arXiv:1606.03498, section 4): of the
    drawn images alone, so it sees neither copies nor, within a class, collapse."""
    from torchmetrics.image.inception import InceptionScore

    if len(logits) < splits:
        raise UsageError(f"The Inception score of {len(logits)} images in {splits} splits: more images are needed.")
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message=KEEPS_FEATURES)
        metric = InceptionScore(feature=_Given(logits.shape[1]), splits=splits, sync_on_compute=False)
        torch.default_generator.manual_seed(0)  # of the CPU alone: it computes there
        metric.update(logits)
        mean, spread = metric.compute()
    return Estimate(float(mean), float(spread) / math.sqrt(splits), f"{splits} splits")


def manifold(real: Tensor, fake: Tensor, nearest_k: int, images: int, seed: int = 0) -> dict[str, Estimate]:
    """Precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991), density and coverage (Naeem et al. 2020,
    arXiv:2002.09797), by the k nearest neighbors within random parts of either set."""
    check_features(real, fake)
    size = min(images, len(real), len(fake))
    if size <= nearest_k:
        raise UsageError(f"{size} images have no {nearest_k} neighbors; draw more.")
    from prdc import compute_prdc

    generator = torch.Generator().manual_seed(seed)
    parts = [rows[torch.randperm(len(rows), generator=generator)[:size]].numpy() for rows in (real, fake)]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints
        values = compute_prdc(*parts, nearest_k=nearest_k)
    return {name: Estimate(float(value)) for name, value in values.items()}


def authenticity(train: Tensor, fake: Tensor) -> Estimate:
    """Fraction of the images that lie farther from the nearest training image than that lies from its own nearest
    (Alaa et al. 2022, arXiv:2102.08921, section 3.3): 0 of copies; of new real images, the baseline, below 1."""
    check_features(train, fake)
    distance, nearest = _nearest(train, fake)
    found, place = nearest.unique(return_inverse=True)
    own, _ = _nearest(train, train[found], but=found)
    rows = (distance > own[place]).double()
    return Estimate(float(rows.mean()), float(rows.std() / math.sqrt(len(rows))), "binomial")


def _nearest(rows: Tensor, of: Tensor, but: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Distance and index of each one's nearest row, or of the nearest `but` one: (N,), (N,)."""
    found = []
    for start in range(0, len(of), 500):
        distances = torch.cdist(of[start : start + 500], rows)
        if but is not None:
            distances.scatter_(1, but[start : start + 500, None], math.inf)
        found.append(distances.min(1))
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])


def _fid_metric() -> Any:
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
    except (ImportError, RuntimeError) as error:
        raise UsageError(
            f"torchmetrics cannot be imported: {str(error).splitlines()[0]}\n"
            "A torchvision that does not fit torch breaks it, and torch-fidelity needs one; try without:\n"
            "pip uninstall torchvision torch-fidelity"
        ) from error
    return FrechetInceptionDistance
