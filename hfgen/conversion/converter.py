"""Converters, which read the formats of other libraries, and finding the one that reads a source.

A plugin registers a `Converter` by an entry point of the group `hfgen.converters`. It renames the tensors and builds
the pipeline they belong to.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from hfgen import registry
from hfgen.conversion.foreign_files import ForeignFiles
from hfgen.errors import HFGenError, PluginError, UsageError, first_line
from hfgen.pipeline import HFGenPipeline

TEXTS = ["*.json", "*/*.json"]
TENSORS = ["*.safetensors", "*/*.safetensors"]
PICKLED = ["*.pt", "*.pth", "*.bin", "*/diffusion_pytorch_model*.bin"]
BATCH_NORM_COUNTER = "num_batches_tracked"  # torch before 0.4.1 did not save it, and nothing depends on it
MOST_FOLDERS = 20  # that are looked into for what can be converted
SHOWN = 4

ConverterOptions = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Conversion:
    """Result of `Converter.read`.

    Attributes:
        build: builds the pipeline, into which `weights` are loaded. It is called twice: first on torch's device
            `meta`, where names and shapes are compared, so that no file makes it ask for more memory than its tensors
            have.
        weights: component -> names in its state dict -> the source's tensors. Other components keep the values they
            were built with.
        notes: sentences for the card: what was assumed, left out, or differs.
    """

    build: Callable[[], HFGenPipeline]
    weights: Mapping[str, Mapping[str, Tensor]]
    notes: Sequence[str] = ()


class Converter(ABC):
    """Base class of the readers of one format.

    Attributes:
        name: the name of the entry point.
        description: the format, in a line.
        family: the family of every pipeline that it builds; None if the source or `--model` says the family.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    family: ClassVar[str | None] = None

    @classmethod
    @abstractmethod
    def recognizes(cls, source: ForeignFiles) -> bool:
        """Return True if a source has this format, by the names of its files or tensors."""

    @classmethod
    @abstractmethod
    def read(cls, source: ForeignFiles, options: ConverterOptions, model: str | None) -> Conversion:
        """Read a source's tensors, and how to build their pipeline.

        Args:
            options: component -> options that the user gives for it.
            model: the family that the user names.

        Raises:
            UsageError: hfgen does not have a network with these tensors; the message names them.
        """


# --- which converter --------------------------------------------------------------------------------------------
def converter_of(name: str) -> type[Converter]:
    """Import the converter of a format's name; raises as `registry.load`."""
    return registry.load(registry.CONVERTERS, name)


def recognize(source: ForeignFiles) -> type[Converter]:
    """Return the one converter that recognizes a source.

    Raises:
        UsageError: none does, or several do.
    """
    known: list[type[Converter]] = []
    broken: list[str] = []
    for name in dict.fromkeys(entry.name for entry in registry.installed(registry.CONVERTERS)):
        try:
            known.append(converter_of(name))
        except PluginError as error:  # a broken plugin fails only if its format is asked for
            broken.append(first_line(error))
    try:
        found = [converter for converter in known if converter.recognizes(source)]
    except HFGenError as error:  # a pickle, such as the optimizer's of a checkpoint
        inside = _inside(source, known)
        if not inside:
            raise
        raise UsageError("\n".join([first_line(error), *inside])) from error
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(converter.name for converter in found)
        raise UsageError(f"{source.name} can be read in several ways: {names}. Choose one with --format.")
    lines = [f"{source.name} cannot be converted: {_what_it_holds(source)}."]
    lines += [f"Known formats: {', '.join(converter.name for converter in known)}."]
    lines += _inside(source, known)
    raise UsageError("\n".join(lines + broken[:2]))


def _inside(source: ForeignFiles, known: Sequence[type[Converter]]) -> list[str]:
    """A line that names the folders inside that can be converted, such as those of a checkpoint of diffusers."""
    folders = sorted(path for path in source.path.iterdir() if path.is_dir()) if source.path.is_dir() else []
    parts = [ForeignFiles(path, path.name, source.allow_pickle) for path in folders[:MOST_FOLDERS]]
    found = [part.name for part in parts if _is_recognized(part, known)]
    averages = [name for name in found if name.endswith("_ema")]
    of_average = f" {averages[0]} holds the averaged weights." if averages else ""
    paths = ", ".join(f"{source.name}/{name}" for name in found[:SHOWN])
    return [f"A folder inside can be converted by itself: {paths}.{of_average}"] if found else []


def _is_recognized(source: ForeignFiles, known: Sequence[type[Converter]]) -> bool:
    with contextlib.suppress(HFGenError):
        return any(converter.recognizes(source) for converter in known)
    return False


def _what_it_holds(source: ForeignFiles) -> str:
    networks = source.networks()
    if networks:
        key, tensors = next(iter(networks.items()))
        return f"{key or 'it'} has the tensors {describe_shapes(tensors)}"
    if source.path.is_file():
        return "it does not hold a state dict"
    names = sorted(path.name for path in source.path.iterdir())
    hint = "" if source.allow_pickle else " (pickles are ignored without --allow_pickle)"
    return f"it holds {', '.join(names[:SHOWN]) or 'nothing'}{' ...' if len(names) > SHOWN else ''}{hint}"


def describe_shapes(tensors: Mapping[str, Tensor], names: Sequence[str] = ()) -> str:
    """List names and shapes of tensors, for a message.

    >>> describe_shapes({"weight": torch.zeros(2, 3), "bias": torch.zeros(2)})
    'weight (2x3), bias (2)'
    """
    listed = list(names) or list(tensors)
    shown = [f"{name} ({'x'.join(map(str, tensors[name].shape))})" for name in listed[:SHOWN]]
    return ", ".join(shown) + (f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else "")
