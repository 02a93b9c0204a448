"""When a certificate ends, read from its PEM text: the little of DER (X.690) and of RFC 5280 that this takes.

The standard library can decode a certificate only once a connection has been made with it.
"""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime
from typing import Final

_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_INTEGER: Final = 0x02
_UTC_TIME: Final = 0x17
_SEQUENCE: Final = 0x30
_VERSION: Final = 0xA0  # [0], explicit: absent from a certificate of version 1


def valid_until(pem: bytes) -> datetime | None:
    """Return the end of validity of the first certificate in a PEM file, in UTC; None if it can't be read."""
    found = _PEM.search(pem.decode("latin-1"))
    if found is None:
        return None
    try:
        return _not_after(ssl.PEM_cert_to_DER_cert(found[0]))
    except (ValueError, IndexError):
        return None


def _not_after(der: bytes) -> datetime:
    certificate = _Reader(_Reader(der).take(_SEQUENCE))
    fields = _Reader(certificate.take(_SEQUENCE))
    if fields.tag() == _VERSION:
        fields.take(_VERSION)
    fields.take(_INTEGER)  # serial number
    fields.take(_SEQUENCE)  # algorithm
    fields.take(_SEQUENCE)  # issuer
    validity = _Reader(fields.take(_SEQUENCE))
    validity.take(validity.tag())  # not before
    return _time(validity.tag(), validity.take(validity.tag()).decode("ascii"))


def _time(tag: int, text: str) -> datetime:
    if tag == _UTC_TIME:  # two digits of the year: 50 to 99 are of the last century
        text = ("19" if text >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


class _Reader:
    """Takes one element after the other from the contents of a DER element."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def tag(self) -> int:
        return self._data[self._at]

    def take(self, tag: int) -> bytes:
        """Return the contents of the next element, which has to have this tag."""
        if self.tag() != tag:
            raise ValueError(f"expected tag {tag:#x}, found {self.tag():#x}")
        length = self._data[self._at + 1]
        start = self._at + 2
        if length >= 0x80:
            start += length & 0x7F
            length = int.from_bytes(self._data[self._at + 2 : start])
        if start + length > len(self._data):
            raise ValueError("an element is longer than what holds it")
        self._at = start + length
        return self._data[start : self._at]
