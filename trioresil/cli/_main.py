"""The entry point. It imports nothing of the extra by itself, so that it can say what is missing."""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import suppress
from typing import Any, Final, NoReturn

from ._output import send_nowhere

_EXTRA: Final = {"click", "rich", "starlette", "hypercorn", "jinja2", "markupsafe"}
_MISSING: Final = "the command line needs {name}, which is in the extra `cli`: pip install 'trioresil[cli]'"


def main() -> NoReturn:
    """Run the command line and exit: 2 for a wrong option or a missing extra, 130 after Ctrl-C."""
    _open_what_is_closed()
    code = 0
    try:
        commands = importlib.import_module("trioresil.cli._commands")
        code = _run(commands.trioresil)
    except ModuleNotFoundError as exc:
        name = (exc.name or "").partition(".")[0]
        if name not in _EXTRA:
            raise
        print(_MISSING.format(name=name), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:  # before a command listens to it, or a second one
        code = 130
    except OSError as exc:  # of the help and its like; what a command writes is its own affair
        code = _output_lost(exc)
    sys.exit(code)


def _run(command: Any) -> int:
    """Run a command of click's; what click would print about its end is printed here, as far as there is room for it."""
    import click

    try:
        # Called so as `python -m trioresil` too: completion knows it by its name.
        return command.main(prog_name="trioresil", standalone_mode=False) or 0
    except click.Abort:  # what click makes of a Ctrl-C while a command is imported
        return 130
    except click.ClickException as exc:
        with suppress(OSError):
            exc.show()
        return exc.exit_code


def _output_lost(error: OSError) -> int:
    """Say that standard output takes no more, and return the exit code. What is left of it goes nowhere."""
    send_nowhere(sys.stdout.fileno())
    with suppress(OSError):
        print(f"Error: standard output can't be written: {error.strerror or error}", file=sys.stderr)
    return 1


def _open_what_is_closed() -> None:
    """Let standard streams that are closed lead nowhere: else a socket would get their number, and be written to."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
            setattr(sys, name, open(descriptor, "w" if descriptor else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
