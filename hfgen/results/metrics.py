"""The metrics: their names, kinds and which way is better. Listing them imports no torch.

Those here are of every modality; the others are of one, which holds them in its `metrics`.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hfgen.errors import UsageError, did_you_mean
from hfgen.modality import Kind, Metric
from hfgen.registry import list_modalities

OF_ALL = {
    "bits_per_dim": Metric("bits/dim", "lower", "-log2 p(x) per pixel value, or its bound", "likelihood"),
    "nats": Metric("ln p(x)", "higher", "log-likelihood of an image, or its bound", "likelihood"),
    "network_evaluations": Metric("evaluations", "lower", "network evaluations per image", "cost"),
    "parameters": Metric("parameters", None, "of all networks of the model", "size"),
}
ORDER: tuple[Kind, ...] = ("samples", "likelihood", "reconstruction", "cost", "size")  # of tables and results


class Metrics(Mapping[str, Metric]):
    """The metrics of all installed modalities by name, in the order of tables; the modalities are found when asked."""

    @property
    def _found(self) -> Mapping[str, Metric]:
        return _ordered(tuple(list_modalities()))

    def __getitem__(self, name: str) -> Metric:
        return OF_ALL[name] if name in OF_ALL else self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


@functools.lru_cache(maxsize=8)
def _ordered(modalities: tuple[Any, ...]) -> dict[str, Metric]:
    found = dict(OF_ALL)
    for modality in modalities:
        found = {**found, **{name: metric for name, metric in modality.metrics.items() if name not in found}}
    kinds = {"features": "samples", "manifold": "samples"}
    return dict(sorted(found.items(), key=lambda pair: ORDER.index(kinds.get(pair[1].kind, pair[1].kind))))


METRICS = Metrics()


class Names(Sequence[str]):
    """The names of the metrics of some kinds, found when asked.

    >>> list(Names("likelihood"))[:2]
    ['bits_per_dim', 'nats']
    """

    def __init__(self, *kinds: Kind) -> None:
        self.kinds = kinds

    @property
    def _names(self) -> list[str]:
        return [name for name, metric in METRICS.items() if metric.kind in self.kinds]

    def __getitem__(self, index: Any) -> Any:
        return self._names[index]

    def __len__(self) -> int:
        return len(self._names)


QUALITY, MANIFOLD = Names("features", "manifold", "samples"), Names("manifold")
LIKELIHOOD, RECONSTRUCTION = Names("likelihood"), Names("reconstruction")
COSTS, FACTS = Names("cost"), Names("cost", "size")
SHORT = {"is": "inception_score", "prdc": "precision,recall,density,coverage", "memorization": "authenticity"}


def chosen(text: str, possible: Sequence[str], option: str) -> list[str]:
    """The metrics that a comma-separated text names, in the order of METRICS.

    Raises:
        UsageError: a name that is unknown, or a metric that cannot be measured here.
    """
    names = [n for word in text.lower().split(",") for n in SHORT.get(word.strip(), word.strip()).split(",")]
    for name in names:
        if name not in METRICS:
            raise UsageError(f"{option}: there is no metric {name!r}.{did_you_mean(name, [*METRICS, *SHORT])}")
        if METRICS[name].of_features and not any(METRICS[other].of_features for other in possible):
            raise UsageError(
                f"{option}: {name} compares an extractor's features, and no protocol is about these very images; give "
                "--extractor\n(`hfgen list extractors` shows them)."
            )
        if name not in possible:
            raise UsageError(
                f"{option}: {name} cannot be measured of this model here; these can:\n  {', '.join(possible)}"
            )
    return [name for name in METRICS if name in names]
