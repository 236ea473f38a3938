"""Write a class of hfgen, or of a family's package, as one file that needs neither, with all that the class uses.

The file consists of statements of the installed source, under their original names; imports from other packages stay
imports. Of a pipeline's class and its bases only the members that inference uses are copied. Annotations that name
components are replaced by diffusers' base classes, because every file of a bundle has its own copy of a class.
`docs/architecture.md` says why whole modules are not copied instead.
"""

import ast
import builtins
import dataclasses
import importlib
from collections.abc import Collection, Iterator
from graphlib import CycleError, TopologicalSorter
from types import ModuleType
from typing import Any

from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from torch import nn
from transformers import PreTrainedModel

from hfgen import _HOME
from hfgen.components import ComposedPipeline
from hfgen.errors import UsageError
from hfgen.objective import Objective
from hfgen.repository.bundle_origins import (
    OF_MODALITY,
    PIPELINE,
    Key,
    for_modality,
    is_registration,
    is_same,
    place_of,
    value_of,
)
from hfgen.repository.module_source import (
    DATA_FILES,
    FILE_NAMES,
    Edit,
    Import,
    ModuleSource,
    annotations,
    attributes_in,
    first_line,
    inner_imports,
    names_bound_in,
    names_in,
    source_of,
    wrap,
)

CALLED = {"__init__", "__call__", "encode", "decode", "reconstruct", "log_likelihood", "interpolate"}
CALLED |= {"to_latents", "from_latents"}
LEFT_OUT = {"from_pretrained", "save_pretrained", "push_to_hub", "download", "load_config", "to_json_string"}
LEFT_OUT |= {
    "sources",
    "from_data",
    "modality",
    *(name for name in vars(ComposedPipeline) if not name.startswith("__")),
}  # of pipelines inside
STAND_INS = (  # for annotations
    (ModelMixin, Import("diffusers", "ModelMixin", "ModelMixin")),
    (PreTrainedModel, Import("transformers", "PreTrainedModel", "PreTrainedModel")),
    (SchedulerMixin, Import("diffusers", "SchedulerMixin", "SchedulerMixin")),
    (DiffusionPipeline, Import("typing", "Any", "Any")),
    (Objective, Import("typing", "Any", "Any")),
    (nn.Module, Import("typing", "Any", "Any")),  # only in a pipeline's file
)
BASE = Import("diffusers", "DiffusionPipeline", "DiffusionPipeline")


def standalone(root: type, packages: Collection[str], families: Collection[str] = ()) -> tuple[str, list[str]]:
    """Write the text of a file that defines the class; return it with the modules that it was taken from.

    Args:
        packages: top-level packages whose source is copied.
        families: packages that need hfgen, so that a bundle cannot import them.

    Raises:
        UsageError: something that the class uses cannot be copied; the message says what and where.
    """
    collected = _Collected(root, packages, families)
    collected.collect()
    return collected.file(), list(collected.order())


