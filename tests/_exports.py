"""What a public face must look like: re-exports only, in its text and in its names."""

from __future__ import annotations

import ast
import inspect
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

FIX_NAMES = "_checks.fix_module_names(__name__, globals())"


def public_names(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a user may import: no leading underscore, no module."""
    return {
        name: value
        for name, value in namespace.items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }


def wrong_statements(source: str) -> list[str]:
    """Return the statements of an __init__ that are neither docstring, re-export, version, nor the last call."""
    body = ast.parse(source).body
    if body and ast.get_docstring(ast.Module(body, [])) is not None:
        body = body[1:]
    if body and ast.unparse(body[-1]) == FIX_NAMES:
        body = body[:-1]
    else:
        return [f"the last statement must be {FIX_NAMES}"]
    return [f"line {node.lineno}: {ast.unparse(node)}" for node in body if not _is_allowed(node)]


def _is_allowed(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign):
        return [ast.unparse(target) for target in node.targets] == ["__version__"]
    if not isinstance(node, ast.ImportFrom) or node.level != 1:
        return False
    if node.module is None:  # `from . import _checks`, for the last call, and `from . import abc as abc`
        return [alias.name for alias in node.names] in (["_checks"], ["abc"])
    return all(alias.asname == alias.name and not alias.name.startswith("_") for alias in node.names)


def name_violations(names: Mapping[str, Any], module: str) -> list[str]:
    """Return which public classes and functions have no docstring, or say that they live somewhere else."""
    found = []
    for name, value in names.items():
        if not (isinstance(value, type) or inspect.isroutine(value)):
            continue
        if not (vars(value).get("__doc__") if isinstance(value, type) else value.__doc__):
            found.append(f"{name} has no docstring")
        if value.__module__ != module:
            found.append(f"{name} says that it lives in {value.__module__}")
    return found
