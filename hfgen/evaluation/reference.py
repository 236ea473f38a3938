"""The real items that a model is compared with: a split of a dataset, or what its training held out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfgen import run_folder
from hfgen.data.class_names import aligned
from hfgen.data.divided import HELD_OUT, divided, facts_of
from hfgen.data.sources import NoSplitError
from hfgen.errors import HFGenError, UsageError
from hfgen.files import looks_local, read_config_file
from hfgen.hub.download import local_folder
from hfgen.registry import IMAGE, get_modality, list_modalities
from hfgen.results.protocol import Protocol


@dataclass(frozen=True)
class Trained:
    """The record that a run has of the data that its model was trained on; empty where there is no run.

    Attributes:
        config: of the run.
        facts: the `data` of its environment.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def dataset(self) -> str | None:
        return self.config.get("dataset_name") or self.config.get("train_data_dir")

    @property
    def options(self) -> dict[str, Any]:
        """The options of the data by name, those that only the modality has among them; no folder of a machine's."""
        flat = {name: value for name, value in self.config.items() if name not in ("data", "cache_dir")}
        return {**flat, **(self.config.get("data") or {})}

    @property
    def is_local(self) -> bool:
        """Return True if the data were files of some machine, so that no Hub is to be asked for them."""
        recorded = "dataset_id" in self.facts and self.facts["dataset_id"] is None
        return self.dataset is not None and (recorded or looks_local(self.dataset))

    @property
    def is_at_hand(self) -> bool:
        return self.dataset is not None and (
            Path(self.dataset).expanduser().exists() or any(self.dataset in m.built_in for m in list_modalities())
        )

    def is_of(self, dataset: str) -> bool:
        """Return True if a dataset is the one that was trained on, whichever way its path is written."""
        if self.dataset is None or dataset == self.dataset:
            return dataset == self.dataset
        here, there = Path(dataset).expanduser(), Path(self.dataset).expanduser()
        return here.exists() and there.exists() and here.samefile(there)


def trained_on(target: str) -> Trained:
    """Read what a run, or a model in its folder, was trained on."""
    place = Path(target)
    for folder in (place, place.parent, place.parent.parent) if place.is_dir() else ():  # best/, checkpoints/NAME
        if (folder / run_folder.CONFIG).is_file() and (folder == place or (folder / run_folder.ENVIRONMENT).is_file()):
            config = read_config_file(folder / run_folder.CONFIG)
            there = (folder / run_folder.ENVIRONMENT).is_file()
            facts = run_folder.read_environment(folder).get("data") if there else None
            return Trained(config, facts if isinstance(facts, dict) else {})
    return Trained()


def published_names(target: str) -> list[str] | None:
    """Return the names of the classes of a model on the Hub, by the record beside it; None for a local model."""
    if Path(target).exists():
        return None
    try:
        return run_folder.class_names(Path(local_folder(target, [run_folder.ENVIRONMENT])))
    except HFGenError:
        return None


def dataset_of(trained: Trained, protocol: Protocol | None) -> str:
    """Return the dataset that a model was trained on, if it is at hand; else the protocol's, in a copy from the Hub.

    Raises:
        UsageError: none is known, or it is local data which are not here.
    """
    if trained.is_at_hand or protocol is None or protocol.dataset is None:
        name = trained.dataset
    else:
        name = protocol.dataset
    if name is None:
        raise UsageError(
            "The dataset to compare with is not known: the model does not record what it was trained on.\n"
            "Give --dataset_name."
        )
    if name == trained.dataset and trained.is_local and not trained.is_at_hand:
        raise UsageError(
            f"The model was trained on local data, {Path(name).name}, which are not here.\n"
            "Say where they are: --dataset_name FOLDER"
        )
    return name


@dataclass(frozen=True)
class Data:
    """A dataset whose items a model is compared with.

    Attributes:
        trained: what the training says of it; None where the model was trained on other data.
    """

    name: str
    config_name: str | None = None
    trained: Trained | None = None
    modality: Any = field(default_factory=lambda: get_modality(IMAGE))

    def reference(self, split: str | None) -> tuple[str, Any]:
        """Return the items of a split, with its name; by default test, what the training held out, or validation.

        Raises:
            UsageError: there is no such split, or what was held out is not known.
        """
        for name in [split] if split else ["test", HELD_OUT, "validation"]:
            try:
                return name, self._held_out() if name == HELD_OUT else self._items(name)
            except NoSplitError as error:
                if split:
                    raise NoSplitError(str(error).replace("--dataset_split", "--split")) from error
        raise UsageError(
            f"{self.name} has neither a split 'test' nor a split 'validation', and no part was held out in training.\n"
            f"Give --split; choose {self.modality.noun[1]} that the model was not trained on, so that copies of them "
            "do not count as good.\nThe next training can hold some out: --validation_fraction 0.1"
        )

    def train(self, split: str) -> Any:
        """Return the training items without what was held out; None where there are none."""
        try:
            return self._divided() if self._fraction and split == self._trained_split else self._items(split)
        except UsageError:
            return None

    @property
    def _fraction(self) -> float | None:
        return None if self.trained is None else self.trained.config.get("validation_fraction")

    @property
    def _trained_split(self) -> str:
        return "train" if self.trained is None else str(self.trained.config.get("dataset_split") or "train")

    def _items(self, split: str) -> Any:
        """Return the items of a split, read as the training did."""
        of: Mapping[str, Any] = {} if self.trained is None else self.trained.options
        items = self.modality.find(self.name, split, {**of, "dataset_config_name": self.config_name})
        if self.trained is not None:
            items = items.read_as(self.trained.facts)
        if self.trained is None or not of.get("class_conditional"):
            return items
        names = self.trained.facts.get("class_names")
        items = aligned(items, names, len(names)) if names else items
        return items.labeled() if of.get("unlabeled") == "skip" else items

    def _divided(self) -> Any:
        """Return the items that the model was trained on.

        Raises:
            UsageError: the data have changed since, so that the held-out part would be another one.
        """
        assert self.trained is not None
        config, then = self.trained.config, self.trained.facts.get("held_out")
        items = divided(self._items(self._trained_split), float(self._fraction or 0), config["seed"])
        assert items.held_out is not None
        if then != facts_of(items.held_out):
            raise UsageError(
                f"{self.name} is no longer as it was at the training: other {self.modality.noun[1]} would be held out "
                "now, and some of them were trained on.\nRestore the data, or give --dataset_name or --split."
            )
        return items

    def _held_out(self) -> Any:
        if not self._fraction:
            raise NoSplitError(
                f"No part of {self.name} was held out in the training of this model; --split {HELD_OUT} is that of "
                "--validation_fraction."
            )
        held_out = self._divided().held_out
        assert held_out is not None
        return held_out
