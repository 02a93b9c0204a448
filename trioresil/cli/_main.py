"""The entry point. It imports nothing of the extra by itself, so that it can say what is missing."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Final, NoReturn

_EXTRA: Final = {"click", "rich", "starlette", "hypercorn", "jinja2", "markupsafe"}
_MISSING: Final = "the command line needs {name}, which is in the extra `cli`: pip install 'trioresil[cli]'"


def main() -> NoReturn:
    """Run the command line and exit: 2 for a wrong option or a missing extra, 130 after Ctrl-C."""
    _open_what_is_closed()
    try:
        commands = importlib.import_module("trioresil.cli._commands")
        commands.trioresil(prog_name="trioresil")  # also as `python -m trioresil`: completion knows it by its name
    except ModuleNotFoundError as exc:
        name = (exc.name or "").partition(".")[0]
        if name not in _EXTRA:
            raise
        print(_MISSING.format(name=name), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:  # before the demo listens to it, or a second one
        sys.exit(130)
    sys.exit(0)


def _open_what_is_closed() -> None:
    """Let standard streams that are closed lead nowhere: else a socket would get their number, and be written to."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
            setattr(sys, name, open(descriptor, "w" if descriptor else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
