"""The drawn state diagram is that of the transition table."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from trioresil._kernel.circuit import TRANSITIONS

ROOT = Path(__file__).parent.parent


def drawing() -> Any:
    spec = importlib.util.spec_from_file_location("draw_circuit", ROOT / "docs" / "draw_circuit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_circuit_diagram_is_drawn_from_the_transition_table() -> None:
    draw_circuit = drawing()
    stored = draw_circuit.PICTURE.read_text(encoding="utf-8")
    assert stored == draw_circuit.draw(), "run `python docs/draw_circuit.py`"


def test_every_transition_of_the_circuit_has_its_arrow() -> None:
    assert drawing().ARROWS.keys() == {(before, after) for (before, _), after in TRANSITIONS.items()}
