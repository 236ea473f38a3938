"""Texts of a dataset that was found, and what a training takes of them: windows of their documents."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hfgen import Items, UsageError, classes_of, local_folder
from hfgen_text.corpus import Corpus, chosen, encode, letters_of
from hfgen_text.documents import Documents, Where, find_documents
from hfgen_text.options import BYTES, CHARACTERS, TextOptions
from hfgen_text.vocabularies import Encoding, byte_tokenizer, character_tokenizer, read_tokenizer
from hfgen_text.windows import Windows


@dataclass(frozen=True, kw_only=True)
class Texts(Items):
    """The documents of a split, by number."""

    noun = ("text", "texts")

    documents: Documents
    options: TextOptions = field(default_factory=TextOptions)

    def words(self, options: Mapping[str, Any]) -> str:
        chosen_by = TextOptions.of(options)
        return f"blocks of {chosen_by.block_size} symbols, {Path(chosen_by.tokenizer).name}"

    def recorded(self, options: Mapping[str, Any]) -> dict[str, Any]:
        chosen_by = TextOptions.of(options)
        return {"block_size": chosen_by.block_size, "tokenizer": Path(chosen_by.tokenizer).name}

    def num_examples(self, options: Mapping[str, Any]) -> int | None:
        """Return None: how many blocks there are is not known before the texts are read."""
        return None

    def name_of(self, index: int) -> str:
        return self.documents.name_of(self.row(index))

    @property
    def chosen_rows(self) -> set[int] | None:
        return None if self.rows is None else {*self.rows.tolist()}

    def corpus(self, encoding: Encoding, by_class: bool = False, folder: Path | None = None) -> Corpus:
        """Read all documents as ids.

        Args:
            by_class: make a stream for each class.
            folder: of a temporary file, for more ids than memory should hold.

        Raises:
            UsageError: a text is not UTF-8, or does not come back from its ids.
        """
        read = chosen(self.documents.read(), self.chosen_rows)
        return encode(read, encoding, self._classes() if by_class else None, self.documents.name_of, folder=folder)

    def _classes(self) -> np.ndarray:
        """Return the class of each document of the dataset, by its number there; -1 for those of other parts."""
        assert self.labels is not None
        rows = np.arange(len(self)) if self.rows is None else self.rows
        classes = np.full(int(rows.max()) + 1, -1, np.int64)
        classes[rows] = self.labels.numpy()
        return classes

    def letters(self) -> set[str]:
        """Return all characters of the documents."""
        return letters_of(chosen(self.documents.read(), self.chosen_rows))


def find_texts(where: Where, options: TextOptions) -> Texts:
    """Find the texts of a dataset.

    Raises:
        UsageError: as of `find_documents`; or labels that do not stand for classes.
    """
    found = find_documents(where, options.sample_by)
    if found.count is None:
        raise UsageError(f"{where.name}: the number of its documents is not known; texts are not streamed from there.")
    labels, names, problem, notes = None, None, None, list(found.notes)
    if found.labels is not None:
        try:
            classes = classes_of(found.labels, found.declared, found.label_column or "folder", found.name_of)
            labels, names, problem = classes.labels, classes.names, classes.missing
            notes += classes.notes
        except UsageError as error:
            if where.label_column is not None:
                raise UsageError(f"{where.name}: {error}.") from error
            problem = str(error)
    return Texts(
        name=where.name,
        count=found.count,
        notes=notes,
        label_names=names,
        label_problem=problem,
        splits=found.splits,
        dataset_id=found.dataset_id,
        labels=labels,
        documents=found,
        options=options,
    )


def tokenizer_for(texts: Texts, options: TextOptions) -> Any:
    """Make or read the tokenizer that the options name.

    Raises:
        UsageError: it cannot be read, or has holes in its ids.
    """
    name = options.tokenizer
    if name == BYTES:
        return byte_tokenizer()
    if name == CHARACTERS:
        return character_tokenizer(texts.letters())
    if Path(name).expanduser().exists():
        return read_tokenizer(Path(name).expanduser(), name)
    return read_tokenizer(Path(local_folder(name, allow_patterns=["*.json"])), name)


class TextSource:
    """The windows of a training (`hfgen.data.batches.Source`): int32, (B, L).

    Args:
        seed: of the shifts of the windows' edges.

    Raises:
        UsageError: the texts are shorter than a block.
    """

    in_memory = True

    def __init__(
        self, texts: Texts, encoding: Encoding, block_size: int, seed: int | None, by_class: bool, device: Any = "cpu"
    ) -> None:
        self.facts, self.device = texts, torch.device(device)
        self.corpus = texts.corpus(encoding, by_class)
        self.windows = Windows(self.corpus.streams, block_size, seed)
        self.labels = torch.from_numpy(self.windows.labels) if by_class else None

    def __len__(self) -> int:
        return len(self.windows)

    def fetch(self, indices: Tensor, epoch: int | None) -> Tensor:
        """Return windows of an epoch; without an epoch those that are not shifted."""
        return self.windows.fetch(indices.tolist(), epoch).to(self.device)

    def finish(self, stored: Tensor) -> dict[str, Tensor]:
        return {"input_ids": stored.long()}


@functools.lru_cache(maxsize=4)
def encoding_of(tokenizer: Any) -> Encoding:
    """Return the encoding of a tokenizer, which is made once."""
    return Encoding(tokenizer)
