"""Measure a model by a protocol: sample images and compare them, find likelihoods and reconstructions."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor

from hfgen.components import published_networks
from hfgen.data.facts import evenly_spaced
from hfgen.data.images import Images
from hfgen.errors import UsageError
from hfgen.evaluation import likelihoods
from hfgen.evaluation.drawn_features import Sampled, draw_features
from hfgen.evaluation.extractors import FeatureExtractor, extractor_class, refuse_shape
from hfgen.evaluation.progress import Bars, no_bars
from hfgen.evaluation.real_images import RealImages, features_of
from hfgen.evaluation.sample_metrics import SPLITS, Estimate, authenticity, fid, inception_score, kid, manifold
from hfgen.likelihood import LogLikelihood
from hfgen.pipeline import HFGenPipeline, reconstructs
from hfgen.results.metrics import COSTS, LIKELIHOOD, MANIFOLD, METRICS, QUALITY, RECONSTRUCTION
from hfgen.results.protocol import Protocol
from hfgen.settings.signatures import own_options


@dataclass
class Real:
    """The real images that a model is compared with.

    Attributes:
        images: the reference, as found; `pixels` decoded.
        extractor: None where no metric needs sampled images.
        features, train_features: of the reference and of the training images; None where nothing needs them.
        floor: the metrics of as many training images in the model's place.
    """

    images: Images
    pixels: RealImages
    extractor: FeatureExtractor | None = None
    features: Tensor | None = None
    train_features: Tensor | None = None
    train_sha256: str | None = None
    floor: dict[str, Estimate] = field(default_factory=dict)


def metrics_of(pipeline: Any, protocol: Protocol) -> list[str]:
    """The metrics that can be measured of this model by this protocol."""
    possible = {"parameters"}
    if protocol.extractor is not None:
        possible |= {*COSTS, *QUALITY}
        if extractor_class(protocol.extractor).num_classes is None:
            possible -= {"inception_score"}
    if isinstance(pipeline, HFGenPipeline):
        possible |= set(likelihoods.metric_names(pipeline))
        if reconstructs(pipeline):
            possible |= {"reconstruction_mse"} | ({"reconstruction_fid"} if protocol.extractor else set())
    return [name for name in METRICS if name in possible]


def prepare(
    images: Images,
    pixels: RealImages,
    train: Callable[[], Images | None],
    protocol: Protocol,
    wanted: Collection[str],
    *,
    extractor: FeatureExtractor | None = None,
    weights: str | None = None,
    device: torch.device | str = "cpu",
    bars: Bars = no_bars,
) -> Real:
    """Extract features of the real images, as far as the wanted metrics need them; in the main process.

    Args:
        train: finds the training images, or None where there are none; called only where they are needed.
        extractor: the protocol's, already loaded.
        weights: a file or folder to load the protocol's extractor from; default its own.

    Raises:
        UsageError: the reference is not the protocol's, or not what its extractor takes.
    """
    real = Real(images, pixels)
    refuse_few(protocol, wanted)
    if protocol.reference_sha256 not in (None, pixels.sha256):
        raise UsageError(
            f"{images.name} is not the reference of {protocol.name}: its pixels have another hash.\n"
            f"That protocol is about {protocol.dataset}, split {protocol.split}; for other data leave --protocol out."
        )
    if not {*QUALITY, *COSTS, "reconstruction_fid"} & set(wanted):
        return real
    if protocol.extractor is None:
        raise UsageError(
            f"The metrics compare features of images, and {protocol.name} names no feature extractor.\n"
            "Give --extractor (`hfgen list extractors` shows the names), or measure only metrics that need none:\n"
            "--metrics bits_per_dim, nats or reconstruction_mse."
        )
    refuse_shape(extractor_class(protocol.extractor), *_shape(pixels.pixels))
    real.extractor = (extractor or extractor_class(protocol.extractor).load(weights)).to(device)
    if protocol.extractor_sha256 not in (None, real.extractor.weights_sha256):
        raise UsageError(
            f"{protocol.name} is about other weights of {protocol.extractor}: {protocol.extractor_sha256}."
        )
    if not PartialState().is_main_process:
        return real
    real.features = features_of(pixels, real.extractor, bars("reference features"))
    found = train() if set(QUALITY) & set(wanted) else None
    if found is not None:
        train_pixels = RealImages.of(
            found, protocol.resolution, protocol.center_crop, bars("decoding training images")
        )
        real.train_features = features_of(train_pixels, real.extractor, bars("training features"))
        real.train_sha256 = train_pixels.sha256
        if real.train_sha256 != pixels.sha256:
            real.floor = floor(real, protocol, wanted)
    return real


def refuse_few(protocol: Protocol, wanted: Collection[str]) -> None:
    """Raise a UsageError where fewer images are to be sampled than a metric needs, before any is sampled."""
    needed = {"inception_score": 2 * SPLITS, **dict.fromkeys(MANIFOLD, protocol.nearest_k + 1)}
    for name in wanted:
        if protocol.num_images < needed.get(name, 2):
            raise UsageError(
                f"{METRICS[name].title} needs at least {needed[name]} images, and --num_images is "
                f"{protocol.num_images}.\nSample more, or leave the metric out: --metrics."
            )


def _shape(pixels: Tensor) -> tuple[int, tuple[int, int]]:
    return pixels.shape[1], (pixels.shape[2], pixels.shape[3])


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
    is_main, values = alone or PartialState().is_main_process, dict[str, Estimate]()
    if {*QUALITY, *COSTS} & set(wanted) and real.extractor is not None:
        sampled = draw_features(
            pipeline,
            real.extractor,
            range(protocol.seed, protocol.seed + protocol.num_images),
            protocol.batch_size,
            options,
            real.pixels.pixels.shape[1:],
            partial,
            identity,
            bars("sampling images"),
            alone=alone,
        )
        if is_main:
            values |= {**of_features(sampled.features, real, protocol, wanted), **_costs(sampled)}
    if not is_main:
        return None
    values["parameters"], facts = Estimate(_parameters(pipeline)), None
    if set(LIKELIHOOD) & set(wanted):
        found = _likelihood(pipeline, real, protocol, bars, likelihood or {})
        facts = _facts_of(found, likelihood or {})
        values |= _of_likelihood(found)
    if set(RECONSTRUCTION) & set(wanted):
        taken = reconstruction_options(type(pipeline))
        values |= _reconstruction(pipeline, real, wanted, {n: v for n, v in (options or {}).items() if n in taken})
    return {name: values[name] for name in METRICS if name in wanted and name in values}, facts


def of_features(drawn: Tensor, real: Real, protocol: Protocol, wanted: Collection[str]) -> dict[str, Estimate]:
    """The metrics that compare the features of sampled images with those of real ones."""
    assert real.extractor is not None
    assert real.features is not None
    p, values = protocol, dict[str, Estimate]()
    if "fid" in wanted:
        values["fid"] = fid(real.features, drawn, p.bootstraps)
    if "kid" in wanted:
        values["kid"] = kid(real.features, drawn, p.kid_subset_size)
    if "inception_score" in wanted:
        values["inception_score"] = inception_score(real.extractor.logits(drawn))
    if any(name in wanted for name in MANIFOLD):
        values |= manifold(real.features, drawn, p.nearest_k, p.manifold_images)
    if "authenticity" in wanted and real.train_features is not None:
        values["authenticity"] = authenticity(real.train_features, drawn)
    return values


def floor(real: Real, protocol: Protocol, wanted: Collection[str]) -> dict[str, Estimate]:
    """The same metrics of real images in place of the model's: as many training images, chosen at random.

    FID's is the mean of several draws; authenticity's is of the reference images, which the model has not seen.
    """
    if real.train_features is None or real.features is None:
        return {}
    values: dict[str, Estimate] = {}
    if "authenticity" in wanted:
        values["authenticity"] = authenticity(real.train_features, real.features)
    count, generator = protocol.num_images, torch.Generator().manual_seed(0)
    if count > len(real.train_features):
        return values  # there are not as many real images
    draws = [
        real.train_features[torch.randperm(len(real.train_features), generator=generator)[:count]]
        for _ in range(protocol.floor_draws)
    ]
    values |= of_features(draws[0], real, replace(protocol, bootstraps=1), set(wanted) - {"authenticity", "fid"})
    if "fid" in wanted:
        found = torch.tensor([fid(real.features, rows).value for rows in draws], dtype=torch.float64)
        error = (float(found.std()), f"{len(draws)} draws") if len(draws) > 1 else (None, None)
        values["fid"] = Estimate(float(found.mean()), *error)
    return values


def _costs(sampled: Sampled) -> dict[str, Estimate]:
    return {
        "network_evaluations": Estimate(sampled.evaluations_per_image),
        "seconds_per_image": Estimate(sampled.seconds_per_image),
    }


def _parameters(pipeline: Any) -> float:
    return float(sum(p.numel() for network in published_networks(pipeline).values() for p in network.parameters()))


def _likelihood(
    pipeline: HFGenPipeline, real: Real, protocol: Protocol, bars: Bars, options: Mapping[str, Any]
) -> LogLikelihood:
    chosen = list(evenly_spaced(len(real.images), min(protocol.likelihood_images, len(real.images))))
    return likelihoods.log_likelihood(pipeline, real.images, chosen, bars("likelihood"), real.pixels.pixels, **options)


def _of_likelihood(found: LogLikelihood) -> dict[str, Estimate]:
    error, how = (found.standard_error, "standard error") if len(found.nats) > 1 else (None, None)
    values = {"nats": Estimate(float(found.nats.mean()), error, how)}
    if found.num_values is not None:
        bits = found.bits_per_dim
        spread = None if error is None else float(bits.std() / len(bits) ** 0.5)
        values["bits_per_dim"] = Estimate(float(bits.mean()), spread, how)
    return values


def _facts_of(found: LogLikelihood, options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kind": found.kind,
        "method": found.method,
        "num_importance_samples": found.num_importance_samples,
        "num_dimensions": found.num_dimensions,
        "num_values": found.num_values,
        "images": len(found.nats),
        **({"options": dict(options)} if options else {}),
    }


def reconstruction_options(family: type) -> set[str]:
    """Return the further options of `reconstruct`: those of `encode` that `decode` takes too, or an override's own."""
    if getattr(family, "reconstruct", None) is not HFGenPipeline.reconstruct:
        return set(own_options(family, "reconstruct")) if hasattr(family, "reconstruct") else set()
    return set(own_options(family, "encode")) & set(own_options(family, "decode"))


