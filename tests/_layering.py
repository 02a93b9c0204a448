"""The layering rules of the package, checked on its syntax trees.

A module has a rank, from its place in the tree. An import goes to a strictly lower rank. Inside `_kernel` and inside
one edge it may also go sideways, as long as no cycle arises. The kernel is pure: it imports the standard library's
mathematics and data structures, never a clock, chance, a log or Trio. Imports count wherever they stand, under
TYPE_CHECKING and in functions too.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODULE_RANKS = {
    "": 10,  # the package's own __init__
    "_errors": 0,
    "_checks": 0,
    "_immutable": 0,
    "_redaction": 0,
    "_floods": 0,
    "_events": 2,
    "_links": 2,
    "_notes": 0,
    "_clock": 2,
    "_failures": 2,
    "abc": 3,
    "_instruments": 4,
    "_retry_budget": 4,
    "_policies.pipeline": 6,
    "_policies.keyed": 6,
    "_services._restarts": 7,
    "_services._outcomes": 6,
    "_services._crew": 7,
    "_services._tasks": 7,
    "httpx": 10,
    "httpx2": 10,
    "redis": 10,
    "asgi": 10,
    "dashboard": 10,
    "__main__": 12,
}
ROOM_RANKS = {
    "_kernel": 1,
    "_policies": 5,
    "_services": 8,
    "_http": 9,
    "_shared": 9,
    "_web": 9,
    "telemetry": 8,
    "testing": 9,
    "cli": 11,
}
SIDEWAYS = {"_kernel", "_http", "_shared", "_web", "telemetry", "testing", "cli"}

KERNEL_MODULES = {
    "__future__",
    "abc",
    "array",
    "attr",
    "attrs",
    "bisect",
    "collections",
    "dataclasses",
    "enum",
    "fractions",
    "functools",
    "heapq",
    "itertools",
    "math",
    "weakref",
    "numbers",
    "operator",
    "types",
    "typing",
}
KERNEL_TYPES = {"random"}  # under TYPE_CHECKING only: to say what `rng` is. Chance itself is an argument
IMPURE_CALLS = {"__import__", "compile", "eval", "exec", "input", "open", "print"}
ASYNC_NODES = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)


@dataclass(frozen=True)
class Module:
    """One file of the package."""

    name: str  # dotted, relative to the package: "_policies.retry"; the package's own __init__ is ""
    shown: str  # path for messages
    is_package: bool
    tree: ast.Module

    @property
    def room(self) -> str:
        return self.name.partition(".")[0]


@dataclass(frozen=True)
class Import:
    """One import, resolved as far as its text allows."""

    line: int
    target: str  # absolute dotted name: "trio.lowlevel", "trioresil._kernel.circuit.Circuit"
    type_only: bool


def rank_of(name: str) -> int | None:
    """Return the rank of a module, None if it has none."""
    if name in MODULE_RANKS:
        return MODULE_RANKS[name]
    return ROOM_RANKS.get(name.partition(".")[0])


def check_tree(root: Path) -> list[str]:
    """Return every violation in the package at `root`, as "file:line: what is wrong"."""
    modules = {module.name: module for module in _read(root)}
    found = [
        f"{module.shown}:1: has no rank: add it to the table, or move it into a room" for module in _unranked(modules)
    ]
    for module in modules.values():
        imports = list(_imports(module, root.name))
        found += _wrong_imports(module, imports, modules, root.name)
        if module.room == "_kernel":
            found += _impurities(module, imports, root.name)
    for room in sorted(SIDEWAYS):
        found += _cycles(room, modules, root.name)
    return found


def _read(root: Path) -> Iterator[Module]:
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        shown = path.relative_to(root.parent).as_posix()
        yield Module(name, shown, is_package, ast.parse(path.read_text(encoding="utf-8"), shown))


def _unranked(modules: dict[str, Module]) -> list[Module]:
    return [module for module in modules.values() if rank_of(module.name) is None]


# --- reading imports -------------------------------------------------------------------------------------------------


def _imports(module: Module, package: str) -> Iterator[Import]:
    type_only = {id(inner) for block in _type_blocks(module.tree) for inner in ast.walk(block)}
    for node in ast.walk(module.tree):
        for target in _targets(node, module, package):
            yield Import(getattr(node, "lineno", 1), target, id(node) in type_only)


def _type_blocks(tree: ast.Module) -> Iterator[ast.stmt]:
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).rpartition(".")[2] == "TYPE_CHECKING":
            yield from node.body


def _targets(node: ast.AST, module: Module, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = _absolute(module, node.level, node.module or "", package)
        return [base if alias.name == "*" else f"{base}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and _called(node) in {"import_module", "__import__"} and node.args:
        return _named_by_text(node.args[0], module, package)
    return []


def _absolute(module: Module, level: int, name: str, package: str) -> str:
    if level == 0:
        return name
    here = [package, *module.name.split(".")] if module.name else [package]
    above = level - 1 if module.is_package else level
    base = here[: len(here) - above]
    return ".".join([*base, name] if name else base)


def _named_by_text(argument: ast.expr, module: Module, package: str) -> list[str]:
    """Resolve importlib.import_module("...")."""
    if not (isinstance(argument, ast.Constant) and isinstance(argument.value, str)):
        return []
    name = argument.value.lstrip(".")
    return [_absolute(module, len(argument.value) - len(name), name, package)]


def _called(node: ast.Call) -> str:
    return ast.unparse(node.func).rpartition(".")[2]


def _module_of(target: str, modules: dict[str, Module], package: str) -> str | None:
    """Return the module of this package that an absolute target names (its longest prefix that is a file)."""
    first, _, rest = target.partition(".")
    if first != package:
        return None
    while rest and rest not in modules:
        rest = rest.rpartition(".")[0]
    return rest


# --- the three rules -------------------------------------------------------------------------------------------------


def _wrong_imports(module: Module, imports: list[Import], modules: dict[str, Module], package: str) -> Iterator[str]:
    rank = rank_of(module.name)
    for found in imports:
        target = _module_of(found.target, modules, package)
        if target is None or rank is None:
            continue
        sideways = module.room in SIDEWAYS and module.room == target.partition(".")[0]
        target_rank = rank_of(target)
        if not sideways and target_rank is not None and target_rank >= rank:
            shown = f"{package}.{target}" if target else package
            yield f"{module.shown}:{found.line}: rank {rank} imports {shown}, rank {target_rank}"


def _impurities(module: Module, imports: list[Import], package: str) -> Iterator[str]:
    for found in imports:
        name = found.target.partition(".")[0]
        allowed = KERNEL_MODULES | (KERNEL_TYPES if found.type_only else set())
        if name != package and name not in allowed:
            yield f"{module.shown}:{found.line}: the kernel is pure, and {name} is not on its list"
    for node in ast.walk(module.tree):
        if isinstance(node, ASYNC_NODES):
            yield f"{module.shown}:{node.lineno}: the kernel never waits"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
            yield f"{module.shown}:{node.lineno}: the kernel is pure, and {node.func.id}() is not"


def _cycles(room: str, modules: dict[str, Module], package: str) -> list[str]:
    graph: dict[str, set[str]] = {}
    for module in modules.values():
        if module.room == room:
            targets = {_module_of(found.target, modules, package) for found in _imports(module, package)}
            graph[module.name] = {target for target in targets if target and target.partition(".")[0] == room}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [f"{package}/{room}: modules import each other in a circle: {' <- '.join(error.args[1])}"]
    return []
