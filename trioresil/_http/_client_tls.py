"""ClientTLS: a client certificate whose files may change while the program runs.

The law of this file:

1. `context`, `generation` and what was read change together, in one synchronous step, and only for files that could be used.
2. Files are compared by what is in them. Times, sizes and inodes miss a rewrite within one tick of the file system's clock, and
   see a change where a secret was only mounted again.
3. What a context was made of is what was read: the files are read before and after OpenSSL reads them, since it takes paths only.
4. One task looks at a time. The others wait for it, because what they hold may have expired; when it is cancelled, one of
   them looks in its place. An abandoned thread changes nothing.
"""

from __future__ import annotations

import hashlib
import math
import os
import ssl
from collections.abc import Callable
from datetime import datetime
from typing import Any, ClassVar, Final, NoReturn, TypeAlias

import attrs
import trio

from .. import _instruments
from .._checks import seconds, text
from .._clock import RunClock
from .._events import CertificateReloaded, CertificateReloadFailed
from .._notes import shown
from ._library import Library
from ._validity import valid_until

READS: Final = 3
"""How often to begin again with files that change while they are read."""
THREADS: Final = 4
"""Threads that a file system which hangs may hold: each request that is cancelled there leaves one behind."""

StrPath: TypeAlias = "str | os.PathLike[str]"
Password: TypeAlias = "str | bytes | Callable[[], str | bytes] | None"


@attrs.frozen(kw_only=True)
class ClientTLSStatistics:
    """What a ClientTLS can tell."""

    name: str
    """Its name."""
    generation: int
    """How many certificates it has used, the first included."""
    valid_until: datetime | None
    """When the certificate in use ends, in UTC; None if that could not be read."""
    failures: int
    """How often new files could not be used."""
    last_error: Exception | None
    """Why the files can't be used since the last look at them; None if they are those in use."""


@attrs.frozen(kw_only=True)
class _Loaded:
    """A context, and what it was made of."""

    context: ssl.SSLContext
    fingerprint: bytes
    valid_until: datetime | None