@torch.no_grad()
def _reconstruction(
    pipeline: HFGenPipeline, real: Real, wanted: Collection[str], options: Mapping[str, Any]
) -> dict[str, Estimate]:
    """Compare the reference images with their reconstructions, rounded to bytes as sampled images are."""
    from hfgen.modalities.image import postprocess

    errors, features = [], []
    labels = likelihoods.classes_for(pipeline, real.images)
    for start in range(0, len(real.pixels.pixels), likelihoods.BATCH):
        part = slice(start, start + likelihoods.BATCH)
        x = real.pixels.pixels[part]
        seeds = range(start, start + len(x))
        y = pipeline.reconstruct(x.float() / 127.5 - 1, None if labels is None else labels[part], seeds, **options)
        y = (postprocess(y, "pt") * 255).round().to(torch.uint8).cpu()
        errors.append(((x.float() - y.float()) / 255).square().flatten(1).mean(1))
        if real.extractor is not None:
            features.append(real.extractor.extract(y).cpu())
    each = torch.cat(errors).double()
    values = {"reconstruction_mse": Estimate(float(each.mean()), float(each.std() / len(each) ** 0.5), "images")}
    if "reconstruction_fid" in wanted and real.features is not None:
        values["reconstruction_fid"] = fid(real.features, torch.cat(features))
    return values
