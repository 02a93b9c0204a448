"""Retry-After: how long the other side asks to be left alone.

The law: seconds count as they are; a date counts from the answer's own Date, so that a clock which is wrong does no harm, and
from the wall clock where there is none. What is past is 0. What is neither, as a negative number, NaN or prose, is None: it asks
for nothing. Garbage in never gives an error.

Source: RFC 9110, sections 5.6.7 (three forms of a date, all of which must be understood) and 10.2.3.
"""

from __future__ import annotations

import math
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any, Final

_SECONDS: Final = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_NAMES: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTHS: Final = {name: number for number, name in enumerate(_NAMES, 1)}
_DAY: Final = "(?:mon|tue|wed|thu|fri|sat|sun)"
_MONTH: Final = f"(?P<month>{'|'.join(_MONTHS)})"
_TIME: Final = "(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_ZONE: Final = "(?:gmt|utc|z|(?P<sign>[+-])(?P<hours>[0-9]{2})(?P<minutes>[0-9]{2}))"
_DATES: Final = tuple(
    re.compile(pattern, re.ASCII | re.IGNORECASE)
    for pattern in (
        rf"{_DAY}, (?P<day>[0-9]{{1,2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} {_ZONE}",
        rf"{_DAY}[a-z]{{2,6}}, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} {_ZONE}",
        rf"{_DAY} {_MONTH} (?P<day>[ 0-9][0-9]) {_TIME} (?P<year>[0-9]{{4}})",
    )
)
_LONGEST: Final = 400  # the largest float has 309 digits


def seconds_asked(headers: Any) -> float | None:
    """Return the seconds that an answer's headers ask for, finite and >= 0, or None if they ask for nothing."""
    value = headers.get("retry-after")
    if value is None or len(value) > _LONGEST:
        return None
    value = value.strip()
    if _SECONDS.fullmatch(value):
        seconds = float(value)
        return seconds if math.isfinite(seconds) else None
    until = parse_date(value)
    if until is None:
        return None
    date = parse_date(headers.get("date", "").strip()[:_LONGEST])
    return max(0.0, until - (time.time() if date is None else date))


def parse_date(text: str) -> float | None:
    """Return an HTTP date as seconds since 1970, or None if it is no date."""
    for pattern in _DATES:
        found = pattern.fullmatch(text)
        if found is not None:
            return _timestamp(found.groupdict())
    return None


def _timestamp(parts: dict[str, str | None]) -> float | None:
    numbers = {key: int(parts[key] or 0) for key in ("year", "day", "hour", "minute", "second")}
    year = numbers["year"]
    if len(parts["year"] or "") == 2:
        year += 1900 if year >= 70 else 2000
    offset = timedelta(hours=int(parts.get("hours") or 0), minutes=int(parts.get("minutes") or 0))
    try:
        moment = datetime(
            year,
            _MONTHS[(parts["month"] or "").lower()],
            numbers["day"],
            numbers["hour"],
            numbers["minute"],
            min(numbers["second"], 59) if numbers["second"] <= 60 else numbers["second"],  # 60 is a leap second
            tzinfo=UTC,
        )
        return (moment + (offset if parts.get("sign") == "-" else -offset)).timestamp()
    except (ValueError, OverflowError):
        return None
