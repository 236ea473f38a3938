"""Read a module's source: which statement defines which name, and which names a statement uses."""

import ast
import importlib
import importlib.util
import inspect
import symtable
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from hfgen.errors import UsageError

Edit = tuple[ast.expr, str]  # an expression, and what stands in its place
DATA_FILES = ("importlib.resources", "importlib_resources", "pkgutil", "pkg_resources")
FILE_NAMES = {"__file__", "__path__", "__spec__", "__loader__"}
FUTURE = "__future__"


@dataclass(frozen=True)
class Import:
    """`from module import name as bound`, or without a name `import module as bound`."""

    module: str
    name: str | None
    bound: str

    def statement(self) -> str:
        """
        >>> Import("torch.nn", None, "torch").statement(), Import("numpy", None, "np").statement()
        ('import torch.nn', 'import numpy as np')
        >>> Import("itertools", "pairwise", "pairs").statement()
        'from itertools import pairwise as pairs'
        """
        if self.name is None:
            plain = self.bound == self.module.partition(".")[0]
            return f"import {self.module}" if plain else f"import {self.module} as {self.bound}"
        return f"from {self.module} import {self.name}" + ("" if self.name == self.bound else f" as {self.bound}")

    def target(self) -> Any:
        """Import it in this process; return the object."""
        if self.name is None:
            return importlib.import_module(self.module if self.bound != self.module.partition(".")[0] else self.bound)
        return getattr(importlib.import_module(self.module), self.name)


class ModuleSource:
    """A module's top-level statements, by the names that they define.

    Attributes:
        bound: name -> the statements that define or change it, in order; imports are in `imports` instead.
        imports: name -> the import that defines it, without those under `if TYPE_CHECKING`.
        changes: statements that change what is imported: `torch.backends.cudnn.benchmark = True`.
        effects: (statement, the part of it that does something else than define names, such as a call).

    Raises:
        UsageError: the module has no source file, as for classes defined at a prompt.
    """

    def __init__(self, module: ModuleType) -> None:
        self.name = name = module.__name__
        try:
            text = inspect.getsource(module)
        except (OSError, TypeError) as error:
            raise UsageError(f"{name} has no source file, so it cannot be bundled.") from error
        self.package = name if hasattr(module, "__path__") else name.rpartition(".")[0]
        text = _at_run_time(text)
        self.tree = ast.parse(text)
        self._lines = text.encode().splitlines(keepends=True)
        self.bound: dict[str, list[ast.stmt]] = {}
        self.imports: dict[str, Import] = {}
        self.changes: list[ast.stmt] = []
        self.effects: list[tuple[ast.stmt, ast.stmt]] = []
        self.future = False
        self._free: dict[ast.AST, set[str]] = {}
        for statement in self.tree.body:
            self._read(statement)

    def _read(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            found = list(self.imported(statement))
            self.future |= any(entry.module == FUTURE for entry in found)
            self.imports |= {entry.bound: entry for entry in found if entry.module != FUTURE}
        elif not is_text(statement) and not _is_of_scripts(statement):
            bound, changed = _bound_by(statement), _changed_by(statement)
            outside = {name for name in changed if name in self.imports and name not in self.bound}
            self.changes += [statement] * bool(outside)
            names = [*bound, *sorted(changed - outside - {*bound})]
            for name in names:
                self.bound.setdefault(name, []).append(statement)
            effects = list(_effects(statement)) or [statement] * (not names and not outside)
            self.effects += [(statement, effect) for effect in effects]

    def imported(self, statement: ast.Import | ast.ImportFrom) -> Iterator[Import]:
        """List the names that an import statement defines, with relative imports made absolute."""
        for alias in statement.names:
            if isinstance(statement, ast.Import):
                yield Import(alias.name, None, alias.asname or alias.name.partition(".")[0])
            else:
                dots = "." * statement.level + (statement.module or "")
                module = importlib.util.resolve_name(dots, self.package) if statement.level else dots
                yield Import(module, alias.name, alias.asname or alias.name)

    def text(self, node: ast.AST, edits: Iterable[Edit] = ()) -> str:
        """Return the lines of a statement, decorators included, with the given expressions replaced."""
        first, last = first_line(node), int(node.end_lineno)  # type: ignore[attr-defined]
        lines = self._lines[first - 1 : last]
        for expression, new in sorted(edits, key=lambda edit: (edit[0].lineno, edit[0].col_offset), reverse=True):
            start, end = expression.lineno - first, int(expression.end_lineno or 0) - first
            tail = lines[end][expression.end_col_offset :]
            lines[start : end + 1] = [lines[start][: expression.col_offset] + new.encode() + tail]
        return b"".join(lines).decode().rstrip() + "\n"

    def free_names(self, node: ast.stmt) -> set[str]:
        """Find the names that a statement takes from the module or from Python, annotations excluded."""
        if node not in self._free:
            bare = _Bare().visit(ast.parse(ast.unparse(node)))
            self._free[node] = set(_globals(symtable.symtable(ast.unparse(bare), "<statement>", "exec")))
        return self._free[node]

    def together_with(self, statement: ast.stmt) -> Iterator[str]:
        """List the names that a statement defines or changes."""
        yield from (name for name, statements in self.bound.items() if statement in statements)

    def __contains__(self, name: str) -> bool:
        return name in self.bound or name in self.imports


_read: WeakKeyDictionary[ModuleType, ModuleSource] = WeakKeyDictionary()


def source_of(name: str) -> ModuleSource:
    """Read the source of an imported module, once; raises as `ModuleSource`."""
    module = sys.modules.get(name) or importlib.import_module(name)
    if module not in _read:
        _read[module] = ModuleSource(module)
    return _read[module]


def first_line(node: Any) -> int:
    """Return the number of a statement's first line, decorators included, counted from 1."""
    return min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])