class ClientTLS:
    """Shows a client certificate to servers (mutual TLS), and reads its files again when they change.

    Certificates that live for hours are replaced under a running program: by cert-manager, Vault, SPIFFE's helper, certbot.
    An `ssl.SSLContext` would go on showing the first until it has expired. Give this as `verify=` instead: connections opened
    after a change show the new certificate, and those opened before are used no more once they are idle. Files that can't be
    used, half-written ones or a key that belongs to another certificate, leave the old certificate in use; they are tried again
    after `reload_interval`.

    Synopsis::

        tls = ClientTLS(cert="/run/secrets/tls.crt", key="/run/secrets/tls.key", ca="/run/secrets/ca.crt")
        async with open_client(verify=tls) as client:
            ...

    No task watches the files. They are looked at, in a thread, by the first request after `reload_interval`, and by the first in
    each `trio.run`; requests that come meanwhile wait for that look. `await tls.refresh()` looks at once, say after a SIGHUP.

    Sharing: one object serves any number of clients. Cost: one reading of the clock for each request, and one hop to a thread
    for each `reload_interval`.

    Args:
      cert (path): PEM file of the certificate, its chain behind it.
      key (path): PEM file of its private key. Default: in `cert`.
      ca (path, or str or bytes): whom to trust: a PEM file or a directory made by `openssl rehash`, which are watched too; or
        the certificates themselves, as PEM text or DER bytes. Default: the trust store that the client library uses by
        default, SSL_CERT_FILE and SSL_CERT_DIR included.
      password (str, bytes, or () -> str or bytes): of the private key. A function is called at each reading, in a thread.
        Default: none.
      reload_interval (float, seconds, > 0): how old the last look at the files may be. math.inf: look only when told to.
        Default: 60.
      name (str): its name in events and statistics. Default: "client-tls".

    Attributes:
      context (ssl.SSLContext): for new connections; another object after each change.
      generation (int): 1, and one more after each change.

    Raises:
      OSError: `cert`, `key` or `ca` can't be read; the message names the argument and the path.
      ValueError: one of them is not what it should be, or the two don't belong together.
    """

    _library: ClassVar[Library]

    def __init__(
        self,
        *,
        cert: StrPath,
        key: StrPath | None = None,
        ca: StrPath | bytes | None = None,
        password: Password = None,
        reload_interval: float = 60.0,
        name: str = "client-tls",
    ) -> None:
        self.name: str = text("name", name)
        self.reload_interval: float = seconds("reload_interval", reload_interval, zero=False)
        self._cert = _path("cert", cert)
        self._key = self._cert if key is None else _path("key", key)
        self._ca_file, self._ca_data = _authorities(ca)
        self._password = _check_password(password)
        self._use(self._load())
        self.generation: int = 1
        self._failures = 0
        self._last_error: Exception | None = None
        self._looking: trio.Event | None = None
        self._looks = 0
        self._look_at = -math.inf
        self._threads = trio.CapacityLimiter(THREADS)
        self._clock = RunClock(self._met_clock, occupied=lambda: self._looking is not None, owner=self.name)
        if trio.lowlevel.in_trio_run():
            self._look_at = self._clock.read() + self.reload_interval

    def due(self) -> bool:
        """Tell whether it is time to look at the files."""
        return self._clock.read() >= self._look_at and self.reload_interval != math.inf

    async def refresh(self) -> None:
        """Look at the files now, and use them if they have changed and can be used. If a look is under way, wait for it.

        Never raises because of what it finds: that is an event, and in `statistics().last_error`.

        Cancellation: nothing has changed, and a look that was due is still due. A checkpoint.
        """
        self._clock.read()
        looks = self._looks
        while self._looking is not None:
            await self._looking.wait()
            if self._looks != looks:
                return
        self._looking = trio.Event()
        try:
            # Abandoned, since a file system that hangs must not hold a cancelled request.
            found = await trio.to_thread.run_sync(self._look, abandon_on_cancel=True, limiter=self._threads)
            self._take(found)
        finally:
            self._looking.set()
            self._looking = None

    def statistics(self) -> ClientTLSStatistics:
        """Return a snapshot."""
        return ClientTLSStatistics(
            name=self.name,
            generation=self.generation,
            valid_until=self._valid_until,
            failures=self._failures,
            last_error=self._last_error,
        )

    def __repr__(self) -> str:
        until = "" if self._valid_until is None else f" until {self._valid_until:%Y-%m-%d %H:%M} UTC"
        trouble = "" if self._last_error is None else f", the files can't be used: {shown(self._last_error)}"
        return f"<trioresil.ClientTLS {self.name!r} {self._cert!r}{until}, generation {self.generation}{trouble}>"

    def _met_clock(self, _seconds: float) -> None:
        self._look_at = -math.inf  # nobody knows how long ago the last look was
        self._threads = trio.CapacityLimiter(THREADS)  # what a run that is over abandoned is never given back to it

    # --- in a thread ---------------------------------------------------------------------------------------------------

    def _look(self) -> _Loaded | Exception | None:
        """Return new files' context, None if they are those in use, or what is wrong with them. Changes nothing."""
        try:
            return None if self._fingerprint() == self._loaded.fingerprint else self._load()
        except Exception as exc:
            return exc

    def _load(self) -> _Loaded:
        for _ in range(READS):
            before = self._fingerprint()
            context = self._new_context()
            until = valid_until(_read("cert", self._cert))
            if self._fingerprint() == before:
                return _Loaded(context=context, fingerprint=before, valid_until=until)
        raise ValueError(f"cert={self._cert!r}, key={self._key!r} or ca={self._ca_file!r} changed while they were read")

    def _fingerprint(self) -> bytes:
        """Return a digest of all that a context is made of."""
        parts = [_read("cert", self._cert), _read("key", self._key)]
        if self._ca_file is not None:
            parts.append(_listing(self._ca_file) if os.path.isdir(self._ca_file) else _read("ca", self._ca_file))
        return b"".join(hashlib.sha256(part).digest() for part in parts)

    def _new_context(self) -> ssl.SSLContext:
        context = self._trusting()
        try:
            context.load_cert_chain(self._cert, self._key, self._password or self._no_password)
        except ssl.SSLError as exc:
            raise self._explained(exc) from exc
        return context

    def _trusting(self) -> ssl.SSLContext:
        if self._ca_file is None and self._ca_data is None:
            context = self._library.client.create_ssl_context()
            assert isinstance(context, ssl.SSLContext)
            return context
        directory = self._ca_file is not None and os.path.isdir(self._ca_file)
        try:
            return ssl.create_default_context(
                cafile=None if directory else self._ca_file,
                capath=self._ca_file if directory else None,
                cadata=self._ca_data,
            )
        except (ssl.SSLError, ValueError) as exc:
            what = "the data given" if self._ca_file is None else repr(self._ca_file)
            raise ValueError(f"ca must hold certificates in PEM form; {what} can't be read as such: {exc}") from exc

    def _no_password(self) -> NoReturn:
        """Stand in for a password, so that OpenSSL doesn't ask for one on the terminal."""
        raise ValueError(f"key={self._key!r} is encrypted: password must be given")

    def _explained(self, exc: ssl.SSLError) -> ValueError:
        if "VALUES_MISMATCH" in (exc.reason or ""):
            return ValueError(f"key={self._key!r} doesn't belong to the certificate in cert={self._cert!r}")
        if valid_until(_read("cert", self._cert)) is None:
            return ValueError(f"cert must be a PEM file with a certificate, not {self._cert!r}: {exc}")
        if self._password is not None and b"ENCRYPTED" in _read("key", self._key):
            return ValueError(f"password doesn't open key={self._key!r}: {exc}")
        return ValueError(
            f"key must be a PEM file with the private key of cert={self._cert!r}, not {self._key!r}: {exc}"
        )

    # --- the change ----------------------------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    def _take(self, found: _Loaded | Exception | None) -> None:
        """Take note of a look that has come to its end."""
        self._look_at = self._clock.read() + self.reload_interval
        self._looks += 1
        if _instruments.installed:
            _instruments.announce(self)
        if isinstance(found, Exception):
            self._failures += 1
            self._last_error = found.with_traceback(None)
            _instruments.emit(CertificateReloadFailed, policy=self, path=self._cert, error=found)
            return
        self._last_error = None
        if found is not None:
            self._use(found)
            self.generation += 1
            _instruments.emit(CertificateReloaded, policy=self, path=self._cert)

    def _use(self, loaded: _Loaded) -> None:
        self._loaded = loaded
        self._valid_until = loaded.valid_until
        self.context: ssl.SSLContext = loaded.context


