"""The drawn diagrams are those of their sources."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from typing import Any

import httpx

from trioresil._kernel.circuit import TRANSITIONS
from trioresil.httpx import open_client

ROOT = Path(__file__).parent.parent


def drawing(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_circuit_diagram_is_drawn_from_the_transition_table() -> None:
    draw_circuit = drawing("draw_circuit")
    stored = draw_circuit.PICTURE.read_text(encoding="utf-8")
    assert stored == draw_circuit.draw(), "run `python docs/draw_circuit.py`"


def test_every_transition_of_the_circuit_has_its_arrow() -> None:
    assert drawing("draw_circuit").ARROWS.keys() == {(before, after) for (before, _), after in TRANSITIONS.items()}


def test_the_picture_of_the_timeouts_is_drawn_from_its_table() -> None:
    draw_timeouts = drawing("draw_timeouts")
    stored = draw_timeouts.PICTURE.read_text(encoding="utf-8")
    assert stored == draw_timeouts.draw(), "run `python docs/draw_timeouts.py`"


def test_the_picture_of_the_timeouts_names_arguments_that_there_are() -> None:
    names = [name for name, _, _ in drawing("draw_timeouts").BOUNDS]
    arguments = inspect.signature(open_client).parameters.keys() | {"trio.fail_after"}
    phases = {f"httpx {phase}" for phase in httpx.Timeout(1).as_dict()}
    assert [name for name in names if name not in arguments | phases] == []
