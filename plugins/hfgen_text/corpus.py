"""Documents become streams of ids: joined by a line end, one stream for each class."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hfgen import UsageError
from hfgen_text.documents import Document
from hfgen_text.vocabularies import Encoding, text_ids
from hfgen_text.windows import IN_MEMORY, IdFile

SEPARATOR = "\n"  # between two documents of a stream


@dataclass(frozen=True)
class Corpus:
    """The ids of documents.

    Attributes:
        streams: class -> its ids, (N,); 0 alone where there are no classes.
        sha256: of the text in UTF-8; of several streams that of the hashes of their texts.
        num_bytes: length of that text.
        num_characters: the same in characters.
    """

    streams: dict[int, np.ndarray]
    sha256: str
    num_bytes: int
    num_characters: int


def chosen(documents: Iterable[Document], rows: Collection[int] | None) -> Iterator[tuple[int, Document]]:
    """Yield the documents of these numbers, all for None, with their numbers."""
    for number, document in enumerate(documents):
        if rows is None or number in rows:
            yield number, document


def letters_of(documents: Iterable[tuple[int, Document]]) -> set[str]:
    """Return all characters of documents, and of what joins them."""
    found = {*SEPARATOR}
    for _, document in documents:
        for piece in document:
            found.update(piece)
    return found


def encode(
    documents: Iterable[tuple[int, Document]],
    encoding: Encoding,
    classes: "np.ndarray | None" = None,
    name_of: Callable[[int], str] = "row {}".format,
    most: int = IN_MEMORY,
    folder: Path | None = None,
) -> Corpus:
    """Turn documents into streams of ids, piece by piece.

    Args:
        documents: each with its number.
        classes: the class of each document by its number, -1 for one that is left out; None puts all into one stream.
        name_of: a document's number -> how the user finds it, for messages.
        most: bytes of ids that are kept in memory; more go to a temporary file in `folder`.

    Raises:
        UsageError: a text does not come back from its ids.
    """
    numbers = [0] if classes is None else sorted({int(number) for number in classes if number >= 0})
    num_ids = 1 + max(text_ids(encoding.tokenizer))
    files = {number: IdFile(num_ids, most // max(1, len(numbers)), folder) for number in numbers}
    hashes = {number: hashlib.sha256() for number in numbers}
    begun, num_bytes, num_characters = set[int](), 0, 0
    for row, document in documents:
        number = 0 if classes is None else int(classes[row])
        if number < 0:
            continue
        for piece in _joined(document, number in begun):
            try:
                files[number].write(encoding.encode(piece))
            except UsageError as error:
                raise UsageError(f"{name_of(row)}: {error}") from error
            data = piece.encode()
            hashes[number].update(data)
            num_bytes, num_characters = num_bytes + len(data), num_characters + len(piece)
            begun.add(number)
    digests = [each.hexdigest() for each in hashes.values()]
    sha256 = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return Corpus({number: file.read() for number, file in files.items()}, sha256, num_bytes, num_characters)


def _joined(document: Document, is_later: bool) -> Iterator[str]:
    """Yield the pieces of a document that are not empty, behind the separator if another one stands before it."""
    for piece in document:
        if piece:
            if is_later:
                yield SEPARATOR
                is_later = False
            yield piece
