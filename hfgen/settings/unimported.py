"""Words of a run's settings are checked against source files, before anything slow is imported.

What a source file does not say for certain is left to `resolve`, which checks the imported classes.
"""

import ast
import functools
import importlib.util
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from hfgen.errors import UsageError, did_you_mean
from hfgen.settings.arguments import FIELDS, HINTS, canonical
from hfgen.settings.fields import check_bounds
from hfgen.settings.licenses import known_license
from hfgen.settings.options import CLASS_NAME, FAMILY, FROM_CONFIG, FROM_PRETRAINED
from hfgen.settings.resolve import DATA, typed

CHOOSING = {CLASS_NAME, FAMILY, FROM_CONFIG, FROM_PRETRAINED}
PLAIN = {"int": int, "float": float, "bool": bool, "str": str}
DEEPEST = 8  # imports and base classes that are followed

Types = dict[str, Any]  # option -> type, `Any` where its annotation is not plain
Found = tuple[str, ast.ClassDef]  # a class, and the module that it is defined in


def check_words(
    layers: Sequence[tuple[str, Mapping[str, Any]]], module: str, class_name: str, of_data: Collection[str] = ()
) -> None:
    """Check keys and values of settings for a pipeline's class that is not imported yet.

    Args:
        layers: name and settings of each layer, as `resolve` takes them.
        of_data: options of the data that only one modality has, which are not checked here.

    Raises:
        UsageError: a key is unknown, or a value has the wrong type or is out of range; in the words of `resolve`.
    """
    parts = declared_options(module, class_name)
    for source, layer in layers:
        for key, value in layer.items():
            if isinstance(value, Mapping):
                if key not in ("optimizer", DATA) and parts is not None:
                    _check_part(key, value, source, parts, class_name)
            elif key != "model" and parts is not None and key not in parts and key not in of_data:
                name = canonical(key)
                if name not in FIELDS:
                    raise UsageError(f"{source}: unknown key {name!r}.{did_you_mean(name, [*FIELDS, *parts])}")
                check_bounds(name, typed(HINTS[name], value, name, source), FIELDS[name].metadata["bounds"])
                if name == "license":
                    known_license(value)


def _check_part(
    name: str, given: Mapping[str, Any], source: str, parts: Mapping[str, Types | None], class_name: str
) -> None:
    if name not in parts:
        raise UsageError(f"{source}: {class_name} has no component {name!r}.{did_you_mean(name, parts)}")
    options = parts[name]
    if options is None:
        return
    for option, value in given.items():
        if option not in options and option not in CHOOSING:
            raise UsageError(f"{source}: {name}: unknown option {option!r}.{did_you_mean(option, options)}")
        typed(options.get(option, Any), value, option, f"{source}: {name}")


def declared_options(module: str, class_name: str) -> dict[str, Types | None] | None:
    """Map each component of a pipeline, and `objective`, to its options; None where the source does not say."""
    found = _find(module, class_name)
    arguments = found and _arguments(found)
    if not found or arguments is None:
        return None
    parts = {argument.arg: _options(found[0], argument.annotation) for argument in arguments}
    return {**parts, "objective": _objective(found)}


def _options(module: str, annotation: ast.expr | None) -> Types | None:
    """The options of all classes that an annotation `X | Y | None` names; None if one of them is not known."""
    if isinstance(annotation, ast.BinOp):
        sides = [side for side in (annotation.left, annotation.right) if ast.unparse(side) != "None"]
        found = [_options(module, side) for side in sides]
        return None if None in found else {name: type_ for part in found if part for name, type_ in part.items()}
    if not isinstance(annotation, ast.Name) or annotation.id.endswith("Pipeline"):
        return None
    class_ = _find(module, annotation.id)
    arguments = class_ and _arguments(class_)
    if arguments is None or [argument.arg for argument in arguments] == ["config"]:  # of transformers
        return None
    return {argument.arg: _type(argument.annotation) for argument in arguments}


def _type(annotation: ast.expr | None) -> Any:
    return PLAIN.get(ast.unparse(annotation), Any) if annotation is not None else Any


def _objective(pipeline: Found) -> Types | None:
    for node in pipeline[1].body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "objective_class":
            return _options(pipeline[0], node.value)
    return None


def _arguments(class_: Found, depth: int = 0) -> list[ast.arg] | None:
    """The parameters of a class's `__init__` without `self`; None if it takes any, or if it is not found."""
    module, node = class_
    init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if init is not None:
        whole = not (init.args.vararg or init.args.kwarg)
        return [*init.args.args[1:], *init.args.kwonlyargs] if whole else None
    bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
    found = _find(module, bases[0]) if bases and depth < DEEPEST else None
    return _arguments(found, depth + 1) if found else None


@functools.cache
def _find(module: str, name: str, depth: int = 0) -> Found | None:
    """Find a class by its name in a module, also where that module imports it from another."""
    tree = _tree(module)
    if tree is None or depth > DEEPEST:
        return None
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
    package = module if _file(module) and str(_file(module)).endswith("__init__.py") else module.rpartition(".")[0]
    for statement in ast.walk(tree):
        if isinstance(statement, ast.ImportFrom):
            origin = next((alias.name for alias in statement.names if (alias.asname or alias.name) == name), None)
            if origin is not None:
                above = package.split(".")[: len(package.split(".")) + 1 - statement.level] if statement.level else []
                return _find(".".join([*above, *filter(None, [statement.module])]), origin, depth + 1)
    return None


@functools.cache
def _tree(module: str) -> ast.Module | None:
    file = _file(module)
    try:
        return ast.parse(file.read_bytes()) if file is not None else None
    except (OSError, SyntaxError, ValueError):
        return None


@functools.cache
def _file(module: str) -> Path | None:
    """The source file of a module; its packages are not imported."""
    top, *parts = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    if not spec.submodule_search_locations:
        return Path(spec.origin) if not parts else None
    place = Path(spec.submodule_search_locations[0]).joinpath(*parts)
    files = (place / "__init__.py", place.with_name(f"{place.name}.py"))
    return next((file for file in files if file.is_file()), None)
