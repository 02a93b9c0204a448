"""What a server asks for in Retry-After, in seconds from now: both of its forms, and everything that is neither."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

import trioresil
from tests.http._scripted import BOTH, Edge

pytestmark = BOTH

NOON = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


def asked(edge: Edge, retry_after: str, **headers: str) -> float | None:
    """Return what a 503 with these headers asks for."""
    return edge.face.retry_after(edge.response(503, headers={"Retry-After": retry_after, **headers}))


def http_date(moment: datetime) -> str:
    return format_datetime(moment, usegmt=True)


@pytest.mark.parametrize(
    ("text", "expected"), [("0", 0.0), ("1", 1.0), ("5", 5.0), ("120", 120.0), ("007", 7.0), ("86400", 86400.0)]
)
def test_whole_seconds_are_what_they_say(edge: Edge, text: str, expected: float) -> None:
    assert asked(edge, text) == expected


@pytest.mark.parametrize("text", ["1.5", "0.25"])
def test_fractions_are_understood(edge: Edge, text: str) -> None:
    assert asked(edge, text) == float(text)


@pytest.mark.parametrize("text", [" 5", "5 ", "\t5"])
def test_blanks_around_seconds_do_no_harm(edge: Edge, text: str) -> None:
    assert asked(edge, text) == 5.0


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "-1", "-0.5", "nan", "NaN", "inf", "-inf", "Infinity", "infinity", "soon", "5s", "5 seconds", "5,6", "5, 6",
        "0x10", "1e999", "½", "PT5S", "2026-11-23", "2026-11-23T12:00:00Z", "Mon, 99 Nov 2026 12:00:00 GMT",
        "Mon, 23 Foo 2026 12:00:00 GMT", "Mon, 23 Nov 2026 25:00:00 GMT", "Mon, 23 Nov 99999 12:00:00 GMT", "GMT", ",",
        "Mon, 23 Nov 2026 12:00:00 +9999999999", "23 Nov", "\x00",
    ],
)  # fmt: skip
def test_nonsense_asks_for_nothing(edge: Edge, text: str) -> None:
    response = edge.response(503, headers=[(b"Retry-After", text.encode("latin-1", "replace"))])
    assert edge.face.retry_after(response) is None


def test_digits_of_other_scripts_are_nonsense(edge: Edge) -> None:
    """An Arabic 5, which Python's own float() would take."""
    response = edge.response(503, headers=[(b"Retry-After", b"\xd9\xa5")])
    assert edge.face.retry_after(response) is None


def test_a_number_too_large_for_a_float_asks_for_nothing(edge: Edge) -> None:
    assert asked(edge, "9" * 400) is None


def test_a_text_of_any_length_is_no_error(edge: Edge) -> None:
    """Python refuses to convert more than 4,300 digits to an int, by a ValueError."""
    assert asked(edge, "1" * 10_000) is None
    assert asked(edge, "Mon, 23 Nov 2026 12:00:00 GMT" * 1000) is None


def test_no_header_asks_for_nothing(edge: Edge) -> None:
    assert edge.face.retry_after(edge.response(503)) is None


@pytest.mark.parametrize("seconds", [1, 5, 60, 3600])
def test_date_counts_from_the_answers_own_date(edge: Edge, seconds: int) -> None:
    """Both are of the server's clock, so that a clock that is years off does no harm."""
    date, until = http_date(NOON), http_date(NOON + timedelta(seconds=seconds))
    assert asked(edge, until, Date=date) == seconds


@pytest.mark.parametrize(
    "until", ["Mon, 23 Nov 2026 12:00:07 GMT", "Monday, 23-Nov-26 12:00:07 GMT", "Mon Nov 23 12:00:07 2026"]
)
def test_all_three_forms_of_a_date_are_understood(edge: Edge, until: str) -> None:
    assert asked(edge, until, Date=http_date(NOON)) == 7.0


def test_every_month_is_understood(edge: Edge) -> None:
    for month in range(1, 13):
        first = datetime(2026, month, 1, tzinfo=UTC)
        assert asked(edge, http_date(first + timedelta(seconds=9)), Date=http_date(first)) == 9.0


def test_every_part_of_a_date_counts(edge: Edge) -> None:
    for step in (timedelta(days=1), timedelta(hours=1), timedelta(minutes=1), timedelta(days=365), timedelta(days=31)):
        assert asked(edge, http_date(NOON + step), Date=http_date(NOON)) == step.total_seconds()


def test_leap_second_is_a_date(edge: Edge) -> None:
    wanted = asked(edge, "Thu, 31 Dec 2026 23:59:60 GMT", Date="Thu, 31 Dec 2026 23:59:50 GMT")
    assert wanted in (9.0, 10.0)
    assert asked(edge, "Thu, 31 Dec 2026 23:59:61 GMT", Date="Thu, 31 Dec 2026 23:59:50 GMT") is None


