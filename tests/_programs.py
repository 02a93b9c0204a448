"""Programs that tests at the edges talk to: found, or the test is skipped, unless it was asked for by name."""

from __future__ import annotations

import os
import shutil

import pytest


def program(name: str, *, package: str) -> str:
    """The path of a program. Missing: the test is skipped, or fails if TRIORESIL_REQUIRE names it.

    Args:
      name: the program's file name.
      package: the Debian package that has it, for the message.
    """
    path = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin")
    if path is not None:
        return path
    message = f"{name} is not installed (Debian package {package})"
    if name in os.environ.get("TRIORESIL_REQUIRE", "").split():
        pytest.fail(message)
    pytest.skip(message)
