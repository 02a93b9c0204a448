"""Importing what an extra brings."""

from __future__ import annotations

import importlib
from types import ModuleType


def needed(module: str, extra: str, who: str) -> ModuleType:
    """Import a module that an instrument needs, or say what to install."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as exc:
        if exc.name is None or module.partition(".")[0] != exc.name.partition(".")[0]:
            raise
        raise ImportError(
            f"{who} needs {exc.name.partition('.')[0]}: install it with pip install 'trioresil[{extra}]'", name=exc.name
        ) from None