def test_year_of_two_digits_is_of_this_century_unless_that_is_far_ahead(edge: Edge) -> None:
    date = "Sun, 06 Nov 1994 08:49:30 GMT"
    assert asked(edge, "Sunday, 06-Nov-94 08:49:37 GMT", Date=date) == 7.0
    assert asked(edge, "Saturday, 23-Nov-30 12:00:07 GMT", Date="Sat, 23 Nov 2030 12:00:00 GMT") == 7.0


@pytest.mark.parametrize("text", ["Mon, 01 Jan 0001 00:00:00 +0100", "Fri, 31 Dec 9999 23:59:59 -0100"])
def test_date_that_leaves_the_calendar_asks_for_nothing(edge: Edge, text: str) -> None:
    assert asked(edge, text, Date=http_date(NOON)) is None


def test_dates_with_a_zone_are_understood(edge: Edge) -> None:
    assert asked(edge, "Mon, 23 Nov 2026 13:30:07 +0130", Date=http_date(NOON)) == 7.0
    assert asked(edge, "Mon, 23 Nov 2026 10:30:07 -0130", Date=http_date(NOON)) == 7.0


@pytest.mark.parametrize("ago", [0, 1, 3600, 10**8])
def test_date_in_the_past_is_now(edge: Edge, ago: int) -> None:
    assert asked(edge, http_date(NOON - timedelta(seconds=ago)), Date=http_date(NOON)) == 0.0


def test_date_without_a_date_counts_from_the_wall_clock(edge: Edge) -> None:
    wanted = asked(edge, http_date(datetime.fromtimestamp(int(time.time()) + 100, UTC)))
    assert wanted is not None
    assert 97 <= wanted <= 100


def test_past_date_without_a_date_is_now(edge: Edge) -> None:
    assert asked(edge, "Sun, 06 Nov 1994 08:49:37 GMT") == 0.0


@pytest.mark.parametrize("date", ["", "now", "nan", "99", "Mon, 99 Nov 2026 12:00:00 GMT"])
def test_a_date_that_is_nonsense_counts_as_none(edge: Edge, date: str) -> None:
    wanted = asked(edge, http_date(datetime.fromtimestamp(int(time.time()) + 100, UTC)), Date=date)
    assert wanted is not None
    assert 97 <= wanted <= 100


def test_seconds_do_not_look_at_the_date(edge: Edge) -> None:
    assert asked(edge, "9", Date="Sun, 06 Nov 1994 08:49:37 GMT") == 9.0


@pytest.mark.parametrize("name", ["retry-after", "RETRY-AFTER", "Retry-After"])
def test_the_headers_name_may_be_in_any_case(edge: Edge, name: str) -> None:
    assert edge.face.retry_after(edge.response(429, headers={name: "3"})) == 3.0


def test_of_a_status_error_its_response_is_asked(edge: Edge) -> None:
    request = edge.request()
    response = edge.response(429, request, headers={"Retry-After": "3"})
    error = edge.library.HTTPStatusError("too many", request=request, response=response)
    assert edge.face.retry_after(error) == 3.0


@pytest.mark.parametrize("hint", [None, 0.0, 2.5])
def test_of_an_unstarted_rejection_its_own_hint_comes_out(edge: Edge, hint: float | None) -> None:
    assert edge.face.retry_after(trioresil.RateLimitedError("bucket", hint)) == hint
    assert edge.face.retry_after(edge.face.RateLimitedError("bucket", hint)) == hint


def test_of_a_rejection_that_started_nothing_comes_out(edge: Edge) -> None:
    assert edge.face.retry_after(trioresil.RateLimitedError("bucket", 2.5, started=True)) is None


@pytest.mark.parametrize("name", ["ConnectError", "ReadTimeout", "PoolTimeout", "RemoteProtocolError"])
def test_other_errors_ask_for_nothing(edge: Edge, name: str) -> None:
    assert edge.face.retry_after(edge.error(name)) is None
    assert edge.face.retry_after(ValueError("5")) is None


def test_works_as_a_retrys_delay_hint(edge: Edge) -> None:
    retry = trioresil.Retry(on=edge.face.transient, delay_hint=edge.face.retry_after)
    assert retry.delay_hint is edge.face.retry_after


def test_result_is_always_a_finite_float_or_none(edge: Edge) -> None:
    for text in ("5", "0", "Mon, 23 Nov 9999 12:00:00 GMT", "1e308", "1e3"):
        wanted = asked(edge, text)
        assert wanted is None or (type(wanted) is float and math.isfinite(wanted) and wanted >= 0)
