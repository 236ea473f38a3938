"""Options of texts that other data do not have. This module imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hfgen import UsageError, option

BYTES, CHARACTERS = "bytes", "characters"


@dataclass(frozen=True)
class TextOptions:
    """The options of texts that other data do not have."""

    block_size: int = option(128, "symbols of a text: documents are joined, and cut into blocks", resume="fixed")
    tokenizer: str = option(
        BYTES, "bytes, characters, or a folder or id on the Hub that holds a tokenizer.json", resume="fixed"
    )
    text_column: str | None = option(None, "column of texts; None takes the only one", resume="fixed")
    sample_by: Literal["document", "line"] = option(
        "document", "what a document is: a file or row, or each line of it", resume="fixed"
    )

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "TextOptions":
        names = cls.__dataclass_fields__
        found = cls(**{name: value for name, value in options.items() if name in names and value is not None})
        if found.block_size < 2:
            raise UsageError(f"--block_size is {found.block_size}; it must be at least 2.")
        return found
