"""What led to an error, and whether it was a proxy that could not be reached: for the words of `watch` and `fetch`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import httpx

_ASKED: Final = re.compile(r"all attempts to connect to (\S+) failed")
_PORTS: Final = {"http": 80, "https": 443}


def causes(error: BaseException) -> Iterator[BaseException]:
    """Iterate over an error and those that led to it, down to the system's own; of a group, the first."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        if isinstance(current, BaseExceptionGroup):
            current = current.exceptions[0]
        else:
            current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def not_reached(error: BaseException) -> str | None:
    """Return who could not be connected to, as host:port, with the word that it is a proxy if it is one; None if unknown."""
    found = next((found[1] for each in causes(error) if (found := _ASKED.match(str(each)))), None)
    wanted = next((at for each in causes(error) if (at := _asked_by(each)) is not None), None)
    return found if found is None or wanted is None or wanted == found else f"the proxy {found}"


def _asked_by(error: BaseException) -> str | None:
    """Return where a request was to go, as trio writes it."""
    try:
        url = error.request.url if isinstance(error, httpx.RequestError) else None
    except RuntimeError:  # nobody has told the error of its request
        return None
    if url is None:
        return None
    host = f"[{url.host}]" if ":" in url.host else url.raw_host.decode("ascii")
    return f"{host}:{url.port or _PORTS.get(url.scheme)}"
