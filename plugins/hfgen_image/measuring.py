"""Images are measured: features of sampled and real ones are compared, and real ones reconstructed."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor

from hfgen.data.images import Images
from hfgen.errors import UsageError
from hfgen.evaluation import likelihoods
from hfgen.evaluation.drawn_features import costs, draw_features
from hfgen.evaluation.extractors import FeatureExtractor, extractor_class, refuse_shape
from hfgen.evaluation.measure import reconstruction_options
from hfgen.evaluation.progress import Bars, no_bars
from hfgen.evaluation.real import Estimate, Real
from hfgen.evaluation.real_images import RealImages, features_of
from hfgen.evaluation.sample_metrics import DIMENSIONS, SPLITS, authenticity, fid, inception_score, kid, manifold
from hfgen.pipeline import HFGenPipeline, reconstructs
from hfgen.results.metrics import COSTS, METRICS, QUALITY, RECONSTRUCTION
from hfgen.results.protocol import Protocol
from hfgen.results.records import TOO_FEW
from hfgen_image.metrics import MANIFOLD


def possible_metrics(pipeline: Any, protocol: Protocol) -> list[str]:
    """Return the metrics of sampled and of reconstructed images that can be measured."""
    possible = set()
    if protocol.extractor is not None:
        possible |= {*COSTS, *QUALITY}
        if extractor_class(protocol.extractor).num_classes is None:
            possible -= {"inception_score"}
    if isinstance(pipeline, HFGenPipeline) and reconstructs(pipeline):
        possible |= {"reconstruction_mse"} | ({"reconstruction_fid"} if protocol.extractor else set())
    return list(possible)


def prepare(
    real: Real,
    train: Callable[[], Images | None],
    protocol: Protocol,
    wanted: Collection[str],
    *,
    extractor: FeatureExtractor | None = None,
    weights: str | None = None,
    device: torch.device | str,
    bars: Bars = no_bars,
) -> Real:
    """Extract features of the real images, as far as the wanted metrics need them; in the main process.

    Args:
        train: finds the training images, or None where there are none; called only where they are needed.
        extractor: the protocol's, already loaded.
        weights: a file or folder to load the protocol's extractor from; default its own.

    Raises:
        UsageError: the reference is not what the protocol's extractor takes.
    """
    real = real.bare()
    if not {*QUALITY, *COSTS, "reconstruction_fid"} & set(wanted):
        return real
    if protocol.extractor is None:
        raise UsageError(
            f"The metrics compare features of images, and {protocol.name} names no feature extractor.\n"
            "Give --extractor (`hfgen list extractors` shows the names), or measure only metrics that need none:\n"
            "--metrics bits_per_dim, nats or reconstruction_mse."
        )
    refuse_shape(extractor_class(protocol.extractor), *_shape(real.stored))
    real.extractor = (extractor or extractor_class(protocol.extractor).load(weights)).to(device)
    if protocol.extractor_sha256 not in (None, real.extractor.weights_sha256):
        raise UsageError(
            f"{protocol.name} is about other weights of {protocol.extractor}: {protocol.extractor_sha256}."
        )
    if not PartialState().is_main_process:
        return real
    real.features = features_of(RealImages(real.stored, real.sha256), real.extractor, bars("reference features"))
    found = train() if set(QUALITY) & set(wanted) else None
    if found is not None:
        train_pixels = RealImages.of(
            found, protocol.resolution, protocol.center_crop, bars("decoding training images")
        )
        real.train_features = features_of(train_pixels, real.extractor, bars("training features"))
        real.train_sha256 = train_pixels.sha256
        if real.train_sha256 != real.sha256:
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
    options: Mapping[str, Any],
    partial: Path | None = None,
    identity: str = "",
    alone: bool = False,
    bars: Bars = no_bars,
) -> dict[str, Estimate]:
    """Sample and compare, and reconstruct; every process must call it, unless `alone`."""
    is_main, values = alone or PartialState().is_main_process, dict[str, Estimate]()
    if {*QUALITY, *COSTS} & set(wanted) and real.extractor is not None:
        sampled = draw_features(
            pipeline,
            real.extractor,
            range(protocol.seed, protocol.seed + protocol.num_images),
            protocol.batch_size,
            options,
            real.stored.shape[1:],
            partial,
            identity,
            bars("sampling images"),
            alone=alone,
        )
        if is_main:
            values |= {**of_features(sampled.features, real, protocol, wanted), **costs(sampled, "image")}
    if is_main and set(RECONSTRUCTION) & set(wanted):
        taken = reconstruction_options(type(pipeline))
        values |= _reconstruction(pipeline, real, wanted, {n: v for n, v in options.items() if n in taken})
    return values


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


@torch.no_grad()
def _reconstruction(
    pipeline: HFGenPipeline, real: Real, wanted: Collection[str], options: Mapping[str, Any]
) -> dict[str, Estimate]:
    """Compare the reference images with their reconstructions, rounded to bytes as sampled images are."""
    from hfgen.modalities.image import postprocess

    errors, features = [], []
    labels = likelihoods.classes_for(pipeline, real.items)
    for start in range(0, len(real.stored), likelihoods.BATCH):
        part = slice(start, start + likelihoods.BATCH)
        x = real.stored[part]
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


def warnings(real: Real, protocol: Protocol, values: Collection[str]) -> list[str]:
    """Return reasons why values tell little: too few images were sampled, or are real."""
    count, compared = protocol.num_images, real.extractor is not None and any(METRICS[n].of_samples for n in values)
    enough = DIMENSIONS * real.extractor.num_features if real.extractor is not None else 0
    if compared and count < enough:
        return [f"{count} {TOO_FEW}; a smoke test only"]
    if compared and len(real.stored) < enough:
        return [f"{len(real.stored)} real {TOO_FEW}; a smoke test only"]
    return []
