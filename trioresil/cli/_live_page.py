"""`--serve HOST:PORT` of several commands: the live page while they run, and what is wrong with it told in one line."""

from __future__ import annotations

import importlib
import os
import re
from typing import Any

import click

from ._options import Misuse


def address(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, int] | None:
    """Return the host and the port of HOST:PORT, [IPv6]:PORT, :PORT or PORT."""
    if value is None:
        return None
    found = re.fullmatch(r"(?:(\[[\da-fA-F:.]+\]|[^\s\[\]:/@]*):)?(\d{1,5})", value)
    if found is None or int(found[2]) > 65_535:
        raise click.BadParameter(f"{value!r} is not like 127.0.0.1:8080, [::1]:8080 or 8080.")
    return (found[1] or "127.0.0.1").strip("[]"), int(found[2])


def import_page() -> Any:
    """Import the page where it is wanted: it needs a web server."""
    try:
        return importlib.import_module("trioresil.dashboard")
    except ImportError as exc:
        raise Misuse(str(exc)) from None


class ServeError(Exception):
    """The live page can't be served."""


class serve_page:
    """The live page while it is open.

    Args:
      address (tuple): host and port.
      token (str): what a browser must know; None: nothing, and then only loopback will do.
      **options: what else `open_dashboard` takes.

    Raises:
      ServeError: it can't be opened.
    """

    def __init__(self, address: tuple[str, int], token: str | None, **options: Any) -> None:
        self._address = address
        self._options = {"token": token, **options}
        self._page: Any = None

    async def __aenter__(self) -> Any:
        host, port = self._address
        try:
            self._page = import_page().open_dashboard(host, port, **self._options)
            return await self._page.__aenter__()
        except ValueError as exc:
            hint = ": give it with --token or in TRIORESIL_TOKEN" if "token" in str(exc) else ""
            raise ServeError(f"--serve {host}:{port}: {exc}{hint}") from None
        except OSError as exc:
            raise ServeError(f"--serve {host}:{port}: {_reason(exc)}") from None

    async def __aexit__(self, *details: Any) -> Any:
        return await self._page.__aexit__(*details)


def _reason(error: OSError) -> str:
    if error.errno is None or error.errno < 0:  # of a look-up: its numbers are none of the system's
        return error.strerror or str(error)
    return os.strerror(error.errno)
