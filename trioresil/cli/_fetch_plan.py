"""What is to be fetched, and where it goes: from URLs, lists and checksums to orders. Whatever is wrong is found here, first."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TextIO

import attrs
import httpx

from .._redaction import without_secrets
from ._fetch_names import name_from_url
from ._options import Misuse

ALGORITHM_BY_DIGITS: Final = {32: "md5", 40: "sha1", 56: "sha224", 64: "sha256", 96: "sha384", 128: "sha512"}
_GNU_LINE: Final = re.compile(r"(?P<escaped>\\?)(?P<digest>[0-9A-Fa-f]+) [ *](?P<name>.+)")
_BSD_LINE: Final = re.compile(r"(?P<algorithm>[A-Za-z0-9-]+) ?\((?P<name>.+)\) ?= ?(?P<digest>[0-9A-Fa-f]+)")


@attrs.frozen(kw_only=True)
class Wanted:
    """A URL, as it was asked for."""

    url: str
    source: str
    """Where it stands: "argument 2", or "list.txt, line 7"."""
    name: str | None = None
    """What to call the file, if the list says so."""


@attrs.frozen(kw_only=True)
class Order:
    """One file to fetch."""

    number: int
    """Its place among all, from 1."""
    url: str
    origin: str
    """Scheme, host and port: whose limit it counts for."""
    path: str | None
    """Where it goes; None: the server says its name, which goes into the directory."""
    digest: str | None
    """What it has to be, as "algorithm:hexadecimal"."""

    @property
    def shown_url(self) -> str:
        """The URL without secrets, as it may be shown."""
        return printable(without_secrets(self.url))


def printable(text: str) -> str:
    """Return text on one line, without what a terminal would obey."""
    return "".join(each if each.isprintable() else "?" for each in " ".join(text.split()))


def read_list(file: TextIO, called: str) -> Iterator[Wanted]:
    """Read a list: a URL in each line, and behind it, if wanted, the file's name; blank lines and `# …` are skipped."""
    try:
        for number, line in enumerate(file, 1):
            fields = line.strip().lstrip("\ufeff").split(maxsplit=1)
            if fields and not fields[0].startswith("#"):
                source = f"{called}, line {number}"
                name = _listed_name(fields[1], source) if len(fields) == 2 else None
                yield Wanted(url=fields[0], source=source, name=name)
    except UnicodeDecodeError as exc:
        raise Misuse(f"{called}: not a text file in UTF-8 ({exc.reason})") from None
    except OSError as exc:
        raise Misuse(f"{called}: {exc.strerror or exc}") from None


def _listed_name(name: str, source: str) -> str:
    if "/" in name or os.sep in name or name in (".", "..") or not name.isprintable():
        raise Misuse(f"{source}: {printable(name)!r} must be the name of a file, without a directory")
    return name


def read_checksums(file: TextIO, called: str) -> dict[str, str]:
    """Read a checksums file, as sha256sum and its like write it; returns "algorithm:hexadecimal" by file name."""
    found: dict[str, str] = {}
    try:
        for number, line in enumerate(file, 1):
            text = line.strip("\r\n").lstrip("\ufeff")
            if not text.strip() or text.startswith("#"):
                continue
            name, digest = _checksum(text, f"{called}, line {number}")
            if found.setdefault(name, digest) != digest:
                raise Misuse(f"{called}, line {number}: another checksum for {printable(name)!r} than before")
    except UnicodeDecodeError as exc:
        raise Misuse(f"{called}: not a text file in UTF-8 ({exc.reason})") from None
    except OSError as exc:
        raise Misuse(f"{called}: {exc.strerror or exc}") from None
    if not found:
        raise Misuse(f"{called}: no checksums in it")
    return found


