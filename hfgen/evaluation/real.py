"""The real items that a model is compared with, in stored form, by their hash; and a value with its error."""

import hashlib
import math
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from hfgen.errors import CheckError


@dataclass(frozen=True)
class Estimate:
    """A value and how far off it may be.

    Attributes:
        error: standard error; None where it is not estimated.
        error_of: how that was found.
    """

    value: float
    error: float | None = None
    error_of: str | None = None

    def __post_init__(self) -> None:
        for number in (self.value, self.error):
            if number is not None and not math.isfinite(number):
                raise CheckError(f"A metric is {number}; nothing was written.")

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass
class Real:
    """The real items that a model is compared with, and what its metrics need of them.

    Attributes:
        items: the reference, as found.
        stored: the same in stored form, (N, ...), integers: uint8 pixels, int32 blocks of symbols.
        sha256: of shape and bytes of these (`stored_sha256`).
        extractor: the network whose features are compared; None where no wanted metric does.
        features, train_features: what the metrics compare, of the reference and of the training items, in a form of
            the modality's own; None where nothing needs them.
        train_sha256: of the training items in stored form; None where they were not needed.
        floor: the metrics of as many real items in the model's place.
    """

    items: Any
    stored: Tensor
    sha256: str
    extractor: Any = None
    features: Any = None
    train_features: Any = None
    train_sha256: str | None = None
    floor: dict[str, Estimate] = field(default_factory=dict)

    def bare(self) -> "Real":
        """Return the same without what was prepared."""
        return Real(self.items, self.stored, self.sha256)


def stored_sha256(stored: Tensor) -> str:
    """Hash shape and bytes: equal for the same items in the same order, whatever file they came from.

    >>> import torch
    >>> stored_sha256(torch.zeros(2, 1, 4, 4, dtype=torch.uint8))[:8]
    'e219f922'
    """
    digest = hashlib.sha256(str(tuple(stored.shape)).encode())
    digest.update(stored.contiguous().numpy().data)
    return digest.hexdigest()
