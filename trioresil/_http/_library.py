"""Which client library an implementation is bound to: httpx with httpcore, or httpx2 with httpcore2.

The two have the same names and share no class: an httpx2.ConnectError is no httpx.ConnectError, and a response must be of the
client's own library. So whatever makes or catches such an object takes it from the Library that its class is bound to.
"""

from __future__ import annotations

from typing import Any

import attrs


@attrs.frozen(kw_only=True, eq=False)
class Library:
    """One client library, its protocol engine, and the error classes that are trioresil's and the library's at once."""

    name: str
    """"httpx" or "httpx2"."""
    client: Any
    """The client library's module."""
    core: Any
    """The module of its protocol engine: httpcore or httpcore2."""
    circuit_open_error: Any
    """A CircuitOpenError that is a ConnectError of the library; and so on."""
    circuit_isolated_error: Any
    bulkhead_full_error: Any
    rate_limited_error: Any
    timed_out_error: Any
    pool_closed_error: Any
