"""What to ask for to go on with a download, and what an answer to it means. Pure: headers in, decisions out.

The law of this file: bytes of two versions never meet. They could where a server ignores If-Range, or an entity tag is weak, or a
date of last modification is as young as the answer; so a 206 is believed only if nothing in it contradicts what is held, and
a validator is used only if it is strong. In doubt the download begins anew.

Source: RFC 9110, sections 8.8 (validators), 13.1.5 (If-Range), 14 and 15.5.17 (ranges).
"""

from __future__ import annotations

import re
from typing import Any, Final

import attrs

from ._part_file import Version
from ._retry_after import parse_date

_CONTENT_RANGE: Final = re.compile(
    r"bytes (?:(?P<first>\d{1,18})-(?P<last>\d{1,18})|\*)/(?:(?P<total>\d{1,18})|\*)", re.ASCII
)
_STRONG_TAG: Final = re.compile(r'"[^"]*"')
_LENGTH: Final = re.compile(r"\d{1,18}", re.ASCII)
_WHOLE: Final = frozenset({200, 203})


@attrs.frozen
class Wish:
    """What a request asks for."""

    first: int = 0
    """Offset of the first byte; 0 asks for all."""
    skipped: int = 0
    """How many bytes of the answer are held already."""
    headers: dict[str, str] = attrs.Factory(dict)
    """What says so."""


@attrs.frozen
class Plan:
    """What to do with an answer's body."""

    begin: Version | None
    """The version to begin anew with; None: go on with the one that is held."""
    end: int | None
    """The offset where the body has to end; None if that isn't known."""
    total: int | None
    """The length of the whole; None if that isn't known."""


@attrs.frozen
class StartOver:
    """The part that is held is no use: ask for all."""


@attrs.frozen
class Complete:
    """There is nothing more."""


@attrs.frozen
class Unusable:
    """An answer that has no file in it."""

    why: str


def wish(version: Version | None, size: int) -> Wish:
    """Return what to ask for when `size` bytes of a version are held."""
    if version is None or version.validator is None or size == 0:
        return Wish()
    # Of what seems complete the last byte is asked for again: the answer tells whether that version is still there.
    skipped = 1 if size == version.total else 0
    first = size - skipped
    return Wish(first, skipped, {"Range": f"bytes={first}-", "If-Range": version.validator})


def judge(
    status: int, headers: Any, asked: Wish, held: Version | None, source: str
) -> Plan | StartOver | Complete | Unusable:
    """Say what to do with a successful answer, or with a 416."""
    if status in _WHOLE:
        version = version_of(headers, source)
        return Plan(version, version.total, version.total)
    if not asked.headers or held is None:
        return Unusable(f"status {status} in answer to a request for the whole file")
    found = _CONTENT_RANGE.fullmatch(headers.get("content-range", "").strip())
    if found is None or contradicts(headers, held):
        return StartOver()
    total = int(found["total"]) if found["total"] else None
    if status == 416:
        return Complete() if total == asked.first and held.total is None else StartOver()
    if status != 206 or not found["first"] or int(found["first"]) != asked.first or int(found["last"]) < asked.first:
        return StartOver()
    end = int(found["last"]) + 1
    if total is None:
        total = held.total
    if (total is not None and end > total) or (held.total is not None and held.total != total):
        return StartOver()
    return Plan(None, end, total)


def version_of(headers: Any, source: str) -> Version:
    """Return the version that a whole answer is of."""
    length = headers.get("content-length", "").strip()
    known = _LENGTH.fullmatch(length) and "transfer-encoding" not in headers
    return Version(source, _validator(headers), int(length) if known else None)


def contradicts(headers: Any, held: Version) -> bool:
    """Tell whether an answer says that it is of another version."""
    assert held.validator is not None
    told = headers.get("etag" if held.validator.startswith('"') else "last-modified")
    return told is not None and told.strip() != held.validator


def _validator(headers: Any) -> str | None:
    tag = headers.get("etag", "").strip()
    if _STRONG_TAG.fullmatch(tag):
        return str(tag)
    modified = headers.get("last-modified", "").strip()
    changed, answered = parse_date(modified), parse_date(headers.get("date", "").strip())
    if changed is None or answered is None or answered - changed < 1:
        return None  # it may have changed again in the same second
    return str(modified)
