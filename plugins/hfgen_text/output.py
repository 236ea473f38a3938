"""The output of pipelines of texts."""

from dataclasses import dataclass

from diffusers.utils import BaseOutput
from torch import Tensor


@dataclass
class TextPipelineOutput(BaseOutput):
    """Texts that a pipeline sampled.

    Attributes:
        texts: one for each seed; None where ids alone were asked for.
        sequences: their ids, (B, L), int64.
    """

    texts: list[str] | None
    sequences: Tensor
