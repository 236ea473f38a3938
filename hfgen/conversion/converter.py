"""What other libraries saved -> a pipeline folder of hfgen.

A reader of a format is a `Converter`, registered by an entry point of the group `hfgen.converters`: it names the
tensors anew and builds the pipeline they belong to. What is true of all is here: which reader it is, that every tensor
has found its place, and that what was saved is what was read.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from hfgen import registry
from hfgen.conversion.foreign_files import ForeignFiles
from hfgen.errors import PluginError, UsageError, first_line
from hfgen.pipeline import HFGenPipeline

TEXTS = ["*.json", "*/*.json"]
TENSORS = ["*.safetensors", "*/*.safetensors"]
PICKLED = ["*.pt", "*.pth", "*.bin", "*/diffusion_pytorch_model*.bin"]
BATCH_NORM_COUNTER = "num_batches_tracked"  # of BatchNorm; torch before 0.4.1 saved none, and nothing depends on it
SHOWN = 4

ConverterOptions = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Conversion:
    """What a converter has read.

    Attributes:
        build: makes the pipeline; values are put into its networks from `weights`. It is called twice: first on
            torch's device `meta`, where names and shapes are compared, so that no file makes it ask for more memory
            than its tensors have.
        weights: component -> the names of its state dict -> the source's tensors. Components that are not named keep
            what they were built with.
        notes: sentences for the card: what was assumed, left out, or differs.
    """

    build: Callable[[], HFGenPipeline]
    weights: Mapping[str, Mapping[str, Tensor]]
    notes: Sequence[str] = ()


class Converter(ABC):
    """Base class: reads one format.

    Attributes:
        name: as the entry point calls it.
        description: what it reads, in a line.
        family: the family that it makes; None where the source says that, or `--model`.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    family: ClassVar[str | None] = None

    @classmethod
    @abstractmethod
    def recognizes(cls, source: ForeignFiles) -> bool:
        """Whether a source is of this format, by the names of its files or tensors."""

    @classmethod
    @abstractmethod
    def read(cls, source: ForeignFiles, options: ConverterOptions, model: str | None) -> Conversion:
        """How the pipeline is built, and its tensors.

        Args:
            options: component -> what the user says of it.
            model: the family that the user names.

        Raises:
            UsageError: the tensors are not those of a network that hfgen has; it says which.
        """


# --- which converter --------------------------------------------------------------------------------------------
def converter_of(name: str) -> type[Converter]:
    """Import the converter of a format's name; raises as `registry.load`."""
    return registry.load(registry.CONVERTERS, name)


def recognize(source: ForeignFiles) -> type[Converter]:
    """The one converter that knows a source.

    Raises:
        UsageError: none does, or several do.
    """
    known: list[type[Converter]] = []
    broken: list[str] = []
    for name in dict.fromkeys(entry.name for entry in registry.installed(registry.CONVERTERS)):
        try:
            known.append(converter_of(name))
        except PluginError as error:  # hurts only those who ask for it
            broken.append(first_line(error))
    found = [converter for converter in known if converter.recognizes(source)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(converter.name for converter in found)
        raise UsageError(f"{source.name} can be read in several ways: {names}. Choose one with --format.")
    lines = [f"{source.name} is nothing that can be converted: {_what_it_holds(source)}."]
    lines += [f"Known formats: {', '.join(converter.name for converter in known)}."]
    raise UsageError("\n".join(lines + broken[:2]))


def _what_it_holds(source: ForeignFiles) -> str:
    networks = source.networks()
    if networks:
        key, tensors = next(iter(networks.items()))
        return f"{key or 'it'} has the tensors {describe_shapes(tensors)}"
    if source.path.is_file():
        return "it holds no state dict"
    names = sorted(path.name for path in source.path.iterdir())
    hint = "" if source.allow_pickle else " (pickles are left out without --allow_pickle)"
    return f"it holds {', '.join(names[:SHOWN]) or 'nothing'}{' ...' if len(names) > SHOWN else ''}{hint}"


def describe_shapes(tensors: Mapping[str, Tensor], names: Sequence[str] = ()) -> str:
    """
    >>> describe_shapes({"weight": torch.zeros(2, 3), "bias": torch.zeros(2)})
    'weight (2x3), bias (2)'
    """
    listed = list(names) or list(tensors)
    told = [f"{name} ({'x'.join(map(str, tensors[name].shape))})" for name in listed[:SHOWN]]
    return ", ".join(told) + (f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else "")