def is_text(statement: ast.stmt) -> bool:
    """Tell if a statement is a docstring or another bare text."""
    value = getattr(statement, "value", None)
    return isinstance(statement, ast.Expr) and isinstance(value, ast.Constant) and isinstance(value.value, str)


def _at_run_time(text: str) -> str:
    """Replace each `if TYPE_CHECKING: ... else: ...` by its `else`, and keep all line numbers."""
    lines = text.encode().splitlines(keepends=True)
    for statement in reversed(ast.parse(text).body):
        if isinstance(statement, ast.If) and _is_for_type_checkers(statement.test):
            start, end = statement.lineno - 1, int(statement.end_lineno or 0)
            kept = "\n".join(map(ast.unparse, statement.orelse))
            lines[start:end] = [(kept + "\n" * max(1, end - start - kept.count("\n"))).encode()]
    return b"".join(lines).decode()


def _is_for_type_checkers(test: ast.expr) -> bool:
    return isinstance(test, ast.Name | ast.Attribute) and ast.unparse(test).split(".")[-1] == "TYPE_CHECKING"


def _is_of_scripts(statement: ast.stmt) -> bool:
    """Tell if a statement is `if __name__ == "__main__":`."""
    tests = ("__name__ == '__main__'", "'__main__' == __name__")
    return isinstance(statement, ast.If) and not statement.orelse and ast.unparse(statement.test) in tests


def _bound_by(statement: ast.stmt) -> list[str]:
    """List the names that a top-level statement defines."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    table = symtable.symtable(ast.unparse(statement), "<statement>", "exec")
    return [symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()]


def _changed_by(statement: ast.stmt) -> set[str]:
    """Find the names whose values a top-level statement changes: `a.x = ...`, `for i in b: a["x"] += ...`."""
    parts = (part for part in _run_by(statement) if isinstance(part, ast.Attribute | ast.Subscript))
    return {name for part in parts if not isinstance(part.ctx, ast.Load) and (name := _root(part))}


def _effects(statement: ast.stmt) -> Iterator[ast.stmt]:
    """List the parts of a statement that are run for their effect, such as calls; not those that handle an error."""
    for part in _run_by(statement):
        if isinstance(part, ast.Expr) and not isinstance(part.value, ast.Constant):
            yield part
    if isinstance(statement, ast.For | ast.With) and _changed_by(statement) & {*_bound_by(statement)}:
        yield statement  # `for a in b: a.x = ...` changes what is in b


def _run_by(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a statement, without the bodies of functions and classes and without `except`."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda | ast.ExceptHandler):
        return
    yield node
    for part in ast.iter_child_nodes(node):
        yield from _run_by(part)


def _root(target: Any) -> str | None:
    while isinstance(target, ast.Attribute | ast.Subscript):
        target = target.value
    return target.id if isinstance(target, ast.Name) else None


# --- what a statement needs -----------------------------------------------------------------------------------------
def annotations(node: ast.AST) -> Iterator[ast.expr]:
    """List all annotations of arguments, results and variables."""
    for part in ast.walk(node):
        if isinstance(part, ast.arg | ast.AnnAssign) and part.annotation is not None:
            yield part.annotation
        elif isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) and part.returns is not None:
            yield part.returns


def names_in(expression: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(expression) if isinstance(part, ast.Name)}


def _globals(table: symtable.SymbolTable) -> Iterator[str]:
    is_top = table.get_type() == "module"
    for symbol in table.get_symbols():
        if symbol.is_referenced() if is_top else symbol.is_global():
            yield symbol.get_name()
    for child in table.get_children():
        yield from _globals(child)


class _Bare(ast.NodeTransformer):
    """Removes annotations."""

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)


def names_bound_in(member: ast.stmt) -> set[str]:
    """Find the names that a statement in a class body defines: none for a docstring or an annotation without value."""
    if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {member.name}
    if (isinstance(member, ast.AnnAssign) and member.value is None) or is_text(member):
        return set()
    return {part.id for part in ast.walk(member) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}


def attributes_in(node: ast.AST) -> set[str]:
    """Find the names of all attributes that are read, also by `getattr` and `hasattr`."""
    found = {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id in ("getattr", "hasattr"):
            found |= {a.value for a in part.args if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return found


def inner_imports(source: ModuleSource, node: ast.AST) -> Iterator[Import]:
    """List the imports inside a function, a class or another statement."""
    for part in ast.walk(node):
        if isinstance(part, ast.Import | ast.ImportFrom):
            yield from source.imported(part)


def wrap(line: str, width: int = 119) -> list[str]:
    """Wrap `from module import names` to lines of at most that width, in parentheses if there are several.

    >>> wrap("from torch import Tensor, nn", 20)
    ['from torch import (', '    Tensor,', '    nn,', ')']
    """
    start, _, names = line.partition(" import ")
    if len(line) <= width:
        return [line]
    return [f"{start} import (", *(f"    {name}," for name in names.split(", ")), ")"]
