"""TextScheduler: the symbols that a text is made of, and those that only a network's inputs hold."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from hfgen import UsageError
from hfgen_text.vocabularies import begin_id, mask_id


class TextScheduler(SchedulerMixin, ConfigMixin):
    """The length and the symbols of texts; how they are drawn is said by each call.

    A class is a symbol of its own, behind those of the tokenizer: class k is `vocab_size` + k.

    Args:
        sequence_length: L, symbols of a text.
        vocab_size: V, ids of the tokenizer, its special symbols included.
        num_classes: number of classes of a class-conditional model.
        start_token_id: the mask symbol of masked diffusion, or the begin symbol of an autoregressive model; None for
            that of the tokenizer.
        never_drawn: ids of symbols that no text holds: the mask, the begin, padding; None for those of the tokenizer.

    Raises:
        UsageError: a number below 1, or an id beyond the vocabulary.
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        sequence_length: int = 128,
        vocab_size: int = 258,
        num_classes: int | None = None,
        start_token_id: int | None = None,
        never_drawn: Sequence[int] | None = None,
    ) -> None:
        for name, number in {"sequence_length": sequence_length, "vocab_size": vocab_size}.items():
            if number < 1:
                raise UsageError(f"--scheduler.{name} is {number}; it must be at least 1.")
        ids = [*([] if start_token_id is None else [start_token_id]), *(never_drawn or [])]
        if any(not 0 <= id_ < vocab_size for id_ in ids):
            raise UsageError(f"The scheduler's special symbols {ids} lie outside its {vocab_size} symbols.")
        self.timesteps = torch.arange(sequence_length - 1, -1, -1)

    def set_timesteps(self, num_inference_steps: int | None = None, device: torch.device | str = "cpu") -> None:
        """Set as many steps; by default one for each symbol."""
        self.timesteps = torch.arange((num_inference_steps or self.length) - 1, -1, -1, device=device)

    @property
    def length(self) -> int:
        return int(self.config.sequence_length)

    @property
    def start_id(self) -> int:
        if self.config.start_token_id is None:
            raise UsageError("The scheduler has no start_token_id; a pipeline takes it from its tokenizer.")
        return int(self.config.start_token_id)

    def never(self, device: torch.device | str = "cpu") -> Tensor:
        """Ids that are not drawn, (N,), int64."""
        return torch.tensor(list(self.config.never_drawn or ()), dtype=torch.int64, device=device)

    def class_symbols(self, class_labels: Tensor) -> Tensor:
        """Classes (B,) -> their symbols, (B, 1)."""
        return (self.config.vocab_size + class_labels).unsqueeze(-1)

    def take_symbols(self, tokenizer: Any, start: str) -> None:
        """Take the special symbols from a tokenizer, where they are not set.

        Args:
            start: what stands at the start: `"mask"` or `"bos"`.

        Raises:
            UsageError: it has no such symbol, or more symbols than the scheduler says.
        """
        if len(tokenizer) != self.config.vocab_size:
            raise UsageError(
                f"The tokenizer has {len(tokenizer)} symbols, the model was made for {self.config.vocab_size}.\n"
                "Give the tokenizer that the model was trained with."
            )
        found = mask_id(tokenizer) if start == "mask" else begin_id(tokenizer)
        taken = {"start_token_id": found, "never_drawn": sorted({found, *tokenizer.all_special_ids})}
        self.register_to_config(**{n: value for n, value in taken.items() if self.config[n] is None})
