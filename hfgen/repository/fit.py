"""Bounds on what a saved config may ask for: configs that ask for more are refused before memory is allocated.

A network's config must ask for exactly the tensors that its files hold. The network is built without memory (on
torch's device `meta`), its tensors are compared with the headers of the files, and building stops as soon as it has
far more parts than the files have tensors.
"""

import contextlib
import inspect
import math
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules import module as hooks

from hfgen.errors import LoadError
from hfgen.repository.weights import Shapes
from hfgen.settings.model_configs import config_class_of
from hfgen.settings.options import signature_of

LARGEST = 1 << 20  # any integer in a config, except those that are not sizes:
NOT_SIZES = ("seed", "theta", "warmup_steps", "cycle_steps")
MOST_TIMESTEPS = 100_000
MOST_PIXELS = 1 << 24  # an image of 4096 x 4096
MOST_ELEMENTS = 1 << 26  # in a latent, and in tables that are computed instead of saved
FEW_PARTS, MOST_PARTS = 2000, 20_000  # modules, parameters and buffers: always allowed; and built in some seconds
PARTS_PER_TENSOR = 20
Built = TypeVar("Built")
WHAT_NOW = "The model is damaged, or meant to harm: do not load it, and report it to those who published it."


# --- numbers --------------------------------------------------------------------------------------------------------
def check_config(config: Mapping[str, Any], where: str, class_: type | None = None) -> None:
    """Raise a LoadError if a component's config has a size that no model has.

    Args:
        where: the name of the file, for the message.
        class_: what it is loaded as, where that is known: keys that it does not take, such as those of an EMA, are
            no sizes.
    """
    taken = None if class_ is None or config_class_of(class_) is not None else signature_of(class_)
    for key, value in config.items():
        if any(word in key for word in NOT_SIZES) or (taken is not None and key not in taken):
            continue
        largest = max((abs(number) for number in _whole_numbers(value)), default=0)
        _check(largest, LARGEST, f"{where}: {key} is {_shown(value)}")
        if key == "num_train_timesteps":
            _check(largest, MOST_TIMESTEPS, f"{where}: {key} is {_shown(value)}")
        if key == "sample_size":
            size = largest if "1D" in str(config.get("_class_name")) else largest**2  # of a sound, its length
            _check(_product(value, size), MOST_PIXELS, f"{where}: {key} is {_shown(value)}, in pixels")
        if key == "latent_shape":
            _check(_product(value, largest), MOST_ELEMENTS, f"{where}: {key} is {_shown(value)}, in elements")


def _whole_numbers(value: Any) -> Iterator[int]:
    if isinstance(value, int) and not isinstance(value, bool):
        yield value
    for part in value if isinstance(value, list | tuple) else value.values() if isinstance(value, dict) else ():
        yield from _whole_numbers(part)


def _product(value: Any, otherwise: int) -> int:
    return math.prod(map(abs, _whole_numbers(value))) if isinstance(value, list | tuple) else otherwise


def _check(number: int, most: int, what: str) -> None:
    if number > most:
        raise LoadError(f"{what}; hfgen accepts at most {most:,} there.\n{WHAT_NOW}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# --- networks -------------------------------------------------------------------------------------------------------
def check_fit(name: str, class_: Any, config: Mapping[str, Any], saved: Shapes, where: str) -> None:
    """Raise a LoadError if a network of this config does not have the saved tensors.

    Args:
        name: the component's name.
        where: the name of its config's file.
        class_: a diffusers `ModelMixin`, or a transformers `PreTrainedModel`.
        saved: tensor name -> shape.
    """
    model: nn.Module | None = without_memory(lambda: _as_loaded(class_, config), len(saved), where)
    if model is None:
        return
    tensors = model.state_dict()
    saved = renamed(model, saved)
    missing = missing_tensors(model, saved)
    if missing:
        raise LoadError(incomplete(name, missing, len(tensors)))
    for key, tensor in tensors.items():
        if tuple(tensor.shape) != saved.get(key, tuple(tensor.shape)):
            raise LoadError(
                f"The weights of {name!r} do not fit its config: {key!r} is {list(saved[key])} in the file,\n"
                f"and {list(tensor.shape)} by {where}. They were not saved together, or one was edited."
            )
    unsaved = sum(t.numel() for n, t in [*model.named_buffers(), *model.named_parameters()] if n not in tensors)
    most = max(MOST_ELEMENTS, 4 * sum(map(math.prod, saved.values())))
    _check(unsaved, most, f"{where}: its tables have {unsaved:,} values")


def missing_tensors(model: nn.Module, saved: Shapes) -> set[str]:
    """Names of tensors that are not saved under any of their names; tied tensors have several."""
    state = model.state_dict(keep_vars=True)
    tied = {id(state[key]) for key in saved.keys() & state.keys()}
    return {key for key in state.keys() - saved.keys() if id(state[key]) not in tied}


def incomplete(name: str, missing: set[str], total: int) -> str:
    """Message about weights that lack tensors."""
    return (
        f"The weights of {name!r} are incomplete: {len(missing)} of {total} tensors are missing, such as "
        f"{min(missing)!r}.\nThe file {name}/*.safetensors was not saved by this class."
    )


def renamed(model: Any, saved: Shapes) -> Shapes:
    """Rename saved tensors as diffusers does when it loads them: those of old attention blocks have new names."""
    rename = getattr(model, "_fix_state_dict_keys_on_load", None)
    saved = dict(saved)
    if rename is not None:
        rename(saved)  # in place
    return saved


def without_memory(build: Callable[[], Built], tensors: int, where: str) -> Built | None:
    """Build on the device `meta`; return None if a class needs the values of tensors to build itself.

    Args:
        tensors: the number of saved tensors, which bounds the number of parts.
        where: the file that asks for the parts, for the message.

    Raises:
        LoadError: there are far more parts than saved tensors.
    """
    most = min(FEW_PARTS + PARTS_PER_TENSOR * tensors, MOST_PARTS)
    message = f"{where} asks for more than {most:,} parts, and the weights hold {tensors:,} tensors.\n{WHAT_NOW}"
    try:
        with torch.device("meta"), warnings.catch_warnings(), _no_more_parts_than(most, message):
            warnings.simplefilter("ignore")  # they are shown when it is loaded
            return build()
    except (NotImplementedError, RuntimeError, TypeError) as error:
        if "meta" in str(error):
            return None
        raise


def _as_loaded(class_: Any, config: Mapping[str, Any]) -> Any:
    """Build a network as `from_pretrained` does; transformers' configs accept other names of their options, too."""
    config_class: Any = config_class_of(class_)
    if config_class is not None:
        return class_(config_class.from_dict(dict(config)))
    known = inspect.signature(class_.__init__).parameters
    return class_(**{key: value for key, value in config.items() if key in known})


@contextlib.contextmanager
def _no_more_parts_than(most: int, message: str) -> Iterator[None]:
    """Raise a LoadError as soon as this thread has registered more modules, parameters and buffers than `most`."""
    left, thread = most, threading.get_ident()

    def count(*_: Any) -> None:
        nonlocal left
        if threading.get_ident() == thread:
            left -= 1
        if left < 0:
            raise LoadError(message)

    with contextlib.ExitStack() as stack:
        stack.callback(hooks.register_module_module_registration_hook(count).remove)
        stack.callback(hooks.register_module_parameter_registration_hook(count).remove)
        stack.callback(hooks.register_module_buffer_registration_hook(count).remove)
        yield
