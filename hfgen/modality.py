"""Modality: what is generated, as files hold it and people see it: images, texts, sounds, points.

The core speaks of items, of their stored form and of nouns; what these are is said by a modality, found by an entry
point. It imports no torch before one of its methods is called.

    [project.entry-points."hfgen.modalities"]
    image = "hfgen_image.modality:ImageModality"

An item is held in three forms: as its file or record has it; *stored*, a tensor of integers such as uint8 pixels, of
which hashes are made; and as a *sample*, the tensor that networks take and pipelines give.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

Options = Mapping[str, Any]  # the fields of `DataArguments`, and the modality's own, by name; missing ones are default
Item = Any  # as people see it: a PIL image, a str, an array of a sound
Kind = Literal["samples", "features", "manifold", "likelihood", "reconstruction", "cost", "size"]


@dataclass(frozen=True)
class Metric:
    """
    Attributes:
        title: for tables.
        better: which way; None for a fact that is neither good nor bad.
        what: in a line.
        kind: `"samples"` compares sampled items with real ones; `"features"` and `"manifold"` do so by an extractor's
            features, the latter by nearest neighbors; `"cost"` is measured while sampling; `"size"` is of networks.
    """

    title: str
    better: Literal["lower", "higher"] | None
    what: str
    kind: Kind

    @property
    def of_samples(self) -> bool:
        """Return True if the metric compares sampled items with real ones."""
        return self.kind in ("samples", "features", "manifold")

    @property
    def of_features(self) -> bool:
        """Return True if it does so by an extractor's features."""
        return self.kind in ("features", "manifold")


class Batches(Protocol):
    """The micro-batches of a training, on the device, in an order that is a function of (seed, epoch, position).

    Attributes:
        facts: of the dataset that is trained on (`hfgen.data.facts.Facts`).
    """

    @property
    def facts(self) -> Any: ...

    @property
    def steps_per_epoch(self) -> int: ...

    def epochs(self, step: int) -> float:
        """Return the passes over the data in `step` steps."""

    def steps(self, first: int, last: int, stopped: Callable[[], bool]) -> Iterator[list[dict[str, Any]]]:
        """Yield this process's micro-batches of each optimizer step in [first, last)."""

    def examples(self, count: int) -> dict[str, Any]:
        """Return a batch of at most `count` training items, always the same."""

    def state_dict(self) -> Any:
        """Return what a checkpoint keeps of the place in the data; JSON, None where the step says it."""

    def load_state_dict(self, state: Any) -> None: ...


