"""The end of a certificate's validity, against certificates made by the cryptography package."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from trioresil._http import _validity
from trioresil._http._validity import valid_until

LEAF = trustme.CA().issue_cert("a.example", not_after=datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC))
PEM = LEAF.cert_chain_pems[0].bytes()
DER = ssl.PEM_cert_to_DER_cert(PEM.decode())


def as_pem(der: bytes) -> bytes:
    return ssl.DER_cert_to_PEM_cert(der).encode()


@pytest.mark.parametrize("year", [1975, 1999, 2000, 2026, 2049, 2050, 2099, 9999])
def test_the_end_is_read_in_both_forms_of_time(year: int) -> None:
    end = datetime(year, 12, 31, 23, 59, 58, tzinfo=UTC)
    leaf = trustme.CA().issue_cert("a.example", not_before=datetime(1960, 1, 1, tzinfo=UTC), not_after=end)
    assert valid_until(leaf.cert_chain_pems[0].bytes()) == end


def test_the_first_of_several_certificates_counts_and_the_text_around_it_does_not() -> None:
    other = trustme.CA().cert_pem.bytes()
    text = b"subject=a\n" + LEAF.private_key_pem.bytes() + PEM + other
    assert valid_until(text) == datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC)


@pytest.mark.parametrize("length", range(0, len(DER), 7))
def test_what_is_cut_off_has_no_end(length: int) -> None:
    assert valid_until(as_pem(DER[:length])) is None


@given(st.binary(max_size=200))
def test_garbage_has_no_end_and_no_error(garbage: bytes) -> None:
    assert valid_until(garbage) is None
    assert valid_until(as_pem(b"\x30" + garbage)) is None


def test_a_certificate_of_version_1_has_no_version_field() -> None:
    def element(tag: int, contents: bytes) -> bytes:
        return bytes([tag, len(contents)]) + contents

    validity = element(0x30, element(0x17, b"200101000000Z") + element(0x17, b"300102030405Z"))
    fields = element(0x02, b"\x01") + element(0x30, b"") + element(0x30, b"") + validity
    der = element(0x30, element(0x30, fields))
    assert _validity.valid_until(as_pem(der)) == datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
