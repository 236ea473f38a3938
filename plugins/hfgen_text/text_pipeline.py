"""The common part of families of texts: their symbols, classes, sizes and known places."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from hfgen import HFGenPipeline, SeededNoise, UsageError, labels_for
from hfgen_text.known_places import known_places
from hfgen_text.text_scheduler import TextScheduler

ELEMENTS = 1 << 22  # log-probabilities in one pass of a likelihood


class TextPipeline(HFGenPipeline):
    """A pipeline with a network `transformer`, a tokenizer that the data bring, and a `TextScheduler`.

    Samples are ids, int64, (B, L).
    """

    modality: ClassVar[str] = "text"
    training_defaults: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 1e-3,
        "lr_scheduler": "cosine",
        "lr_warmup_steps": 100,
        "adam_beta2": 0.99,
        "adam_weight_decay": 0.1,
        "max_grad_norm": 1.0,
        "train_batch_size": 32,
        "num_train_epochs": 4,
        "ema_decay": 0.99,
    }
    transformer: Any
    tokenizer: Any
    scheduler: TextScheduler

    @property
    def num_classes(self) -> int | None:
        """Number of classes of a class-conditional model, else None."""
        found: int | None = self.scheduler.config.num_classes
        return found

    @property
    def sequence_length(self) -> int:
        """L, symbols of a text."""
        return self.scheduler.length

    @property
    def vocab_size(self) -> int:
        """V, ids of the tokenizer, its special symbols included."""
        return int(self.scheduler.config.vocab_size)

    def progress(self, steps_taken: Sequence[Any]) -> Iterable[Any]:
        """Show a progress bar on a terminal, with `set_progress_bar_config`'s options."""
        if not hasattr(self, "_progress_bar_config"):
            self.set_progress_bar_config(disable=None, leave=False)  # None: off a terminal there is none
        return self.progress_bar(steps_taken)

    def known(self, count: int, prompt: str | None, suffix: str | None, infill: str | None) -> tuple[Tensor, Tensor]:
        """Known ids and places of so many texts, (B, L) each. Raises as `known_places`."""
        ids, known = known_places(self.tokenizer, self.sequence_length, prompt, suffix, infill)
        device = self._execution_device
        return ids.to(device).expand(count, -1), known.to(device).expand(count, -1)

    def checked_ids(self, input_ids: Tensor) -> Tensor:
        """Check ids of texts, (B, L), int64.

        Raises:
            UsageError: they have another shape, or hold a symbol that no text has.
        """
        if not isinstance(input_ids, Tensor) or input_ids.ndim != 2 or input_ids.shape[1] != self.sequence_length:
            shape = tuple(input_ids.shape) if isinstance(input_ids, Tensor) else type(input_ids).__name__
            raise UsageError(f"Texts are {shape}; expected ids of shape (B, {self.sequence_length}).")
        ids = input_ids.to(self._execution_device, torch.int64)
        wrong = (ids < 0) | (ids >= self.vocab_size) | torch.isin(ids, self.scheduler.never(ids.device))
        if bool(wrong.any()):
            row = int(wrong.any(-1).nonzero()[0])
            raise UsageError(f"Text {row} holds the symbol {int(ids[wrong][0])}, which no text of this model has.")
        return ids

    def labels_of(self, ids: Tensor, class_labels: Tensor | None) -> Tensor | None:
        """Check the class of each text."""
        return labels_for(len(ids), class_labels, self.num_classes, self._execution_device)

    def sizes_of(self, input_ids: Tensor) -> Mapping[str, Tensor]:
        """Return how many bytes (UTF-8) and characters each text has: name -> (B,), float64.

        Where a block of a byte-level tokenizer cuts a character, its bytes count on both sides, and as a character
        on the side where it begins.
        """
        texts = self.tokenizer.batch_decode(input_ids.tolist(), clean_up_tokenization_spaces=False)
        characters = [len(text) for text in texts]
        num_bytes = [len(text.encode()) for text in texts]
        if "ByteLevel" in str(self.tokenizer.backend_tokenizer.decoder):
            pieces = [self.tokenizer.convert_ids_to_tokens(row) for row in input_ids.tolist()]
            num_bytes = [sum(map(len, row)) for row in pieces]  # a letter of the token is a byte
            starts = [sum(_begins(piece) for piece in row) for row in pieces]
            characters = starts
        found = {"byte": num_bytes, "character": characters}
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()}

    def rows_at_once(self) -> int:
        return max(1, ELEMENTS // (self.sequence_length * self.vocab_size))


def _begins(piece: str) -> int:
    """Count the bytes of a byte-level token that begin a character: all but 0x80 to 0xBF."""
    return sum(letter not in CONTINUING for letter in piece)


def _continuing() -> frozenset[str]:
    """Return the letters that stand for bytes 0x80 to 0xBF in byte-level tokenizers."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]  # GPT-2's bytes_to_unicode
    others = [byte for byte in range(256) if byte not in plain]
    letters = {**{byte: chr(byte) for byte in plain}, **{byte: chr(256 + n) for n, byte in enumerate(others)}}
    return frozenset(letters[byte] for byte in range(0x80, 0xC0))


CONTINUING = _continuing()


def noise_of_rows(noise: SeededNoise, rows: slice) -> SeededNoise:
    """Return the noise of some texts of a batch."""
    return SeededNoise(noise.generators[rows], noise.device)
