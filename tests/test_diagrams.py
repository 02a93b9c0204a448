"""The drawn diagrams are those of their sources."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from trioresil._kernel import circuit, health
from trioresil.httpx import open_client

ROOT = Path(__file__).parent.parent


def drawing(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("at", range(len(drawing("draw_states").MACHINES)))
def test_state_diagrams_are_drawn_from_the_transition_tables(at: int) -> None:
    draw_states = drawing("draw_states")
    machine = draw_states.MACHINES[at]
    stored = (draw_states.REFERENCE / machine.file).read_text(encoding="utf-8")
    assert stored == draw_states.draw(machine), "run `python docs/draw_states.py`"


@pytest.mark.parametrize(("machine", "kernel"), [("CIRCUIT", circuit), ("HEALTH", health)])
def test_every_transition_has_its_arrow(machine: str, kernel: Any) -> None:
    drawn = getattr(drawing("draw_states"), machine)
    assert drawn.transitions is kernel.TRANSITIONS
    assert drawn.arrows.keys() == {(before, after) for (before, _), after in kernel.TRANSITIONS.items()}


def test_the_picture_of_the_timeouts_is_drawn_from_its_table() -> None:
    draw_timeouts = drawing("draw_timeouts")
    stored = draw_timeouts.PICTURE.read_text(encoding="utf-8")
    assert stored == draw_timeouts.draw(), "run `python docs/draw_timeouts.py`"


def test_the_picture_of_the_timeouts_names_arguments_that_there_are() -> None:
    names = [name for name, _, _ in drawing("draw_timeouts").BOUNDS]
    arguments = inspect.signature(open_client).parameters.keys() | {"trio.fail_after"}
    phases = {f"httpx {phase}" for phase in httpx.Timeout(1).as_dict()}
    assert [name for name in names if name not in arguments | phases] == []
