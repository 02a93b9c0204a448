"""URLs of servers: read at once, and refused with words that hold nothing of a password."""

from __future__ import annotations

from typing import Final, NoReturn, TypeAlias
from urllib.parse import SplitResult, unquote, urlsplit

import attrs

Address: TypeAlias = tuple[str, int] | str
"""Host and port, or the path of a socket."""

SCHEMES: Final = (
    "redis",
    "rediss",
    "unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
)
FORMS: Final = (
    "redis://host:port/db, rediss://… (TLS), unix:///path, redis+sentinel://host:port,host:port/service/db or "
    "redis+cluster://host:port,host:port"
)
PORT: Final = 6379
SENTINEL_PORT: Final = 26379


@attrs.frozen
class Place:
    """What a URL says: where the servers are, how they belong together, and who logs in."""

    kind: str
    """"server", "sentinel" or "cluster"."""
    addresses: tuple[Address, ...]
    """Where: the server, the sentinels, or some of the cluster's nodes."""
    tls: bool = False
    service: str = ""
    """What the sentinels call the primary."""
    db: int = 0
    username: str | None = attrs.field(default=None, repr=False)
    password: str | None = attrs.field(default=None, repr=False)

    def __str__(self) -> str:
        where = ", ".join(map(shown, self.addresses))
        return f"{self.service} by {where}" if self.kind == "sentinel" else where


def shown(address: Address) -> str:
    """Return an address as people write it."""
    if isinstance(address, str):
        return address
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def read(url: object) -> Place:
    """Return what a URL says.

    Raises:
      TypeError: it is no string.
      ValueError: it is none of FORMS; the message doesn't show one that may hold a password.
    """
    if not isinstance(url, str):
        raise TypeError(f"url must be a string like {FORMS}, not {type(url).__name__}")
    try:
        parts = urlsplit(url)
    except ValueError:
        _refuse(url, "it is no URL")
    if parts.scheme not in SCHEMES:
        _refuse(url, f"its scheme is none of {', '.join(SCHEMES)}")
    if parts.query or parts.fragment or "?" in url or "#" in url:
        _refuse(url, "what is special in a password must be escaped, as %3F for ?, and options are arguments")
    userinfo, _, hosts = parts.netloc.rpartition("@")
    username, _, password = userinfo.partition(":")
    login = unquote(username) or None, unquote(password) or None
    if parts.scheme == "unix":
        if hosts or not parts.path.strip("/"):
            _refuse(url, "a socket needs its whole path after unix://")
        return Place("server", (unquote(parts.path),), False, "", 0, *login)
    base, _, kind = parts.scheme.partition("+")
    tls = base == "rediss"
    port = SENTINEL_PORT if kind == "sentinel" else PORT
    addresses = tuple(_address(url, each, port) for each in hosts.split(","))
    if not kind and len(addresses) > 1:
        _refuse(url, "several servers are a cluster (redis+cluster://) or sentinels (redis+sentinel://)")
    service, db = _path(url, parts, kind)
    return Place(kind or "server", addresses, tls, service, db, *login)


def _address(url: str, text: str, port: int) -> Address:
    try:
        parts = urlsplit(f"//{text}")
        host, given = parts.hostname, parts.port
    except ValueError:
        _refuse(url, "a port is a number from 1 to 65535, and an IPv6 address stands in brackets")
    if not host or given == 0:
        _refuse(url, "a host is missing" if not host else "a port is a number from 1 to 65535")
    return host, given or port


def _path(url: str, parts: SplitResult, kind: str) -> tuple[str, int]:
    """Return service and database."""
    words = [unquote(each) for each in parts.path.strip("/").split("/") if each]
    service = ""
    if kind == "sentinel":
        if not words:
            _refuse(url, "the name of the service that the sentinels watch is missing")
        service = words.pop(0)
    if len(words) > 1 or (words and not (words[0].isascii() and words[0].isdecimal())):
        _refuse(url, "a database is a number >= 0 at the end of the path")
    db = int(words[0]) if words else 0
    if kind == "cluster" and db:
        _refuse(url, "a cluster has database 0 only")
    return service, db


def _refuse(url: str, why: str) -> NoReturn:
    value = "(not shown: it may hold a password)" if "@" in url else repr(url)
    raise ValueError(f"url must be {FORMS}, not {value}: {why}") from None
