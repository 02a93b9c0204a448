"""The programs in tests/typing/ pin the public types: mypy --strict and pyright must both accept them as they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MYPY = [sys.executable, "-m", "mypy", "--strict"]
PYRIGHT = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]


def complaints(command: list[str], *paths: str) -> str:
    """Run a type checker and return what it said, "" if it was content."""
    run = subprocess.run([*command, *paths], capture_output=True, text=True, cwd=ROOT, timeout=170, check=False)
    return "" if run.returncode == 0 else f"{run.stdout}\n{run.stderr}"


def programs() -> list[str]:
    return sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests" / "typing").glob("*.py"))


def test_there_are_programs_to_check() -> None:
    assert "tests/typing/api.py" in programs()


@pytest.mark.slow
def test_mypy_accepts_the_public_types() -> None:
    assert complaints(MYPY, *programs()) == ""


@pytest.mark.slow
def test_pyright_accepts_the_public_types() -> None:
    assert complaints(PYRIGHT, *programs()) == ""


@pytest.mark.slow
@pytest.mark.parametrize("command", [MYPY, PYRIGHT], ids=["mypy", "pyright"])
def test_a_wrong_type_would_be_noticed(tmp_path: Path, command: list[str]) -> None:
    program = tmp_path / "wrong.py"
    program.write_text("from typing import assert_type\n\nassert_type(1 + 1, str)\n", encoding="utf-8")
    assert "wrong.py:3:" in complaints(command, str(program))
