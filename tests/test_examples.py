"""Every example runs to its end, imported and as a script.

An example says `CLOCK = "virtual"` at module level if nothing real is involved: it then runs on a clock that jumps.
"""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("[!_]*.py"))  # _server.py is what they share
AS_VIRTUAL_SCRIPT = """
import runpy, sys
from tests._docs import virtual_time
with virtual_time():
    runpy.run_path(sys.argv[1], run_name="__main__")
"""


def clock_of(source: str) -> str:
    """Return "virtual" or "real": what the example's CLOCK says; real if it says nothing."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CLOCK":
            value = ast.literal_eval(node.value)
            if value not in ("virtual", "real"):
                raise ValueError(f'CLOCK must be "virtual" or "real", not {value!r}')
            return str(value)
    return "real"


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def bounded(main: Any) -> None:
    with trio.fail_after(20):
        await main()


def test_there_are_examples() -> None:
    assert EXAMPLES


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))  # where a script finds its helper
    path = ROOT / "examples" / name
    main = load(path).main
    if clock_of(path.read_text(encoding="utf-8")) == "virtual":
        trio.run(main, clock=MockClock(autojump_threshold=0))
    else:
        trio.run(bounded, main)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_prints_something_as_a_script(name: str) -> None:
    path = ROOT / "examples" / name
    virtual = clock_of(path.read_text(encoding="utf-8")) == "virtual"
    command = [sys.executable, *(["-c", AS_VIRTUAL_SCRIPT] if virtual else []), str(path)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.strip()


@pytest.mark.parametrize(
    ("source", "clock"),
    [('CLOCK = "virtual"', "virtual"), ('"""Doc."""\nCLOCK = "real"', "real"), ("import trio", "real")],
)
def test_the_clock_of_an_example_is_read_from_its_text(source: str, clock: str) -> None:
    assert clock_of(source) == clock


def test_a_misspelt_clock_is_refused() -> None:
    with pytest.raises(ValueError, match="CLOCK must be"):
        clock_of('CLOCK = "vitrual"')


def test_a_virtual_script_takes_no_time(tmp_path: Path) -> None:
    path = tmp_path / "sleeper.py"
    path.write_text("import trio\nasync def main():\n await trio.sleep(9e4)\n print('awake')\ntrio.run(main)\n")
    command = [sys.executable, "-c", AS_VIRTUAL_SCRIPT, str(path)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=True)
    assert run.stdout == "awake\n"
