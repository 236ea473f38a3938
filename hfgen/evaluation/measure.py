"""Measure a model by a protocol: the modality samples and compares; likelihoods are found here."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import Tensor

from hfgen.components import published_networks
from hfgen.data.facts import evenly_spaced
from hfgen.errors import UsageError
from hfgen.evaluation import likelihoods
from hfgen.evaluation.extractors import FeatureExtractor
from hfgen.evaluation.progress import Bars, no_bars
from hfgen.evaluation.real import Estimate, Real
from hfgen.likelihood import LogLikelihood
from hfgen.pipeline import HFGenPipeline
from hfgen.registry import modality_of
from hfgen.results.metrics import LIKELIHOOD, METRICS
from hfgen.results.protocol import Protocol
from hfgen.settings.signatures import own_options


def metrics_of(pipeline: Any, protocol: Protocol) -> list[str]:
    """The metrics that can be measured of this model by this protocol."""
    possible = {"parameters", *modality_of(pipeline).possible_metrics(pipeline, protocol)}
    if isinstance(pipeline, HFGenPipeline):
        possible |= set(likelihoods.metric_names(pipeline))
    return [name for name in METRICS if name in possible]


def prepare(
    real: Real,
    train: Callable[[], Any],
    pipeline: Any,
    protocol: Protocol,
    wanted: Sequence[str],
    *,
    extractor: FeatureExtractor | None = None,
    weights: str | None = None,
    bars: Bars = no_bars,
) -> Real:
    """Prepare the real items, as far as the wanted metrics need it; in the main process.

    Args:
        train: finds the training items, or None where there are none; called only where they are needed.
        extractor: the protocol's, already loaded.
        weights: a file or folder to load the protocol's extractor from; default its own.

    Raises:
        UsageError: the reference is not the protocol's, or does not fit it.
    """
    modality = modality_of(pipeline)
    modality.check_wanted(protocol, wanted)
    if protocol.reference_sha256 not in (None, real.sha256):
        noun, about = modality.stored_noun, f"{protocol.dataset}, split {protocol.split}"
        raise UsageError(
            f"{real.items.name} is not the reference of {protocol.name}: its {noun} have another hash.\n"
            f"That protocol is about {about}; for other data leave --protocol out."
        )
    given = {"extractor": extractor, "weights": weights, "bars": bars}
    found: Real = modality.prepare(real, train, pipeline, protocol, wanted, **given)
    return found


def measure(
    pipeline: Any,
    real: Real,
    protocol: Protocol,
    wanted: Sequence[str],
    *,
    options: Mapping[str, Any] | None = None,
    likelihood: Mapping[str, Any] | None = None,
    partial: Path | None = None,
    identity: str = "",
    alone: bool = False,
    bars: Bars = no_bars,
) -> tuple[dict[str, Estimate], dict[str, Any] | None] | None:
    """Measure the wanted metrics of a model; every process must call it, unless `alone`.

    Args:
        wanted: of `metrics_of`.
        options: of the pipeline's call.
        likelihood: options of the family's `log_likelihood`.
        partial, identity: as in `draw_features`.
        alone: this process samples and measures by itself.

    Returns:
        the values, and how a likelihood was found or None; None in all processes but the main one.
    """
    given = {"partial": partial, "identity": identity, "alone": alone, "bars": bars}
    found = modality_of(pipeline).measure(pipeline, real, protocol, wanted, options=options or {}, **given)
    if not (alone or PartialState().is_main_process):
        return None
    values, facts = {"parameters": Estimate(_parameters(pipeline)), **found}, None
    if set(LIKELIHOOD) & set(wanted):
        log_likelihood = _likelihood(pipeline, real, protocol, bars, likelihood or {})
        facts = _facts_of(log_likelihood, likelihood or {})
        values |= _of_likelihood(log_likelihood, likelihoods.metric_names(pipeline))
    return {name: values[name] for name in METRICS if name in wanted and name in values}, facts


def _parameters(pipeline: Any) -> float:
    return float(sum(p.numel() for network in published_networks(pipeline).values() for p in network.parameters()))


def _likelihood(
    pipeline: HFGenPipeline, real: Real, protocol: Protocol, bars: Bars, options: Mapping[str, Any]
) -> LogLikelihood:
    chosen = list(evenly_spaced(len(real.stored), min(protocol.likelihood_images, len(real.stored))))
    return likelihoods.log_likelihood(pipeline, real.items, chosen, bars("likelihood"), real.stored, **options)


def _of_likelihood(found: LogLikelihood, names: Collection[str]) -> dict[str, Estimate]:
    """Return `nats`, and the bits of a unit by the modality's name for them, such as `bits_per_dim`."""
    error, how = (found.standard_error, "standard error") if len(found.nats) > 1 else (None, None)
    values = {"nats": Estimate(float(found.nats.mean()), error, how)}
    if found.num_values is not None:
        name = next(name for name in names if name != "nats")
        values[name] = Estimate(found.mean_bits, None if error is None else _error_of_bits(found), how)
    return values


def _error_of_bits(found: LogLikelihood) -> float:
    """Return the standard error of the bits of all items together: where lengths differ, that of a ratio of means."""
    bits, sizes = found.bits_per_dim, found.num_dimensions
    if isinstance(sizes, Tensor):
        bits = (bits - found.mean_bits) * sizes / sizes.double().mean()
    return float(bits.std() / len(bits) ** 0.5)


def _facts_of(found: LogLikelihood, options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kind": found.kind,
        "method": found.method,
        "num_importance_samples": found.num_importance_samples,
        **_unit(found),
        "num_values": found.num_values,
        "images": len(found.nats),
        **({"options": dict(options)} if options else {}),
    }


def _unit(found: LogLikelihood) -> dict[str, Any]:
    """Return how many units an item has: bytes, characters; where these differ, the sum over the items."""
    sizes = found.num_dimensions
    if isinstance(sizes, Tensor):
        return {"unit": found.unit, "units": int(sizes.sum())}
    return {"num_dimensions": sizes, **({} if found.unit == "dimension" else {"unit": found.unit})}


def reconstruction_options(family: type) -> set[str]:
    """Return the further options of `reconstruct`: those of `encode` that `decode` takes too, or an override's own."""
    if getattr(family, "reconstruct", None) is not HFGenPipeline.reconstruct:
        return set(own_options(family, "reconstruct")) if hasattr(family, "reconstruct") else set()
    return set(own_options(family, "encode")) & set(own_options(family, "decode"))
