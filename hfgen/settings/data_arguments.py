"""Options of the data of a training: which images, and how they are read; each with its help, range and resume rule.

This module imports no torch: the command line's help comes from it.
"""

import contextlib
import math
from dataclasses import dataclass
from typing import Literal

from hfgen.errors import UsageError
from hfgen.settings.fields import option

# Options that only some modalities read; a modality names its own (`Modality.arguments`).
PARTICULAR = frozenset(
    ("image_column", "resolution", "center_crop", "random_flip", "image_mode", "value_range", "all_frames")
)


@dataclass(kw_only=True)
class DataArguments:
    """The images that a training reads, and how. Each field is an option of `hfgen train` of the same name."""

    dataset_name: str | None = option(
        None,
        "Dataset: a built-in name, a local folder or file (images, zip, tar, parquet, npz ...), or an id on the Hub.",
        resume="reported",
    )
    dataset_config_name: str | None = option(None, "Configuration of a Hub dataset.", resume="reported")
    dataset_split: str = option("train", "Split to train on.", resume="reported")
    train_data_dir: str | None = option(
        None, "Local folder of images; the same as giving it as --dataset_name.", resume="free"
    )
    image_column: str | None = option(None, "Column of the images (default: the only one).", resume="fixed")
    label_column: str | None = option(None, "Column of the class labels (default: the only one).", resume="fixed")
    cache_dir: str | None = option(None, "Where Hub datasets are cached.", resume="free", saved=False)
    resolution: int | None = option(
        None,
        "Side of the square images, in pixels (default: the side of the data's images).",
        resume="fixed",
        at_least=1,
        aliases=("image_size",),
    )
    center_crop: bool = option(
        True,
        "Resize the shorter side, then crop the center. Without it, both sides are resized to the square.",
        resume="fixed",
    )
    random_flip: bool = option(False, "Flip half of the images horizontally, a new half each epoch.", resume="fixed")
    class_conditional: bool = option(False, "Train on the class labels too.", resume="fixed")
    unlabeled: Literal["fail", "skip"] = option(
        "fail",
        "Images without a class, where --class_conditional needs one: end with their number, or leave them out.",
        resume="fixed",
    )
    image_mode: Literal["L", "RGB", "RGBA"] | None = option(
        None,
        "Convert the images to gray, color, or color with alpha (default: what fits them; alpha that is 255 "
        "everywhere is dropped).",
        resume="reported",
    )
    value_range: str | None = option(
        None,
        "LOW,HIGH: the values of 16-bit and float images that stand for black and white, such as 0,4095 (default: "
        "by the values of some).",
        resume="fixed",
    )
    all_frames: bool = option(
        False,
        "Take every picture of an animation or a stack of TIFF as an image, not the first alone.",
        resume="fixed",
    )
    on_error: Literal["fail", "skip"] = option(
        "fail",
        "Images that cannot be read: end with the name of the first, or leave out at most 10 of them, or 1 %. Each "
        "image is then read once before the training.",
        resume="fixed",
    )
    streaming: bool = option(
        False,
        "Read the dataset from the Hub or from files as it is needed, without a copy on the disk. Its length "
        "must be known, or --max_train_steps given. Its first 200 images decide size and mode.",
        resume="fixed",
    )
    shuffle_buffer_size: int = option(
        1000,
        "Of a streamed dataset: the number of undecoded images that are held in memory and mixed. Files are "
        "read in a new order each epoch; images that are sorted within a file are mixed only within this "
        "number.",
        resume="free",
        at_least=1,
    )
    data_memory_limit: float = option(
        2.0,
        "GiB up to which decoded images stay in memory. Larger or streamed data are decoded when they are needed.",
        resume="free",
        at_least=0,
    )
    dataloader_num_workers: int | None = option(
        None,
        "Worker processes that decode images when they are needed (default: cores - 1, at most 8).",
        resume="free",
        at_least=0,
    )

    @property
    def value_limits(self) -> tuple[float, float] | None:
        """Return `value_range` as numbers.

        Raises:
            UsageError: it is not two numbers, the lower first.
        """
        if self.value_range is None:
            return None
        with contextlib.suppress(ValueError):
            low, high = map(float, str(self.value_range).split(","))
            if -math.inf < low < high < math.inf:
                return low, high
        raise UsageError(f"--value_range is {self.value_range!r}; expected two numbers, the lower first: 0,4095.")