def _checksum(text: str, source: str) -> tuple[str, str]:
    bsd = _BSD_LINE.fullmatch(text.strip())
    gnu = None if bsd else _GNU_LINE.fullmatch(text)
    match = bsd or gnu
    if match is None:
        raise Misuse(f"{source}: not a checksum and a name, as sha256sum writes them")
    name, digits = match["name"], match["digest"].lower()
    expected = ALGORITHM_BY_DIGITS.get(len(digits))
    algorithm = bsd["algorithm"].lower().replace("-", "") if bsd else expected
    if expected is None or algorithm != expected:
        raise Misuse(f"{source}: {len(digits)} hexadecimal digits are no checksum of a known algorithm")
    if gnu and gnu["escaped"]:
        name = re.sub(r"\\([\\nr])", lambda found: {"\\": "\\", "n": "\n", "r": "\r"}[found[1]], name)
    return os.path.basename(name), f"{algorithm}:{digits}"


def make_orders(
    wanted: Iterable[Wanted],
    *,
    output: str | None,
    directory: str,
    server_names: bool,
    digest: str | None,
    checksums: Mapping[str, str] | None,
) -> list[Order]:
    """Return the orders, or say what can't be."""
    all_wanted = list(wanted)
    if not all_wanted:
        raise Misuse("no URL: give at least one, or a list of them with --input")
    for option, given in (("--output", output), ("--checksum", digest)):
        if given is not None and len(all_wanted) != 1:
            raise Misuse(f"{option} is for one URL, and there are {len(all_wanted)}")
    orders = []
    for number, each in enumerate(all_wanted, 1):
        url = check_url(each.url, each.source)
        by_server = server_names and each.name is None
        path = None if by_server else output or os.path.join(directory, each.name or name_from_url(each.url))
        sum_ = digest
        if checksums is not None and path is not None:
            sum_ = checksum_for(path, checksums)
        orders.append(Order(number=number, url=each.url, origin=origin_of(url), path=path, digest=sum_))
    _check_apart(orders, all_wanted)
    return orders


def checksum_for(path: str, checksums: Mapping[str, str]) -> str:
    """Return the checksum of the file that goes to this path."""
    name = os.path.basename(path)
    if name not in checksums:
        raise Misuse(f"--checksums has none for {printable(name)!r}")
    return checksums[name]


def check_url(text: str, source: str) -> httpx.URL:
    """Return the URL that a text is, or say what is wrong with it, without its secrets."""
    shown = printable(without_secrets(text))
    try:
        url = httpx.URL(text)
        host = url.host
    except UnicodeEncodeError:  # bytes of the command line that are no text
        raise Misuse(f"{source}: {shown!r} is not a URL: it is not in UTF-8") from None
    except (httpx.InvalidURL, ValueError) as exc:
        raise Misuse(f"{source}: {shown!r} is not a URL: {printable(without_secrets(str(exc)))}") from None
    if url.scheme not in ("http", "https"):
        raise Misuse(f"{source}: {shown!r} must begin with http:// or https://")
    if not host:
        raise Misuse(f"{source}: {shown!r} has no host")
    if url.port is not None and not 0 < url.port < 65_536:
        raise Misuse(f"{source}: {shown!r}: the port must be from 1 to 65535")
    return url


def origin_of(url: httpx.URL) -> str:
    """Return scheme, host and port of a URL."""
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def places(path: str) -> list[str]:
    """Return where a download writes: the file, its part and the part's note, each as what all paths to it have in common.

    OSError or ValueError if there is no such place: the current directory has been removed, or the name has letters that the
    file system, or the locale, doesn't know.
    """
    return [os.path.normcase(os.path.realpath(path + suffix)) for suffix in ("", ".part", ".part.json")]


def _check_apart(orders: list[Order], wanted: list[Wanted]) -> None:
    """See that no two files, nor their parts, would be one."""
    taken: dict[str, int] = {}
    for index, order in enumerate(orders):
        if order.path is None:
            continue
        source = wanted[index].source
        try:
            order_places = places(order.path)
        except (OSError, ValueError) as exc:
            path = printable(order.path)
            raise Misuse(f"{source}: there can be no file {path!r}: {getattr(exc, 'strerror', None) or exc}") from None
        for place in order_places:
            if place in taken:
                raise Misuse(
                    f"two URLs would be saved as {printable(os.path.basename(place))!r}: {wanted[taken[place]].source}, and "
                    f"{source}; fetch one of them with --output, or give it a name in a list (URL NAME)"
                )
            taken[place] = index
