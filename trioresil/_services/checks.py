"""Ready-made health checks for what every service has: a port, a certificate, a name.

Each function returns a check: an async function without arguments that returns if all is well and raises what is wrong. A check
makes what it needs afresh and keeps nothing, so it finds what a new client would find.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import trio

from .._checks import number, text, whole
from .._errors import CheckFailedError

Check: TypeAlias = Callable[[], Awaitable[None]]
CertificateCheck: TypeAlias = Callable[[], Awaitable[float]]

DAY: Final = 86_400


def check_tcp(host: str, port: int) -> Check:
    """Return a check that connects to a port and closes the connection.

    It tells that somebody listens, not that he works. For what speaks HTTP use `check_http` of trioresil.httpx.

    Synopsis::

        health.watch("db", trioresil.check_tcp("db.internal", 5432))

    Args:
      host (str): name or address. Each address of a name is tried until one answers.
      port (int, 1 to 65535): the port.

    Raises (the check):
      OSError: nobody answers, or the name is unknown.
    """
    _check_target(host, port)

    async def check() -> None:
        await trio.aclose_forcefully(await trio.open_tcp_stream(host, port))

    return check


def check_tls(
    host: str,
    port: int = 443,
    *,
    min_days_left: float = 14.0,
    server_hostname: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> CertificateCheck:
    """Return a check that makes a TLS handshake, and fails if the server's certificate is not valid for long enough.

    Most certificates are renewed by a machine, which fails in silence. It looks at the server's own certificate; those above it
    must be valid now. The check returns for how many days the certificate is still valid (float).

    Synopsis::

        health.watch("certificate", trioresil.check_tls("example.com", min_days_left=14), interval=3600, timeout=10)

    Args:
      host (str): name or address to connect to.
      port (int, 1 to 65535): the port. Default: 443.
      min_days_left (float, days, >= 0): how long the certificate must still be valid. Default: 14.
      server_hostname (str): the name that the certificate must be for. Default: None, that is host.
      ssl_context (ssl.SSLContext): whom to trust; it must verify, names too. Default: None, the system's authorities.

    Raises (the check):
      CheckFailedError: the certificate is not valid, not this server's, or not for long enough; or the handshake broke off.
      OSError: nobody answers.
    """
    _check_target(host, port)
    days = number("min_days_left", min_days_left, least=0, finite=True, unit="days")
    wanted = host if server_hostname is None else text("server_hostname", server_hostname)
    context = ssl.create_default_context() if ssl_context is None else _check_context(ssl_context)
    policy = f"check_tls({wanted}:{port})"

    async def check() -> float:
        stream = trio.SSLStream(await trio.open_tcp_stream(host, port), context, server_hostname=wanted)
        try:
            await stream.do_handshake()
            certificate: Any = stream.getpeercert()
        except trio.BrokenResourceError as exc:
            raise _explained(policy, exc) from exc.__cause__
        finally:
            await trio.aclose_forcefully(stream)
        left = (ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()) / DAY
        if left < days:
            raise CheckFailedError(policy, f"the certificate ends in {left:.1f} days, and {days:g} are asked for")
        return left

    return check


def check_dns(name: str) -> Check:
    """Return a check that looks up the addresses of a name, as the system does.

    A system may answer from a cache. A look-up that hangs is left alone in its thread when the check times out.

    Synopsis::

        health.watch("dns", trioresil.check_dns("example.com"))

    Args:
      name (str): a host name.

    Raises (the check):
      OSError: the name is unknown, or nobody answers (socket.gaierror).
    """
    text("name", name)

    async def check() -> None:
        await trio.socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)

    return check


def _explained(policy: str, broken: trio.BrokenResourceError) -> Exception:
    """Return an error that says why a handshake broke off: Trio's own says it in its cause only."""
    cause = broken.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return CheckFailedError(policy, f"the certificate is refused: {cause.verify_message}")
    return CheckFailedError(policy, f"the handshake broke off: {broken if cause is None else cause}")


def _check_target(host: object, port: object) -> None:
    text("host", host)
    if whole("port", port) > 65_535:
        raise ValueError(f"port must be a whole number from 1 to 65535, not {port!r}")


def _check_context(context: Any) -> ssl.SSLContext:
    if not isinstance(context, ssl.SSLContext):
        raise TypeError(f"ssl_context must be an ssl.SSLContext or None, not {context!r}")
    if context.verify_mode is not ssl.CERT_REQUIRED:
        raise ValueError(
            "ssl_context must verify certificates (verify_mode=ssl.CERT_REQUIRED): without, nothing is known of them"
        )
    if not context.check_hostname:
        raise ValueError(
            "ssl_context must check names (check_hostname=True): give the certificate's as server_hostname"
        )
    return context
