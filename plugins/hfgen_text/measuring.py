"""Texts are measured: blocks of the reference by likelihood, sampled blocks beside real ones by their n-grams."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hfgen import AsStored, Estimate, Items, Protocol, Real, UsageError, costs, draw_features, stored_sha256
from hfgen_text.corpus import chosen
from hfgen_text.measures import TextReference, measure as measure_texts
from hfgen_text.metrics import OF_SAMPLES
from hfgen_text.texts import Texts, TextSource, encoding_of

MOST_TRAINING = 100_000_000  # bytes of training texts that an n-gram model takes


def blocks_of(texts: Texts, pipeline: Any) -> Real:
    """Return the disjoint blocks of texts, from their beginning, as long as the pipeline's: int32, (N, L).

    Raises:
        UsageError: the texts are shorter than a block.
    """
    by_class = pipeline.num_classes is not None and texts.labels is not None
    source = TextSource(texts, encoding_of(pipeline.tokenizer), pipeline.sequence_length, None, by_class)
    if not len(source):
        raise UsageError(f"{texts.name} holds less than a block of {pipeline.sequence_length} symbols.")
    stored = source.windows.fetch(range(len(source)))
    facts = Items(
        name=texts.name,
        count=len(source),
        dataset_id=texts.dataset_id,
        labels=source.labels,
        label_names=texts.label_names,
        label_problem=texts.label_problem,
    )
    return Real(facts, stored, stored_sha256(stored))


def check_length(protocol: Protocol, pipeline: Any) -> None:
    """Raise a UsageError where a protocol is about blocks of another length than the pipeline's."""
    length = protocol.options.get("block_size")
    if length not in (None, pipeline.sequence_length):
        raise UsageError(
            f"{protocol.name} measures blocks of {length} symbols, and this model has blocks of "
            f"{pipeline.sequence_length}.\nTrain one with --block_size {length}, or leave --protocol out."
        )


def prepare(real: Real, train: Callable[[], Any], pipeline: Any, protocol: Protocol, wanted: Sequence[str]) -> Real:
    """Return the reference with the n-gram model of the training texts, where sampled texts are to be compared.

    Raises:
        UsageError: there are no training texts, or more than an n-gram model is made of.
    """
    real = real.bare()
    if not {*OF_SAMPLES} & {*wanted}:
        return real
    found = train()
    if found is None:
        raise UsageError("Sampled texts are compared with training texts, which are not there; leave --metrics out.")
    known, encoding = blocks_of(found, pipeline), encoding_of(pipeline.tokenizer)
    texts = ["".join(document).encode() for _, document in chosen(found.documents.read(), found.chosen_rows)]
    if sum(map(len, texts)) > MOST_TRAINING:
        raise UsageError(
            f"The n-gram model is made of at most {MOST_TRAINING:,} bytes of training texts; these are "
            f"{sum(map(len, texts)):,}.\nMeasure without sampled texts: --metrics bits_per_byte."
        )
    count = min(protocol.num_images, len(known.stored))
    like = known.stored[torch.arange(count) * len(known.stored) // count]
    of_real, of_like = ([encoding.to_bytes(row) for row in rows.tolist()] for rows in (real.stored, like))
    real.features, real.train_sha256 = TextReference.of(texts, of_real, of_like), known.sha256
    return real


def measure(
    pipeline: Any,
    real: Real,
    protocol: Protocol,
    wanted: Sequence[str],
    *,
    options: Mapping[str, Any],
    partial: Path | None,
    identity: str,
    alone: bool,
    bars: Any,
) -> dict[str, Estimate]:
    """Sample texts and compare their n-grams; every process must call it, unless `alone`."""
    if real.features is None and not {"seconds_per_text", "network_evaluations"} & {*wanted}:
        return {}
    seeds = range(protocol.seed, protocol.seed + protocol.num_images)
    given = (protocol.batch_size, options, real.stored.shape[1:], partial, identity, bars("sampling texts"))
    drawn = draw_features(pipeline, AsStored(pipeline.sequence_length), seeds, *given, alone=alone)
    values = costs(drawn, "text")
    if real.features is None:
        return values
    encoding = encoding_of(pipeline.tokenizer)
    found = measure_texts([encoding.to_bytes(row) for row in drawn.features.long().tolist()], real.features)
    real.floor = {name: Estimate(beside.real) for name, beside in found.items()}
    return values | {name: Estimate(beside.value) for name, beside in found.items()}


def draw_stored(pipeline: Any, seeds: Sequence[int], options: Mapping[str, Any]) -> Tensor:
    """Sample ids of texts, int32, (B, L)."""
    return pipeline(seeds=list(seeds), output_type="seq", **options).sequences.to(torch.int32).cpu()