class _Collected:
    """The statements that make up a file.

    Attributes:
        names: each top-level name of the file -> its origin; the names of all modules share one file.
        needs: module -> the modules that it uses.
        members: pipeline class -> the members that are copied.
        asked: attributes that the copied statements read, of any object.
    """

    def __init__(self, root: type, packages: Collection[str], families: Collection[str]) -> None:
        self.root, self.packages, self.families = root, packages, families
        self.is_pipeline = issubclass(root, DiffusionPipeline)
        own = [c for c in root.__mro__ if issubclass(c, DiffusionPipeline) and self.follows(c.__module__)]
        self.pruned: dict[Key, type] = {(c.__module__, c.__name__): c for c in own if self.is_pipeline}
        self.names: dict[str, Key | Import] = {}
        self.aliases: dict[str, list[tuple[str, str]]] = {}
        self.needs: dict[str, list[str]] = {}
        self.taken: dict[int, tuple[str, ast.stmt]] = {}
        self.members: dict[Key, list[ast.stmt]] = {}
        self.asked: set[str] = set()
        self.edits: dict[int, list[Edit]] = {}
        self.replaced: dict[int, str] = {}

    # --- collecting -------------------------------------------------------------------------------------------------

    def collect(self) -> None:
        """Collect the class and all that it uses, until nothing is missing."""
        self.need(self.root.__module__, self.root.__name__)
        if self.is_pipeline:
            self.claim(BASE.bound, BASE, self.root.__module__)
        while any([*map(self._take_members, list(self.members)), *map(self._take_changes, list(self.needs))]):
            pass
        for module in self.needs:
            self._refuse_effects(source_of(module))

    def need(self, module: str, name: str, is_bound_elsewhere: bool = False) -> None:
        """Collect a name that a collected statement of the module uses."""
        self.needs.setdefault(module, [])
        found = self.resolve(module, name)
        if found is None and not is_bound_elsewhere:
            self._refuse_unknown(module, name)
        elif isinstance(found, Import):
            self.claim(name, found, module)
        elif found is not None:
            origin, original = found
            if origin != module and origin not in self.needs[module]:
                self.needs[module].append(origin)
            self.needs.setdefault(origin, [])
            self._define(found, module)
            if original != name:
                self.claim(name, found, module)
                self.aliases.setdefault(module, []).append((name, original))

    def claim(self, name: str, origin: Key | Import, module: str) -> None:
        """Reserve a name in the file; raise a UsageError if it already stands for something else."""
        other = self.names.setdefault(name, origin)
        if other == origin or (isinstance(other, Import) and isinstance(origin, Import) and is_same(other, origin)):
            return
        places = " and ".join(place_of(place) for place in (other, origin))
        raise UsageError(f"{self._cannot()}: {name!r} stands for two things, {places}.\nRename one in {module}.")

    def _define(self, key: Key, user: str) -> None:
        module, name = key
        if self.names.get(name) == key:
            return
        self._refuse_copies(key, user)
        self.claim(name, key, user)
        source = source_of(module)
        for statement in source.bound[name]:
            if key in self.pruned and isinstance(statement, ast.ClassDef):
                self.members[key] = []
                self.taken[id(statement)] = module, statement
                self._scan_header(key, source, statement)
            elif id(statement) not in self.taken:
                self.taken[id(statement)] = module, statement
                self.scan(source, statement)
        for other, statements in source.bound.items():
            if other != name and any(id(s) in self.taken for s in statements) and (module, other) not in self.pruned:
                self.need(module, other)

    def _take_changes(self, module: str) -> bool:
        """Collect the statements by which a module changes what it imports; tell if there were any."""
        source = source_of(module)
        changes = [statement for statement in source.changes if id(statement) not in self.taken]
        for statement in changes:
            self.taken[id(statement)] = module, statement
            self.scan(source, statement)
            for name in source.together_with(statement):
                self.need(module, name)
        return bool(changes)

    def scan(self, source: ModuleSource, node: ast.stmt, known: Collection[str] = ()) -> None:
        """Collect what a statement uses.

        Args:
            known: names that the class around the statement defines.
        """
        where = f"line {first_line(node)} of {source.name}"
        for entry in inner_imports(source, node):
            if self.follows(entry.module) or entry.module.partition(".")[0] in self.families:
                raise UsageError(f"{self._cannot()}: {where} imports {entry.module} inside; import it at the top.")
            self._refuse_data_files(entry, where)
        for expression in annotations(node):
            self._scan_annotation(source, node, expression)
        used = source.free_names(node)
        if used & FILE_NAMES:
            raise UsageError(f"{self._cannot()}: {where} reads files beside the module, by {min(used & FILE_NAMES)}.")
        self.asked |= attributes_in(node) | used
        for name in sorted(used):
            self.need(source.name, name, name in known)

    def _scan_annotation(self, source: ModuleSource, node: ast.stmt, expression: ast.expr) -> None:
        replaced = _Replaced(self, source.name).visit(ast.parse(ast.unparse(expression), mode="eval")).body
        if ast.unparse(replaced) != ast.unparse(expression):
            self.edits.setdefault(id(node), []).append((expression, ast.unparse(replaced)))
        for name in sorted(names_in(replaced)):
            if name in self._stand_in_names():
                self._need_stand_in(name, source)
            else:  # what is imported for type checkers only is left as it is
                self.need(source.name, name, "*" not in source.imports)

    def _stand_in_names(self) -> set[str]:
        return {entry.bound for _, entry in STAND_INS}

    def _need_stand_in(self, name: str, source: ModuleSource) -> None:
        entry = next(entry for _, entry in STAND_INS if entry.bound == name)
        self.claim(name, entry, source.name)

    def stand_in(self, module: str, name: str) -> str | None:
        """Find the base class that replaces a class in annotations: every file has its own copy of the class."""
        found = self.resolve(module, name)
        value: Any = None if found is None or isinstance(found, Import) else value_of(found)
        bases = [(base, entry) for base, entry in STAND_INS if self.is_pipeline or base is not nn.Module]
        is_class = isinstance(value, type)
        return next((entry.bound for base, entry in bases if is_class and issubclass(value, base)), None)

    # --- a pipeline's classes ---------------------------------------------------------------------------------------

    def _scan_header(self, key: Key, source: ModuleSource, node: ast.stmt) -> None:
        assert isinstance(node, ast.ClassDef)
        for expression in [*node.decorator_list, *self._bases(key, node), *(word.value for word in node.keywords)]:
            for name in sorted(names_in(expression)):
                self.need(source.name, name)

    def _bases(self, key: Key, node: ast.ClassDef) -> Iterator[ast.expr]:
        """List the bases of a copied class without DiffusionPipeline: diffusers wants exactly one pipeline class in a
        file, so only the root has that base."""
        for expression, base in zip(node.bases, self.pruned[key].__bases__, strict=True):
            if base is not DiffusionPipeline:
                yield expression

    def _is_base_needed(self) -> bool:
        others = (c for c in self.root.__mro__ if not self.follows(c.__module__) and c is not DiffusionPipeline)
        return not any(issubclass(c, DiffusionPipeline) for c in others)

    def _take_members(self, key: Key) -> bool:
        """Collect the members that inference uses by now; tell if there were any."""
        source, found = source_of(key[0]), False
        (node,) = (s for s in source.bound[key[1]] if isinstance(s, ast.ClassDef))
        known = {name for member in node.body for name in names_bound_in(member)}
        for member in node.body:
            if member not in self.members[key] and self._is_reached(member):
                self.members[key].append(member)
                if not self._is_replaced(key, member):
                    self.scan(source, member, known)
                found = True
        return found

    def _is_replaced(self, key: Key, member: Any) -> bool:
        """Collect the function of the modality that stands in for a method which asks it; tell if there is one."""
        if key[0] != PIPELINE or getattr(member, "name", "") not in OF_MODALITY:
            return False
        module, function, self.replaced[id(member)] = for_modality(self.root, member.name, self._cannot())
        self.need(module, function)
        self.needs[PIPELINE].append(module)
        return True

    def _is_reached(self, member: ast.stmt) -> bool:
        names = names_bound_in(member)
        overridden = any(hasattr(DiffusionPipeline, name) for name in names)
        return not names & LEFT_OUT and (overridden or bool(names & (CALLED | self.asked)))

    # --- finding ----------------------------------------------------------------------------------------------------

    def follows(self, module: str) -> bool:
        """Tell if the source of that module is copied."""
        return module.partition(".")[0] in self.packages

    def resolve(self, module: str, name: str) -> Key | Import | None:
        """Find the origin of a name in a module; None for one that the module does not define."""
        source = source_of(module)
        entry = source.imports.get(name)
        if name in source.bound and entry is not None:
            line = source.bound[name][0].lineno
            raise UsageError(
                f"{self._cannot()}: {module} imports {name!r}, and line {line} defines it again.\nRename one of them."
            )
        if name in source.bound:
            return module, name
        if entry is None:
            return None
        if self.follows(entry.module):
            return self._followed(entry, module)
        if entry.module.partition(".")[0] in self.families:
            raise UsageError(f"{self._cannot()}: {module} imports {entry.module}, a family of another distribution.")
        self._refuse_data_files(entry, module)
        return entry

    def _followed(self, entry: Import, module: str) -> Key | Import:
        value = None if entry.name is None else getattr(importlib.import_module(entry.module), entry.name, None)
        if entry.name is None or isinstance(value, ModuleType):
            raise UsageError(
                f"{self._cannot()}: {module} uses the module {entry.bound!r} as a whole.\n"
                f"Import names from it instead: from {entry.module} import ..."
            )
        home, name = entry.module, entry.name
        if home == "hfgen":
            home = _HOME.get(name, home)
        elif name not in source_of(home):  # given by the module's __getattr__
            home, name = getattr(value, "__module__", home), getattr(value, "__name__", name)
        found = self.resolve(home, name) if self.follows(home) else None
        if found is None:
            raise UsageError(f"{self._cannot()}: {module} imports {entry.name}, which {entry.module} does not define.")
        return dataclasses.replace(found, bound=entry.bound) if isinstance(found, Import) else found

    # --- refusing ---------------------------------------------------------------------------------------------------

    def _cannot(self) -> str:
        return f"{self.root.__name__} cannot be bundled"

    def _refuse_unknown(self, module: str, name: str) -> None:
        """Refuse a name that the module's source does not define, as one from `import *`: the file would lack it."""
        if hasattr(builtins, name) or (name.startswith("__") and name.endswith("__")):
            return
        star = source_of(module).imports.get("*")
        advice = f"import it by name instead of {star.statement()}" if star else "define or import it there"
        raise UsageError(f"{self._cannot()}: {name!r} is not defined at the top level of {module}; {advice}.")

    def _refuse_copies(self, key: Key, user: str) -> None:
        """Refuse a class that another file has its own copy of, or that would be a second pipeline class."""
        value = None if key in self.pruned else value_of(key)
        kinds: tuple[type, ...] = (nn.Module, SchedulerMixin) if self.is_pipeline else ()
        if isinstance(value, type) and issubclass(value, (*kinds, DiffusionPipeline)):
            raise UsageError(
                f"{self._cannot()}: {user} uses the class {key[1]} outside of annotations.\n"
                "In a bundle every component's file has its own copy of a class, so isinstance would be False. Check "
                "an attribute of the object instead."
            )

    def _refuse_data_files(self, entry: Import, where: str) -> None:
        whole = f"{entry.module}.{entry.name}"
        if entry.module in DATA_FILES or whole in DATA_FILES:
            raise UsageError(f"{self._cannot()}: {where} reads files beside the module, by {entry.module}.")

    def _refuse_effects(self, source: ModuleSource) -> None:
        """Refuse statements that have an effect when their module is imported, except the registration of a family."""
        for statement, effect in source.effects:
            if id(statement) not in self.taken and not is_registration(source.name, effect):
                raise UsageError(
                    f"{self._cannot()}: line {effect.lineno} of {source.name} has an effect when the module is "
                    f"imported: {ast.unparse(effect)[:60]}"
                )

    # --- writing ----------------------------------------------------------------------------------------------------

    def order(self) -> Iterator[str]:
        """Sort the modules, each after those that it uses."""
        try:
            yield from TopologicalSorter(self.needs).static_order()
        except CycleError as error:
            raise UsageError(
                f"{self._cannot()}: its modules import each other: {', '.join(error.args[1])}."
            ) from error

    def file(self) -> str:
        """Write the imports, then the statements of each module."""
        parts = ["from __future__ import annotations\n"] * any(source_of(m).future for m in self.needs)
        parts.append("\n".join(self._imports()) + "\n")
        for module in self.order():
            if body := "\n\n".join(self._statements(module)):
                parts.append(f"# --- {module} ---\n\n{body}")
        return "\n\n".join(parts)

    def _imports(self) -> Iterator[str]:
        """Write one import line for each module, those of whole modules first."""
        lines: dict[str, list[str]] = {}
        for entry in (dataclasses.replace(e, bound=n) for n, e in self.names.items() if isinstance(e, Import)):
            start, _, name = entry.statement().rpartition(" import ")
            lines.setdefault(start or entry.statement(), []).extend([name] if start else [])
        yield from sorted(line for line, names in lines.items() if not names)
        for line, names in sorted(lines.items()):
            if names:
                yield from wrap(f"{line} import {', '.join(sorted(names))}")

    def _statements(self, module: str) -> Iterator[str]:
        yield from (f"{alias} = {original}\n" for alias, original in self.aliases.get(module, []))
        found = [statement for home, statement in self.taken.values() if home == module]
        for statement in sorted(found, key=lambda s: s.lineno):
            key = module, getattr(statement, "name", "")
            if key in self.pruned:
                yield self._class(key, statement)
            else:
                yield source_of(module).text(statement, self.edits.get(id(statement), ()))

    def _class(self, key: Key, node: Any) -> str:
        source, bases = source_of(key[0]), [ast.unparse(base) for base in self._bases(key, node)]
        if self.pruned[key] is self.root and self._is_base_needed():
            bases.append(BASE.bound)
        words = [f"{word.arg}={ast.unparse(word.value)}" for word in node.keywords]
        decorators = "".join(f"@{ast.unparse(decorator)}\n" for decorator in node.decorator_list)
        arguments = f"({', '.join([*bases, *words])})" if bases or words else ""
        is_root = self.pruned[key] is self.root
        title = (ast.get_docstring(node) or "").strip().partition("\n")[0] if is_root else "What it inherits."
        quoted = title.replace("\\", "\\\\").replace('"', "'")
        taken = [m for m in node.body if m in self.members[key]]
        members = [self.replaced.get(id(m)) or source.text(m, self.edits.get(id(m), ())) for m in taken]
        return "\n".join([f'{decorators}class {key[1]}{arguments}:\n    """{quoted}"""\n', *members])


class _Replaced(ast.NodeTransformer):
    """Replaces classes in an annotation by their stand-ins, each named once in a union."""

    def __init__(self, collected: _Collected, module: str) -> None:
        self.collected, self.module = collected, module

    def visit_Name(self, node: ast.Name) -> ast.Name:
        stand_in = self.collected.stand_in(self.module, node.id)
        return ast.Name(stand_in, node.ctx) if stand_in else node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        return node.left if ast.unparse(node.left) == ast.unparse(node.right) else node
