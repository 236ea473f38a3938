"""Batches of a training, of either kind of dataset: images by index, or a stream."""

from collections.abc import Callable
from typing import Any

import torch

from hfgen.data.batches import GIB, Batches
from hfgen.data.decoding import Decoding
from hfgen.data.image_batches import image_batches
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

    Raises:
        UsageError: as of `Batches`; or the images are of several sizes, and the arguments choose none.
    """
    a, decoding = arguments, Decoding.of(arguments, images)
    if isinstance(images, StreamedImages):
        return StreamBatches(images, decoding, layout, a.seed, device, a.shuffle_buffer_size, note)
    assert isinstance(images, Images)
    return image_batches(images, decoding, layout, a.seed, device, a.data_memory_limit * GIB, progress)
