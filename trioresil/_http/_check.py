"""check_http: a health check that asks a URL, through the client that the program uses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container
from typing import Any, Final, Protocol, TypeAlias

from .._checks import function, whole
from .._errors import CheckFailedError
from .._notes import shown
from ._library import Library
from ._options import EXTENSION, RequestOptions

Check: TypeAlias = Callable[[], Awaitable[None]]

ONE_ATTEMPT: Final = {EXTENSION: RequestOptions(retry=False)}


class CheckHTTP(Protocol):
    """The signature of `check_http`."""

    def __call__(
        self,
        client: Any,
        url: Any,
        *,
        expect_status: int | Container[int] = 200,
        body: Callable[[bytes], object] | None = None,
    ) -> Check: ...


def bind(library: Library) -> CheckHTTP:
    """Return the `check_http` of a client library."""

    def check_http(
        client: Any,
        url: Any,
        *,
        expect_status: int | Container[int] = 200,
        body: Callable[[bytes], object] | None = None,
    ) -> Check:
        """Return a health check that gets a URL and looks at the answer.

        It makes one attempt, whatever the client does otherwise: a second opinion is what `fall` is for. All else is
        as for any request of this client: its address, headers, TLS, limits and circuit. Tie that circuit to the check with
        `watch(..., breaker=...)`, so that the check gets through when it is isolated.

        Synopsis::

            health.watch("api", check_http(client, "/health", body=lambda body: b"ok" in body))

        Args:
          client (httpx.AsyncClient): asks.
          url (str or httpx.URL): what to get; relative to the client's base_url. The whole body is read: ask for a small one.
          expect_status (int, or a collection of int): a status that is well; range(200, 300) for several. Default: 200.
          body ((bytes) -> bool): True if this body is well; it may raise. Default: None, any body is.

        Raises (the check):
          CheckFailedError: another status or body.
          httpx.HTTPError: no answer.
        """
        if not isinstance(client, library.client.AsyncClient):
            raise TypeError(f"client must be an {library.name}.AsyncClient, not {client!r}")
        target = library.client.URL(url)
        is_expected, wanted = _expectation(expect_status)
        is_well = function("body", body, signature="(bytes) -> bool")
        policy = f"check_http({target.copy_with(username=None, password=None, query=None, fragment=None)})"

        async def check() -> None:
            response = await client.get(target, extensions=ONE_ATTEMPT)
            if not is_expected(response.status_code):
                raise CheckFailedError(policy, f"the status is {response.status_code}, not {wanted}")
            if is_well is not None and not is_well(response.content):
                raise CheckFailedError(policy, "the body is not as it should be")

        return check

    return check_http


def _expectation(expected: Any) -> tuple[Callable[[int], bool], str]:
    """Return a test for a status, and what it wants in words."""
    if isinstance(expected, int):
        status = whole("expect_status", expected, least=100)
        return status.__eq__, str(status)
    if isinstance(expected, (str, bytes)) or not hasattr(expected, "__contains__"):
        raise TypeError(f"expect_status must be a status or a collection of them, not {expected!r}")
    return expected.__contains__, f"in {shown(expected)}"