def _path(argument: str, value: Any) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{argument} must be the path of a PEM file, not {value!r}")
    path = os.fspath(value)
    if not isinstance(path, str) or not path:
        raise ValueError(f"{argument} must be the path of a PEM file, not {value!r}")
    return os.path.abspath(path)  # not resolved: a symbolic link may lead elsewhere tomorrow


def _authorities(ca: Any) -> tuple[str | None, str | bytes | None]:
    """Return (path, data), of which at most one is given."""
    if ca is None:
        return None, None
    if isinstance(ca, str) and "-----BEGIN" in ca:
        return None, ca
    if isinstance(ca, bytes):
        return None, ca.decode("ascii", "replace") if b"-----BEGIN" in ca else ca
    if not isinstance(ca, (str, os.PathLike)):
        raise TypeError(f"ca must be a path, PEM text, DER bytes or None, not {ca!r}")
    return _path("ca", ca), None


def _check_password(password: Any) -> Any:
    if password is not None and not isinstance(password, (str, bytes)) and not callable(password):
        raise TypeError(f"password must be a str, bytes, a function () -> str or None, not a {type(password).__name__}")
    return password


def _read(argument: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as exc:
        # Of the same class, since Python chooses it by the number.
        raise OSError(exc.errno, f"{argument} can't be read: {exc.strerror}", path) from exc


def _listing(directory: str) -> bytes:
    """Return what is in a directory: its files may be hundreds, so their times have to do."""
    try:
        entries = sorted((entry.name, entry.stat()) for entry in os.scandir(directory))
    except OSError as exc:
        raise OSError(exc.errno, f"ca can't be read: {exc.strerror}", directory) from exc
    return repr([(name, stat.st_mtime_ns, stat.st_size, stat.st_ino) for name, stat in entries]).encode()
