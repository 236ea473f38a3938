"""The batches of a training, of either kind of dataset: images that have numbers, or a stream."""

from collections.abc import Callable
from typing import Any

import torch

from hfgen.data.batches import Batches
from hfgen.data.images import ImageFacts, Images
from hfgen.data.layout import Layout
from hfgen.data.stream_batches import StreamBatches
from hfgen.data.streams import StreamedImages
from hfgen.settings.arguments import TrainingArguments


def make_batches(
    images: ImageFacts,
    layout: Layout,
    arguments: TrainingArguments,
    device: torch.device,
    note: Callable[[str], Any],
    progress: Any = iter,
) -> Batches | StreamBatches:
    """Return the batches that the arguments ask for.

    Args:
        note: called with a line for the user.
        progress: wraps the images while they are decoded into memory.
    """
    a = arguments
    where = (a.resolution or images.resolution(), layout, a.seed, device)
    options: dict[str, Any] = {
        "center_crop": a.center_crop,
        "random_flip": a.random_flip,
        "class_conditional": a.class_conditional,
        "num_workers": a.dataloader_num_workers,
    }
    if isinstance(images, StreamedImages):
        options |= {"shuffle_buffer_size": a.shuffle_buffer_size, "note": note}
        return StreamBatches(images, *where, **options)
    assert isinstance(images, Images)
    options |= {"memory_limit": a.data_memory_limit * 2**30, "progress": progress}
    return Batches(images, *where, **options)
