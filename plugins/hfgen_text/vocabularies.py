"""Tokenizers: bytes, characters of the data, or a fast one by name; saved as transformers saves any.

A text that a tokenizer takes must come back from it, so that a likelihood is of the text. The ids of its mask and
begin symbols never stand for text: what looks like one in the data, such as a literal `<mask>`, stays text.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from hfgen import LoadError, UsageError, check_tokenizer_file, read_json
from hfgen_text.options import BYTES, CHARACTERS

MASK, BEGIN = "<mask>", "<s>"
SHOWN = 40  # characters of an excerpt
NAMED = ("mask_token", "bos_token", "eos_token", "cls_token", "sep_token", "pad_token", "unk_token")


def byte_tokenizer() -> Any:
    """Make the tokenizer whose ids 0 to 255 are the bytes of a text in UTF-8, 256 is the mask and 257 the begin."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    ids = {letter: byte for byte, letter in bytes_to_unicode().items()}
    backend = Tokenizer(models.BPE(vocab=ids, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return _with_mask_and_begin(backend)


def character_tokenizer(letters: Iterable[str]) -> Any:
    """Make the tokenizer whose ids are these characters, sorted; the mask and the begin follow."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel({letter: number for number, letter in enumerate(sorted({*letters}))}))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("(?m)."), "isolated")
    backend.decoder = decoders.Fuse()
    return _with_mask_and_begin(backend)


def read_tokenizer(folder: Path, name: str) -> Any:
    """Read the `tokenizer.json` of a folder; nothing else in it is opened but the names of its special symbols.

    Args:
        name: as the user gave it, for messages.

    Raises:
        UsageError: there is none, it is damaged or too large, or its ids have holes.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UsageError(
            f"--tokenizer {name}: there is no tokenizer.json; it is the one form of tokenizers that is read.\n"
            f"Give {BYTES}, {CHARACTERS}, or a folder or an id on the Hub that holds one."
        )
    try:
        check_tokenizer_file(path)
    except LoadError as error:
        raise UsageError(f"--tokenizer {name}: {error}") from error
    backend = Tokenizer.from_file(str(path))
    backend.no_padding()
    backend.no_truncation()
    tokenizer = _wrapped(backend, _special(folder, name, backend))
    check_ids(tokenizer, name)
    return tokenizer


def _special(folder: Path, name: str, backend: Any) -> dict[str, str]:
    """Return the special symbols that the folder's config names and its vocabulary has."""
    found: dict[str, str] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        if not (folder / file).is_file():
            continue
        try:
            config = read_json(folder / file)
        except (ValueError, OSError) as error:
            raise UsageError(f"--tokenizer {name}: {file} cannot be read: {_line(error)}") from error
        for role in NAMED:
            value = config.get(role) if isinstance(config, dict) else None
            value = value.get("content") if isinstance(value, dict) else value
            if isinstance(value, str) and backend.token_to_id(value) is not None:
                found[role] = value
    return found


def _with_mask_and_begin(backend: Any) -> Any:
    backend.add_special_tokens([MASK, BEGIN])
    return _wrapped(backend, {"mask_token": MASK, "bos_token": BEGIN})


def _wrapped(backend: Any, special: dict[str, str]) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **special)


def check_ids(tokenizer: Any, name: str) -> None:
    """Raise a UsageError unless the ids of a tokenizer are 0, 1, 2 ... without holes."""
    ids = {*tokenizer.get_vocab().values()}
    missing = next((number for number in range(len(ids)) if number not in ids), None)
    if missing is not None:
        raise UsageError(
            f"--tokenizer {name}: its ids have holes: {len(ids):,} symbols have ids up to {max(ids):,}, and none has "
            f"{missing:,}.\nGive another tokenizer, or {BYTES}."
        )


def mask_id(tokenizer: Any) -> int:
    """Return the id of the mask.

    Raises:
        UsageError: the tokenizer has none.
    """
    if tokenizer.mask_token_id is None:
        raise UsageError(
            "The tokenizer has no mask symbol, which masked diffusion needs.\n"
            f"Give --tokenizer {BYTES} or {CHARACTERS}, or one with a mask_token, as BERT's."
        )
    return int(tokenizer.mask_token_id)


def begin_id(tokenizer: Any) -> int:
    """Return the id of the symbol that stands before a text, and is never predicted: its begin, class or end symbol.

    Raises:
        UsageError: the tokenizer has none of these.
    """
    for found in (tokenizer.bos_token_id, tokenizer.cls_token_id, tokenizer.eos_token_id):
        if found is not None:
            return int(found)
    raise UsageError(
        f"The tokenizer has no begin symbol.\nGive --tokenizer {BYTES} or {CHARACTERS}, or one with a bos_token."
    )


def text_ids(tokenizer: Any) -> list[int]:
    """Return the ids that can stand for text: all but the special symbols."""
    special = {*tokenizer.all_special_ids}
    return [number for number in range(len(tokenizer)) if number not in special]


class Encoding:
    """Turns texts into ids and back, as fast as the kind of tokenizer allows.

    Args:
        tokenizer: a fast tokenizer of transformers.
        name: as the user gave it, for messages.
    """

    def __init__(self, tokenizer: Any, name: str = "tokenizer") -> None:
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        self.tokenizer, self.name = tokenizer, name
        self.special = {*tokenizer.all_special_ids}
        words = {word: number for word, number in tokenizer.get_vocab().items() if number not in self.special}
        self.is_bytes = words == {letter: byte for byte, letter in bytes_to_unicode().items()}
        model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["type"]
        self.letters = words if model == "WordLevel" and all(len(word) == 1 for word in words) else None
        self._table: np.ndarray | None = None

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of a text: (N,), int32.

        Raises:
            UsageError: it does not come back from them.
        """
        if self.is_bytes:
            return np.frombuffer(text.encode(), np.uint8).astype(np.int32)
        return self._of_letters(text) if self.letters is not None else self._of_words(text)

    def _of_letters(self, text: str) -> np.ndarray:
        if self._table is None:
            self._table = np.full(0x110000, -1, np.int32)
            for letter, number in (self.letters or {}).items():
                self._table[ord(letter)] = number
        ids = self._table[np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")]
        if (ids < 0).any():
            letter = text[int((ids < 0).argmax())]
            raise UsageError(
                f"The text holds {letter!r}, which is none of the {len(self.letters or {})} characters of the model.\n"
                f"Leave it out, or train with --tokenizer {BYTES}, which takes any text."
            )
        return ids

    def _of_words(self, text: str) -> np.ndarray:
        backend = self.tokenizer.backend_tokenizer
        backend.encode_special_tokens = True  # a literal [MASK] is text
        ids = backend.encode(text, add_special_tokens=False).ids
        again = backend.decode(ids, skip_special_tokens=False)
        if again != text or self.special & {*ids}:
            at = next((i for i, (one, other) in enumerate(zip(text, again, strict=False)) if one != other), len(again))
            at = max(0, min(at, len(text) - 1) - 5)
            raise UsageError(
                f"--tokenizer {self.name} does not give a text back: {text[at : at + SHOWN]!r} becomes "
                f"{again[at : at + SHOWN]!r}.\nGive one that keeps every character, such as {BYTES}."
            )
        return np.array(ids, np.int32)

    def decode(self, sequences: Iterable[Iterable[int]]) -> list[str]:
        """Return the text of each sequence of ids; invalid UTF-8 becomes U+FFFD, special symbols nothing."""
        return [self.to_bytes(ids).decode("utf-8", "replace") for ids in sequences]

    def to_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of one sequence of ids, without its special symbols."""
        kept = [int(number) for number in ids if int(number) not in self.special]
        if self.is_bytes:
            return bytes(kept)
        return str(self.tokenizer.backend_tokenizer.decode(kept, skip_special_tokens=False)).encode()


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
