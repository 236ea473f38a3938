"""What can be measured of a model; here, so that listing it imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hfgen.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Metric:
    """
    Attributes:
        title: for tables.
        better: which way; None where it is a fact and no merit.
        what: in a line.
        of_samples: whether it is of drawn images, by an extractor's features.
    """

    title: str
    better: Literal["lower", "higher"] | None
    what: str
    of_samples: bool = False


METRICS = {
    "fid": Metric("FID", "lower", "Fréchet distance between features of real and drawn images", True),
    "kid": Metric("KID", "lower", "squared maximum mean discrepancy of the features, unbiased: may be below 0", True),
    "inception_score": Metric("IS", "higher", "how sure and how various the extractor's classes are", True),
    "precision": Metric("precision", "higher", "drawn images among the neighbors of real ones", True),
    "recall": Metric("recall", "higher", "real images among the neighbors of drawn ones", True),
    "density": Metric("density", "higher", "how many real images' neighborhoods a drawn one lies in", True),
    "coverage": Metric("coverage", "higher", "real images in whose neighborhood a drawn one lies", True),
    "authenticity": Metric(
        "authenticity", None, "drawn images that are no copies of training images; beside new real ones", True
    ),
    "bits_per_dim": Metric("bits/dim", "lower", "-log2 p(x) per pixel value, or its bound"),
    "nats": Metric("ln p(x)", "higher", "log-likelihood of an image, or its bound"),
    "reconstruction_mse": Metric("reconstruction MSE", "lower", "mean squared error of pixels in [0, 1]"),
    "reconstruction_fid": Metric("reconstruction FID", "lower", "FID of the real images' reconstructions"),
    "network_evaluations": Metric("evaluations", "lower", "network evaluations per image"),
    "seconds_per_image": Metric("s/image", "lower", "seconds to draw one image, in batches"),
    "parameters": Metric("parameters", None, "of all networks of the model"),
}
SHORT = {"is": "inception_score", "prdc": "precision,recall,density,coverage", "memorization": "authenticity"}


def chosen(text: str, possible: Sequence[str], option: str) -> list[str]:
    """The metrics that a comma-separated text names, in the order of METRICS.

    Raises:
        UsageError: a name that is none, or a metric that cannot be had here.
    """
    names = [n for word in text.lower().split(",") for n in SHORT.get(word.strip(), word.strip()).split(",")]
    for name in names:
        if name not in METRICS:
            raise UsageError(f"{option}: there is no metric {name!r}.{did_you_mean(name, [*METRICS, *SHORT])}")
        if METRICS[name].of_samples and not any(METRICS[other].of_samples for other in possible):
            raise UsageError(
                f"{option}: {name} is of an extractor's features, and no protocol is about these very images; give "
                "--extractor\n(`hfgen list extractors` shows them)."
            )
        if name not in possible:
            raise UsageError(
                f"{option}: {name} cannot be measured of this model here; these can:\n  {', '.join(possible)}"
            )
    return [name for name in METRICS if name in names]
