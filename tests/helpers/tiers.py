"""Which tests are quick: those whose code, with its fixtures and helpers, names nothing that takes long."""

import functools
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any

import pytest

HEAVY = frozenset(
    {"subprocess", "Nursery", "HubServer", "HubChild", "load_in_subprocess", "run_two_processes"}  # processes
    | {"Trainer", "trainer", "run_training", "run_train"}  # trainings
    | {"small_protocol"}  # evaluations
)
LAWS = frozenset(  # of `hfgen.testing`, which third parties run too: no marks of ours stand there
    {"test_a_run_leaves_what_it_promises", "test_bundled_code_draws_the_same", "test_change_of_variables"}
)
COMMANDS = frozenset({"hfgen", "call", "script", "cli", "main"})
VERBS = frozenset({"train", "evaluate", "sample"})


def is_quick(item: pytest.Function) -> bool:
    """Whether a test starts no process, uses no Hub and trains nothing, as far as its code tells."""
    if item.originalname in LAWS or "trained" in item.fixturenames:
        return False
    fixtures = [made.func for found in item._fixtureinfo.name2fixturedefs.values() for made in found]
    return not any(_is_heavy(function) for function in [item.function, *fixtures])


@functools.cache
def _is_heavy(function: Callable[..., Any]) -> bool:
    names = _names(function, set())
    return bool(names & HEAVY or (names & COMMANDS and names & VERBS))


def _names(function: Callable[..., Any], seen: set[Any]) -> set[str]:
    """Names and words in a function's code, and in that of the functions and classes of its module that it names."""
    code, scope = getattr(function, "__code__", None), getattr(function, "__globals__", {})
    if code is None or function in seen:
        return set()
    seen.add(function)
    names = {word for part in _codes(code) for word in [*part.co_names, *part.co_varnames, *_words(part.co_consts)]}
    for name in names & scope.keys():
        if getattr(scope[name], "__module__", None) == scope["__name__"]:
            for called in _functions(scope[name]):
                names = names | _names(called, seen)
    return names


def _words(constants: tuple[Any, ...]) -> Iterator[str]:
    for constant in constants:
        if isinstance(constant, str):
            yield constant
        elif isinstance(constant, tuple):
            yield from _words(constant)


def _functions(thing: Any) -> list[Any]:
    found = vars(thing).values() if isinstance(thing, type) else [thing]
    return [function for function in found if isinstance(function, FunctionType)]


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
