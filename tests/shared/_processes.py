"""Several processes at once that begin at the same time, each a module of this folder that takes a plan."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
Child = subprocess.Popen[str]


@contextlib.contextmanager
def processes(module: str, count: int, plan: dict[str, Any]) -> Iterator[list[Child]]:
    """Start processes, wait until they are ready, and let them begin; end them afterwards."""
    children: list[Child] = []
    try:
        for seed in range(count):
            command = [sys.executable, "-m", f"tests.shared.{module}", json.dumps({**plan, "seed": seed})]
            children.append(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
            )
        for child in children:
            assert read_line(child) == "ready"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        yield children
    finally:
        for child in children:
            child.kill()
            child.communicate()


def read_line(child: Child) -> str:
    """What the process says next."""
    assert child.stdout is not None
    return child.stdout.readline().rstrip("\n")


def run_processes(module: str, count: int, plan: dict[str, Any], *, timeout: float = 120) -> list[Any]:
    """Run processes to their ends; return what each printed."""
    with processes(module, count, plan) as children:
        return [json.loads(child.communicate(timeout=timeout)[0]) for child in children]
