"""The log-likelihood of a dataset's items under a pipeline."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hfgen.errors import UsageError
from hfgen.evaluation.progress import Progress
from hfgen.likelihood import LogLikelihood
from hfgen.pipeline import HFGenPipeline
from hfgen.registry import modality_of
from hfgen.settings.resolve import typed_options
from hfgen.settings.signatures import own_options, refuse_options

BATCH = 500


def log_likelihood(
    pipeline: HFGenPipeline,
    items: Any,
    indices: Sequence[int] | None = None,
    progress: Progress = iter,
    stored: Tensor | None = None,
    **options: Any,
) -> LogLikelihood:
    """Measure ln p(x), or its bound, of a dataset's items; item i has seed i, so that any part can be repeated.

    Args:
        items: images of the pipeline's own size and channels; or any, with `stored`.
        indices: of the items to measure; default all.
        progress: wraps the starts of the batches.
        stored: all of the items in stored form, (N, ...), of the pipeline's own size.
        options: of the family's `log_likelihood`, such as `num_importance_samples`.

    Raises:
        UsageError: the family has no likelihood, or the items are not what it was trained on.
    """
    refuse_options(pipeline, options, "log_likelihood")
    indices = range(len(items if stored is None else stored)) if indices is None else indices
    of_all, modality = classes_for(pipeline, items), modality_of(pipeline)
    found = []
    for start in progress(range(0, len(indices), BATCH)):
        seeds = indices[start : start + BATCH]
        labels = None if of_all is None else of_all[list(seeds)]
        x = items.tensor(seeds) if stored is None else modality.to_batch(stored[list(seeds)], pipeline)
        found.append(pipeline.log_likelihood(x, labels, seeds=seeds, **options))
    sizes = [part.num_dimensions for part in found if isinstance(part.num_dimensions, Tensor)]
    whole: dict[str, Any] = {"num_dimensions": torch.cat(sizes)} if sizes else {}
    return dataclasses.replace(found[0], nats=torch.cat([part.nats for part in found]), **whole)


def classes_for(pipeline: HFGenPipeline, items: Any) -> Tensor | None:
    """Return the class of each item for a model with classes; None for one without.

    Raises:
        UsageError: some items have no class.
    """
    if pipeline.num_classes is None or items.labels is None:
        return None
    if not items.all_labeled:
        raise UsageError(
            f"{items.name}: {items.label_problem or f'some {items.noun[1]} have no label'}; the model needs one."
        )
    return items.labels


def metric_names(pipeline: HFGenPipeline) -> list[str]:
    """The metrics of likelihood that such a pipeline has, by the names in `hfgen.results.metrics`."""
    if type(pipeline).log_likelihood is HFGenPipeline.log_likelihood:
        return []
    return list(modality_of(pipeline).likelihood_metrics(pipeline))


def likelihood_options(pipeline: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Check options of the family's `log_likelihood`, and convert them to the types that its signature annotates.

    Raises:
        UsageError: an option that this family's `log_likelihood` does not take, or a value of another type.
    """
    if not options:
        return {}
    taken = own_options(type(pipeline), "log_likelihood") if isinstance(pipeline, HFGenPipeline) else {}
    if not taken:
        raise UsageError(
            f"--likelihood.{next(iter(options))}: the log_likelihood of {type(pipeline).__name__} takes no options."
        )
    return typed_options(taken, options, "--likelihood")
