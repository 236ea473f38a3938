"""Decoding of images for a training: their size, and crop, flip, labels and worker processes."""

from dataclasses import dataclass

from hfgen.data.images import ImageFacts
from hfgen.settings.arguments import TrainingArguments


@dataclass(frozen=True)
class Decoding:
    """Settings by which records of a dataset become rows of a batch.

    Attributes:
        resolution: side of the square images, in pixels.
        center_crop: crop the center after resizing the shorter side; otherwise both sides are resized.
        random_flip: flip half of the images of each epoch horizontally.
        class_conditional: read the labels too.
        num_workers: processes that decode images when they are needed; 0 decodes in this one, None takes the cores of
            this process but one, at most 8.
    """

    resolution: int
    center_crop: bool = True
    random_flip: bool = False
    class_conditional: bool = False
    num_workers: int | None = None

    @classmethod
    def of(cls, arguments: TrainingArguments, images: ImageFacts) -> "Decoding":
        """Return the decoding that the arguments ask for, by default at the images' own size.

        Raises:
            UsageError: the images are of several sizes, and the arguments choose none.
        """
        a = arguments
        side = a.resolution or images.resolution()
        return cls(side, a.center_crop, a.random_flip, a.class_conditional, a.dataloader_num_workers)
