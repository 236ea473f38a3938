"""Origins of the names in a bundled file: where a name comes from, and what stands in for methods of a modality."""

import ast
import importlib
import sys
from typing import Any

from hfgen.errors import UsageError
from hfgen.registry import modality_of, register_family
from hfgen.repository.module_source import Import

Key = tuple[str, str]  # a module and a name that it binds
PIPELINE = "hfgen.pipeline"
OF_MODALITY = ("to_output", "check_output_type")  # methods for which a function of the modality stands in
STAND_IN = "    def {method}(self, *arguments):\n        return {function}(*arguments)\n"


def for_modality(pipeline_class: Any, method: str, cannot: str) -> tuple[str, str, str]:
    """Find the function that stands in for a method: its module, its name, and the method's new text.

    Raises:
        UsageError: the modality has none; `cannot` begins the message.
    """
    modality = modality_of(pipeline_class)
    if method not in modality.bundled:
        raise UsageError(f"{cannot}: the code of {modality.noun[1]} cannot be bundled.")
    module, _, function = modality.bundled[method].partition(":")
    importlib.import_module(module)
    return module, function, STAND_IN.format(method=method, function=function)


def value_of(key: Key) -> Any:
    return getattr(importlib.import_module(key[0]), key[1], None)


def is_same(one: Import, other: Import) -> bool:
    try:
        return one.target() is other.target()
    except (ImportError, AttributeError):
        return False


def place_of(origin: Key | Import) -> str:
    return origin.statement() if isinstance(origin, Import) else f"{origin[0]}.{origin[1]}"


def is_registration(module: str, statement: ast.stmt) -> bool:
    """Tell if a statement calls `register_family`, which a bundle does not need."""
    call = getattr(statement, "value", None)
    words = ast.unparse(call.func).split(".") if isinstance(call, ast.Call) else [""]
    value: Any = sys.modules[module]
    for word in words:
        value = getattr(value, word, None)
    return value is register_family
