"""A folder that holds a model: its index, its components and the shapes of its tensors, each read once."""

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from hfgen.components import MOST_LEVELS
from hfgen.errors import HFGenError, LoadError
from hfgen.repository.index import CONFIG, MODEL_INDEX, component_entries, read_index, single_component
from hfgen.repository.weights import Shapes, saved_shapes, weights_name


class ModelFolder(os.PathLike[str]):
    """A folder with a saved pipeline or a single model. Everything is read on first use, checked, and kept.

    Attributes:
        path: the folder.
        name: the path or repository id that the user gave, for messages.
        level: 1, or more for the folder of a pipeline inside another one.
    """

    def __init__(self, path: str | os.PathLike[str], name: str | None = None, level: int = 1) -> None:
        self.path = Path(path)
        self.name = str(path) if name is None else name
        self.level = level
        self._inside: dict[str, ModelFolder] = {}
        self._shapes: dict[tuple[Path, str | None, str], Shapes] = {}

    def __fspath__(self) -> str:
        return str(self.path)

    __str__ = __fspath__

    @functools.cached_property
    def index(self) -> Mapping[str, Any]:
        """`model_index.json`, the class name flattened to a string.

        Raises:
            LoadError: it is missing, damaged, a link out of the folder, or does not have the form of an index.
        """
        return read_index(self.path)

    @functools.cached_property
    def components(self) -> Mapping[str, tuple[str, str]]:
        """Name -> (library, class name), for each component that the index names. Raises as `index`."""
        return {name: (library, class_name) for name, library, class_name in component_entries(self.index)}

    @functools.cached_property
    def single(self) -> str | None:
        """Class name of the single model that the folder holds; None for a pipeline, or where its config has none."""
        return single_component(self.path)

    @property
    def is_single(self) -> bool:
        """True if the folder holds a single model instead of a pipeline: a config, and no index."""
        return not (self.path / MODEL_INDEX).is_file() and (self.path / CONFIG).is_file()

    def place(self, name: str) -> Path:
        """The folder of a component: its own; the root for a single model, and for diffusers' first repositories."""
        own = self.path / name
        return own if own.is_dir() and not self.is_single else self.path

    def inside(self, name: str) -> "ModelFolder":
        """The folder of a component that is a pipeline.

        Raises:
            LoadError: pipelines are too deep inside each other.
        """
        if self.level == MOST_LEVELS:
            raise LoadError(f"The pipeline {name!r} is inside too many others: hfgen loads {MOST_LEVELS} levels.")
        if name not in self._inside:
            self._inside[name] = ModelFolder(self.path / name, name, self.level + 1)
        return self._inside[name]

    def is_inside(self, name: str) -> bool:
        """Return True if a component is a pipeline: its folder has an index."""
        return (self.path / name / MODEL_INDEX).is_file()

    def shapes(self, name: str, class_: type, variant: str | None = None) -> Shapes:
        """Tensor name -> shape, read from the headers of a component's safetensors files.

        Args:
            class_: the class of the component, which decides the names of the files.
            variant: read the weights of this variant, if the component has them.

        Raises:
            LoadError: the weights are missing, incomplete, damaged, or saved in another format.
        """
        key = self.place(name), variant, weights_name(class_)
        if key not in self._shapes:
            self._shapes[key] = saved_shapes(*key)
        return self._shapes[key]

    @contextlib.contextmanager
    def clear_errors(self) -> Iterator[None]:
        """Turn errors of loading into one that begins with the folder's `name`; restore the default dtype.

        Raises:
            LoadError: any error that is not hfgen's own; errors of hfgen keep their class.
        """
        dtype = torch.get_default_dtype()
        try:
            yield
        except HFGenError as error:
            raise type(error)(f"{self.name}: {error}") from error.__cause__
        except Exception as error:
            raise LoadError(f"{self.name} cannot be loaded: {_summary(error)}") from error
        finally:
            torch.set_default_dtype(dtype)


def _summary(error: BaseException) -> str:
    """Put an error's message on one line: torch names tensors of a wrong shape only from the second line on."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."
