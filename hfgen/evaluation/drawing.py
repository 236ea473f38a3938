"""Draw items of a model for people to look at."""

from collections.abc import Sequence
from typing import Any

from hfgen.pipeline import HFGenPipeline
from hfgen.registry import modality_of


def draw(
    pipeline: HFGenPipeline,
    seeds: Sequence[int],
    class_labels: Sequence[int] | None = None,
    batch_size: int = 64,
    **options: Any,
) -> list[Any]:
    """Sample one item per seed, as people see it, in batches; their size changes only memory and speed.

    Args:
        options: what the pipeline's call takes beyond seeds and labels.
    """
    items: list[Any] = []
    for start in range(0, len(seeds), batch_size):
        part = slice(start, start + batch_size)
        labels = None if class_labels is None else class_labels[part]
        output = pipeline(seeds=seeds[part], class_labels=labels, **options)
        items.extend(modality_of(pipeline).items(output))  # `+=` would add an array to the list
    return items