class Modality(ABC):
    """Base class of modalities.

    Attributes:
        noun: one item and several, in messages, metrics (`images_per_second`) and cards.
        batch_key: of the items in a batch, as transformers call it.
        output_types: of a pipeline's call, the default first.
        item_suffix: of the files of single items: `.png`.
        pipeline_tag: the task by which the Hub lists the models; `tags` further ones.
        arguments: names of fields of `DataArguments` that belong to some modalities only, and that this one reads;
            others of `PARTICULAR` are refused where they are given.
        data_options: a dataclass of `hfgen.settings.fields.option`, the options of the data that only this modality
            has; they are typed as `--block_size 64`, and kept in the block `data` of a config.
        built_in: name -> one line, of the datasets that come with it.
        sample_file: what the command on a card writes.
        metrics: name -> `Metric`, of those that not every modality has, `seconds_per_image` and the like among them.
        stored_noun: of what is hashed.
        protocols: the folder of its protocols, `NAME.yaml`; each says `modality: NAME`.
        protocol_options: of a protocol, those that not every modality has: some of
            `hfgen.results.protocol.PARTICULAR`, or names of its own, which are read from `Protocol.options`.
        train_metrics: of `metrics`, those that need the training items.
        bundled: methods of `HFGenPipeline` that ask the modality, `to_output` and `check_output_type`, each with the
            function, `module:name`, that stands in for it where code is saved beside the weights; empty where that
            cannot be done.
    """

    noun: ClassVar[tuple[str, str]]
    batch_key: ClassVar[str]
    output_types: ClassVar[tuple[str, ...]]
    item_suffix: ClassVar[str]
    pipeline_tag: ClassVar[str | None] = None
    tags: ClassVar[tuple[str, ...]] = ()
    arguments: ClassVar[frozenset[str]] = frozenset()
    data_options: ClassVar[Any] = None
    built_in: ClassVar[Mapping[str, str]] = {}
    sample_file: ClassVar[str] = "samples"
    bundled: ClassVar[Mapping[str, str]] = {}
    metrics: ClassVar[Mapping[str, Metric]] = {}
    stored_noun: ClassVar[str] = "items"
    protocols: ClassVar[Path | None] = None
    protocol_options: ClassVar[Sequence[str]] = ()
    train_metrics: ClassVar[Sequence[str]] = ()

    # --- data ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def find(self, name: str, split: str, options: Options, streaming: bool = False) -> Any:
        """Find a dataset and look at it: `hfgen.data.facts.Facts`, or its `Items` unless it is streamed.

        Args:
            name: of a built-in dataset, a file, a folder, or an id on the Hub.

        Raises:
            UsageError: there is no such dataset or split, or it holds nothing of this modality.
            HFGenError: something in it cannot be read.
        """

    def components(self, facts: Any, options: Options) -> dict[str, Any]:
        """Return the components that come from data, by name, such as a tokenizer."""
        return {}

    @abstractmethod
    def shape(self, facts: Any, options: Options, components: Mapping[str, Any]) -> tuple[int, int]:
        """Return what `HFGenPipeline.build` takes as `sample_size` and `in_channels`: (side, channels) of images,
        (length, vocabulary) of texts.

        Raises:
            UsageError: the options must choose it.
        """

    @abstractmethod
    def batches(
        self,
        facts: Any,
        layout: Any,
        options: Options,
        pipeline: Any,
        device: Any,
        note: Callable[[str], Any],
        progress: Callable[[Any], Any] = iter,
    ) -> Batches:
        """Return the batches of a training.

        Args:
            facts: as `find` found them.
            layout: the rows of the global batch that each process has (`hfgen.data.layout.Layout`).
            options: also `seed`, `class_conditional`, `data_memory_limit` and the like.
            pipeline: the one to be trained, of whose components items are made.
            note: called with a line for the user.
            progress: wraps what takes long before the first step.

        Raises:
            UsageError: the global batch is larger than the data, or labels are wanted and there are none.
        """

    @abstractmethod
    def sample_shape(self, pipeline: Any) -> tuple[int, int]:
        """Return `shape` of what a pipeline samples, as `shape` gives it of data."""

    def shape_words(self, shape: tuple[int, int]) -> str:
        """Return `shape` in words, for messages: `1 channel and 28 pixels a side`."""
        return f"shape {shape}"

    def advice(self, found: tuple[int, int], wanted: tuple[int, int]) -> list[str]:
        """Return options that bring data of the shape `wanted` to that of a model, `found`."""
        return []

    # --- samples ------------------------------------------------------------------------------------------------

    @abstractmethod
    def output(self, samples: Any, pipeline: Any, output_type: str) -> Any:
        """Return samples as an output of diffusers or transformers, whose first field holds them."""

    def items(self, output: Any) -> Sequence[Item]:
        """Return the items of an output of the default type, one for each seed."""
        found: Sequence[Item] = output[0]
        return found

    # --- files of `hfgen sample` --------------------------------------------------------------------------------

    @abstractmethod
    def kind_of(self, output: str) -> str | None:
        """Return which kind of file a name stands for, by its ending: a word of the modality's own, `walk` for a
        latent walk; None for an ending that it does not write.

        Folders, where each item has a file of its own, are not asked about.
        """

    @abstractmethod
    def save_item(self, item: Item, path: Path) -> None:
        """Write one item whole or not at all, under a path that ends in `item_suffix`."""

    @abstractmethod
    def write_items(
        self,
        batches: Iterator[tuple[Sequence[int], Sequence[Item]]],
        kind: str,
        output: Path,
        seeds: Sequence[int],
        labels: Sequence[int] | None,
    ) -> int:
        """Write all items into one file, as they come; return their number.

        Args:
            batches: seeds and items.
            kind: of `kind_of`.
            seeds, labels: of all items; labels are None where none were given.
        """

    def write_walk(self, frames: Sequence[Item], output: Path) -> None:
        """Write a latent walk."""
        raise NotImplementedError

    # --- previews and cards -------------------------------------------------------------------------------------

    @abstractmethod
    def write_preview(self, items: Sequence[Item], seeds: Sequence[int], stem: Path) -> None:
        """Write samples so that one sees, reads or hears them at once: `stem` and an ending, several files if need be.

        Args:
            stem: such as `samples/step_000500`.
        """

    @abstractmethod
    def previews(self, stem: Path) -> dict[str, Any]:
        """Read the files of `write_preview` for trackers: kind (`image`, `text`, `audio`) -> what they take."""

    def write_reconstructions(self, originals: Any, reconstructed: Any, pipeline: Any, stem: Path) -> None:
        """Write samples (B, ...) beside their reconstructions, as `write_preview` does; a modality may go without."""
        raise NotImplementedError

    @abstractmethod
    def card_block(self, count: int, data: Mapping[str, Any], folder: Path, stem: str) -> str:
        """Return the samples of a card in Markdown: `count` of seeds 0, 1, ... as `write_preview` wrote them.

        Args:
            data: what the run recorded of its data.
            folder: the card's.
            stem: of the samples, relative to the folder.
        """

    def card_words(self, count: int, weights: str, options: str) -> str:
        """Return the sentences below the samples of a card.

        Args:
            weights: ` (EMA weights)` where these were used.
            options: of the call that sampled them, as `, name=value` in Python.
        """
        one = min(37, count - 1)
        return (
            f"These are samples of seeds 0 and up{weights}; `seeds=[{one}]{options}` samples that of seed {one} alone."
        )

    @abstractmethod
    def card_shape(self, data: Mapping[str, Any]) -> str:
        """Return the form of the samples, by what a run recorded of its data: `1 x 28 x 28`."""

    @abstractmethod
    def different(self, items: Sequence[Item], seeds: Sequence[int], count: int, stem: Path) -> list[str]:
        """Compare items that were sampled again with `count` that `write_preview` wrote; say which differ, and how.

        Another machine rounds otherwise: a difference is what that does not explain.
        """

    # --- measuring ----------------------------------------------------------------------------------------------
    #
    # A measurement is `reference`, `prepare`, `measure`. `Real` is `hfgen.evaluation.real.Real`, a value with its
    # error `Estimate`, the rules `hfgen.results.protocol.Protocol`; names are those of `metrics`. The core measures
    # `parameters` and likelihoods itself, of stored forms that `to_batch` makes into samples; the rest is asked here.

    def possible_metrics(self, pipeline: Any, protocol: Any) -> Sequence[str]:
        """Return which of `metrics` can be measured of a pipeline by a protocol, `network_evaluations` among them.

        The pipeline may be one of diffusers' own, where the modality is that of images.
        """
        return ()

    def likelihood_metrics(self, pipeline: Any) -> Sequence[str]:
        """Return the metrics that a likelihood gives: bits of a unit, unless it is a density, and `nats`."""
        return ["nats"] if pipeline.is_density else ["bits_per_dim", "nats"]

    def reference(self, items: Any, pipeline: Any, protocol: Any, progress: Callable[[Any], Any] = iter) -> Any:
        """Return the real items in stored form: `Real`, with the hash of shape and bytes, and nothing prepared yet.

        Args:
            items: as `find` found them; one for each stored row, where rows have classes.
            progress: wraps numbers of items.

        Raises:
            UsageError: they do not fit the pipeline or the protocol.
        """
        return _cannot_measure(self)

    def check_wanted(self, protocol: Any, wanted: Sequence[str], items: Any = None) -> None:  # noqa: B027
        """Raise a UsageError where a protocol cannot give the wanted metrics, before anything is sampled.

        Args:
            items: the reference; None before they are found.
        """

    def prepare(
        self,
        real: Any,
        train: Callable[[], Any],
        pipeline: Any,
        protocol: Any,
        wanted: Sequence[str],
        *,
        extractor: Any = None,
        weights: str | None = None,
        bars: Callable[[str], Callable[[Any], Any]],
    ) -> Any:
        """Return the reference with what the wanted metrics need of it, such as features and the floor.

        Args:
            train: finds the training items, or None where there are none; called only where they are needed.
            extractor: the protocol's, already loaded.
            weights: a file or folder to load the protocol's extractor from; default its own.
            bars: called with words, returns the wrapper of a loop's numbers.

        Raises:
            UsageError: the reference does not fit the protocol.
        """
        return real

    def measure(
        self,
        pipeline: Any,
        real: Any,
        protocol: Any,
        wanted: Sequence[str],
        *,
        options: Options,
        partial: Path | None = None,
        identity: str = "",
        alone: bool = False,
        bars: Callable[[str], Callable[[Any], Any]],
    ) -> Mapping[str, Any]:
        """Return the wanted metrics, without likelihoods: name -> `Estimate`; every process calls, unless `alone`.

        Args:
            options: of the pipeline's call.
            partial, identity: as in `hfgen.evaluation.drawn_features.draw_features`, which samples resumably.
            alone: this process samples by itself.

        Returns:
            in processes but the main one anything.
        """
        return {}

    def draw_stored(self, pipeline: Any, seeds: Sequence[int], options: Options) -> Any:
        """Return a sample of each seed in stored form, a tensor of integers on the CPU."""
        return _cannot_measure(self)

    def to_batch(self, stored: Any, pipeline: Any) -> Any:
        """Return stored forms, (B, ...), as samples that a likelihood takes."""
        return stored

    def warnings(self, real: Any, protocol: Any, values: Mapping[str, Any]) -> list[str]:
        """Return reasons why values tell little."""
        return []

    def declaration(self, real: Any) -> Mapping[str, Any] | None:
        """Return what a result says of the network by which items were compared: at least `name`, `weights_sha256`."""
        return None if real.extractor is None else real.extractor.declaration()


def _cannot_measure(modality: Modality) -> Any:
    from hfgen.errors import UsageError

    raise UsageError(f"hfgen has no measurement of {modality.noun[1]} yet.")
