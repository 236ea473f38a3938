"""Points of the plane, a modality as a third party would write it, with a Gaussian as its family."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from hfgen import (
    AsStored,
    Estimate,
    HFGenPipeline,
    LogLikelihood,
    Metric,
    Modality,
    NoSplitError,
    PriorScheduler,
    Protocol,
    Real,
    costs,
    draw_features,
    stored_sha256,
)
from hfgen.data.facts import Items


@dataclass(frozen=True, kw_only=True)
class Points(Items):
    noun = ("point", "points")

    values: Any = None


@dataclass
class PointOutput(BaseOutput):
    points: Tensor


class PointModality(Modality):
    """Stored as whole numbers of a grain, int32, (2,); sampled as floats, (2,)."""

    noun = ("point", "points")
    batch_key = "points"
    output_types = ("pt",)
    item_suffix = ".txt"
    metrics = {
        "mean_distance": Metric("distance", "lower", "between the means of sampled and real points", "samples"),
        "new_points": Metric("new", None, "sampled points that are not in the training data", "samples"),
        "seconds_per_point": Metric("s/point", "lower", "seconds to sample one point, in batches", "cost"),
    }
    protocol_options = ("grain",)
    train_metrics = ("new_points",)

    def find(self, name, split, options, streaming=False):
        path = Path(name) / f"{split}.npy"
        if not path.is_file():
            raise NoSplitError(f"{name} has no split {split!r}.")
        values = torch.from_numpy(np.load(path)).float()
        return Points(name=name, count=len(values), values=values)

    def possible_metrics(self, pipeline, protocol: Protocol):
        return [*self.metrics, "network_evaluations"]

    def reference(self, items, pipeline, protocol, progress=iter):
        stored = (items.values / protocol.options.get("grain", 0.001)).round().to(torch.int32)
        return Real(items, stored, stored_sha256(stored))

    def prepare(self, real, train, pipeline, protocol, wanted, **given):
        real = real.bare()
        real.features = real.stored.float().mean(0)
        found = train() if "new_points" in wanted else None
        if found is not None:
            known = self.reference(found, pipeline, protocol)
            real.train_features, real.train_sha256 = known.stored, known.sha256
            real.floor = {"mean_distance": Estimate(float((known.stored.float().mean(0) - real.features).norm()))}
        return real

    def measure(self, pipeline, real, protocol, wanted, *, options, partial, identity, alone, bars):
        if not {*self.metrics, "network_evaluations"} & {*wanted}:
            return {}
        seeds = range(protocol.seed, protocol.seed + protocol.num_images)
        given = (protocol.batch_size, options, real.stored.shape[1:], partial, identity, bars("sampling points"))
        drawn = draw_features(pipeline, AsStored(2), seeds, *given, alone=alone)
        values = {"mean_distance": Estimate(float((drawn.features.mean(0) - real.features).norm()))}
        if real.train_features is not None:
            known = {tuple(row) for row in real.train_features.tolist()}
            new = [tuple(map(int, row)) not in known for row in drawn.features.tolist()]
            values["new_points"] = Estimate(sum(new) / len(new))
        return values | costs(drawn, "point")

    def draw_stored(self, pipeline, seeds, options):
        return (pipeline(seeds=seeds, **options).points / 0.001).round().to(torch.int32)

    def to_batch(self, stored, pipeline):
        return stored.float() * 0.001

    def warnings(self, real, protocol, values):
        return ["points are few"] if protocol.num_images < 10 else []

    def output(self, samples, pipeline, output_type):
        return PointOutput(samples)

    def shape(self, facts, options, components):
        return 2, 1

    def sample_shape(self, pipeline):
        return 2, 1

    def batches(self, *args, **kwargs):
        raise NotImplementedError

    kind_of = save_item = write_items = write_preview = previews = different = card_block = card_shape = batches


class Spread(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, size: int = 2) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((size,), 0.5))

    def forward(self, latents: Tensor) -> Tensor:
        return latents * self.scale


class GaussianPipeline(HFGenPipeline):
    """x = s z; its exact likelihood is a density."""

    modality = "point"
    is_density = True

    def __init__(self, spread: Spread, scheduler: PriorScheduler) -> None:
        super().__init__()
        self.register_modules(spread=spread, scheduler=scheduler)

    @classmethod
    def default_configs(cls, sample_size, in_channels, num_classes, overrides):
        return {"spread": {"size": sample_size}, "scheduler": {"latent_shape": [sample_size]}}

    def decode(self, latents: Tensor, class_labels: Tensor | None = None) -> Tensor:
        return self.spread(latents)

    @torch.no_grad()
    def log_likelihood(self, points: Tensor, class_labels: Tensor | None = None, seeds=None) -> LogLikelihood:
        scale = self.spread.scale.double()
        nats = -((points.double() / scale).square() / 2 + scale.log() + math.log(2 * math.pi) / 2).sum(1)
        return LogLikelihood(nats, "exact", 2, noun="point")
