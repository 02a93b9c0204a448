"""The TLS context of a transport: fixed, as the client library makes it, or one that changes under it (a ClientTLS)."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._library import Library


class FixedTLS:
    """A context that stays as it is; it has a ClientTLS's interface."""

    generation = 0
    changes = False

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context


class ChangingTLS:
    """A ClientTLS, or what has its interface."""

    changes = True

    def __init__(self, source: Any) -> None:
        self.due = source.due
        self.refresh = source.refresh
        self._source = source

    @property
    def context(self) -> ssl.SSLContext:
        """The context that new connections use."""
        context: ssl.SSLContext = self._source.context
        return context

    @property
    def generation(self) -> int:
        """Goes up each time that the context changes."""
        generation: int = self._source.generation
        return generation


def make_tls(library: Library, verify: Any, cert: Any, trust_env: bool) -> Any:
    """Return the source of contexts that `verify`, `cert` and `trust_env` ask for."""
    if all(hasattr(verify, name) for name in ("context", "generation", "due", "refresh")):
        if cert is not None:
            raise TypeError("cert= can't go with a ClientTLS as verify=: the ClientTLS has the certificate")
        return ChangingTLS(verify)
    return FixedTLS(library.client.create_ssl_context(verify=verify, cert=cert, trust_env=trust_env))
