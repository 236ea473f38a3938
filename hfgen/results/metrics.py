"""The metrics: their names, kinds and which way is better. Listing them imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hfgen.errors import UsageError, did_you_mean

Kind = Literal["features", "manifold", "likelihood", "reconstruction", "cost", "size"]


@dataclass(frozen=True)
class Metric:
    """
    Attributes:
        title: for tables.
        better: which way; None for a fact that is neither good nor bad.
        what: in a line.
        kind: `"features"` and `"manifold"` compare an extractor's features of sampled and real images, the latter by
            nearest neighbors; `"cost"` is measured while sampling; `"size"` is of the networks.
    """

    title: str
    better: Literal["lower", "higher"] | None
    what: str
    kind: Kind

    @property
    def of_samples(self) -> bool:
        """Return True if the metric compares an extractor's features of sampled images with those of real images."""
        return self.kind in ("features", "manifold")


METRICS = {
    "fid": Metric("FID", "lower", "Fréchet distance between features of real and sampled images", "features"),
    "kid": Metric(
        "KID", "lower", "squared maximum mean discrepancy of the features, unbiased: may be below 0", "features"
    ),
    "inception_score": Metric("IS", "higher", "how sure and how various the extractor's classes are", "features"),
    "precision": Metric("precision", "higher", "sampled images among the neighbors of real ones", "manifold"),
    "recall": Metric("recall", "higher", "real images among the neighbors of sampled ones", "manifold"),
    "density": Metric("density", "higher", "how many real images' neighborhoods a sampled one lies in", "manifold"),
    "coverage": Metric("coverage", "higher", "real images in whose neighborhood a sampled one lies", "manifold"),
    "authenticity": Metric(
        "authenticity", None, "sampled images that do not copy training images; beside new real ones", "features"
    ),
    "bits_per_dim": Metric("bits/dim", "lower", "-log2 p(x) per pixel value, or its bound", "likelihood"),
    "bits_per_byte": Metric("bits/byte", "lower", "-log2 p(x) per byte of a text, or its bound", "likelihood"),
    "nats": Metric("ln p(x)", "higher", "log-likelihood of an image or a text, or its bound", "likelihood"),
    "reconstruction_mse": Metric(
        "reconstruction MSE", "lower", "mean squared error of pixels in [0, 1]", "reconstruction"
    ),
    "reconstruction_fid": Metric(
        "reconstruction FID", "lower", "FID of the real images' reconstructions", "reconstruction"
    ),
    "network_evaluations": Metric("evaluations", "lower", "network evaluations per image", "cost"),
    "seconds_per_image": Metric("s/image", "lower", "seconds to sample one image, in batches", "cost"),
    "parameters": Metric("parameters", None, "of all networks of the model", "size"),
}


def of_kind(*kinds: Kind) -> tuple[str, ...]:
    """
    >>> of_kind("likelihood")
    ('bits_per_dim', 'bits_per_byte', 'nats')
    """
    return tuple(name for name, metric in METRICS.items() if metric.kind in kinds)


QUALITY, MANIFOLD = of_kind("features", "manifold"), of_kind("manifold")
LIKELIHOOD, RECONSTRUCTION = of_kind("likelihood"), of_kind("reconstruction")
COSTS, FACTS = of_kind("cost"), of_kind("cost", "size")
SHORT = {"is": "inception_score", "prdc": ",".join(MANIFOLD), "memorization": "authenticity"}


def chosen(text: str, possible: Sequence[str], option: str) -> list[str]:
    """The metrics that a comma-separated text names, in the order of METRICS.

    Raises:
        UsageError: a name that is unknown, or a metric that cannot be measured here.
    """
    names = [n for word in text.lower().split(",") for n in SHORT.get(word.strip(), word.strip()).split(",")]
    for name in names:
        if name not in METRICS:
            raise UsageError(f"{option}: there is no metric {name!r}.{did_you_mean(name, [*METRICS, *SHORT])}")
        if METRICS[name].of_samples and not any(METRICS[other].of_samples for other in possible):
            raise UsageError(
                f"{option}: {name} compares an extractor's features, and no protocol is about these very images; give "
                "--extractor\n(`hfgen list extractors` shows them)."
            )
        if name not in possible:
            raise UsageError(
                f"{option}: {name} cannot be measured of this model here; these can:\n  {', '.join(possible)}"
            )
    return [name for name in METRICS if name in names]
