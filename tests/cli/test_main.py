"""The entry point: how every command ends when it can't say what it has to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli._watching import PATIENCE, PROGRAM, ROOT, environment, run, running

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")


@needs_full
@pytest.mark.parametrize("arguments", [["--help"], ["watch", "--help"], ["--version"]], ids=" ".join)
def test_help_that_cannot_be_written_is_told_in_a_line(arguments: list[str]) -> None:
    with FULL.open("w") as full, running(*arguments, stdout=full) as process:
        _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (1, "Error: standard output can't be written: No space left on device\n")


@needs_full
def test_misuse_is_misuse_though_nobody_can_be_told() -> None:
    with FULL.open("w") as full, running("watch", "nonsense", stderr=full) as process:
        assert process.wait(PATIENCE) == 2


def test_a_reader_that_left_before_the_help_came_is_told_nothing() -> None:
    with subprocess.Popen(
        [*PROGRAM, "watch", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_ctrl_c_while_a_command_is_imported_ends_it_quietly() -> None:
    interrupted = (
        "import sys, types; from trioresil.cli import main, _commands\n"
        "def get_command(self, context, name): raise KeyboardInterrupt\n"
        "_commands._Commands.get_command = get_command; main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", interrupted, "watch"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(),
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (130, "")
    assert "Traceback" not in ended.stderr


def test_a_wrong_option_and_no_command_are_misuse_and_show_where_help_is() -> None:
    wrong = run("watch", "--no-such-option")
    assert wrong.returncode == 2
    assert "Try 'trioresil watch --help' for help." in wrong.stderr
    assert run().returncode == 2


@pytest.mark.parametrize(("option", "value"), [("--expect-status", "9xx"), ("--ca-file", "a\nb")])
def test_a_bad_option_is_called_as_it_was_given(option: str, value: str) -> None:
    ended = run("watch", option, value, "https://a.example")
    assert ended.returncode == 2
    assert option in ended.stderr
