"""What is asked for, and what an answer to it means, as tables and for any headers at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioresil._http._part_file import Version, source_of
from trioresil._http._ranges import Complete, Plan, StartOver, Unusable, Wish, judge, version_of, wish

SOURCE = source_of("http://a.example/")
HELD = Version(SOURCE, '"v1"', 100)
ASKED = wish(HELD, 40)
DATE = "Mon, 05 Jan 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    ("version", "size", "first", "skipped"),
    [
        (None, 0, 0, 0),
        (HELD, 0, 0, 0),
        (HELD, 1, 1, 0),
        (HELD, 99, 99, 0),
        (HELD, 100, 99, 1),
        (Version(SOURCE, '"v1"', None), 100, 100, 0),
        (Version(SOURCE, None, 100), 50, 0, 0),
    ],
)
def test_what_is_missing_is_asked_for(version: Version | None, size: int, first: int, skipped: int) -> None:
    headers = {"Range": f"bytes={first}-", "If-Range": '"v1"'} if first else {}
    assert wish(version, size) == Wish(first, skipped, headers)


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (206, {"content-range": "bytes 40-99/100"}, Plan(None, 100, 100)),
        (206, {"content-range": "bytes 40-99/100", "etag": '"v1"'}, Plan(None, 100, 100)),
        (206, {"content-range": "bytes 40-59/100"}, Plan(None, 60, 100)),
        (206, {"content-range": "bytes 40-59/*"}, Plan(None, 60, 100)),
        (206, {"content-range": "bytes 40-99/100", "etag": '"v2"'}, StartOver()),
        (206, {"content-range": "bytes 40-99/100", "etag": 'W/"v1"'}, StartOver()),
        (206, {"content-range": "bytes 40-100/100"}, StartOver()),
        (206, {"content-range": "bytes 40-100/101"}, StartOver()),
        (206, {"content-range": "bytes 40-39/100"}, StartOver()),
        (206, {"content-range": "bytes 39-99/100"}, StartOver()),
        (206, {"content-range": "bytes */100"}, StartOver()),
        (206, {"content-type": "multipart/byteranges; boundary=x"}, StartOver()),
        (206, {"content-range": "lines 40-99/100"}, StartOver()),
        (416, {"content-range": "bytes */100"}, StartOver()),
        (416, {"content-range": "bytes */40"}, StartOver()),
        (416, {}, StartOver()),
        (204, {}, StartOver()),
        (200, {"content-length": "7", "etag": '"v2"'}, Plan(Version(SOURCE, '"v2"', 7), 7, 7)),
        (203, {"content-length": "7"}, Plan(Version(SOURCE, None, 7), 7, 7)),
    ],
)
def test_an_answer_to_a_request_for_the_rest(status: int, headers: dict[str, str], expected: object) -> None:
    assert judge(status, headers, ASKED, HELD, SOURCE) == expected


def test_a_416_tells_that_a_file_of_unknown_length_has_come_whole() -> None:
    held = Version(SOURCE, '"v1"', None)
    asked = wish(held, 40)
    assert judge(416, {"content-range": "bytes */40"}, asked, held, SOURCE) == Complete()
    assert judge(416, {"content-range": "bytes */39"}, asked, held, SOURCE) == StartOver()
    assert judge(416, {"content-range": "bytes */40", "etag": '"v2"'}, asked, held, SOURCE) == StartOver()
    assert judge(416, {"content-range": "bytes */*"}, asked, held, SOURCE) == StartOver()


@pytest.mark.parametrize("status", [202, 204, 206, 416])
def test_only_a_whole_file_answers_a_request_for_all(status: int) -> None:
    headers = {"content-range": "bytes 0-99/100"}
    assert isinstance(judge(status, headers, Wish(), None, SOURCE), Unusable)


@pytest.mark.parametrize(
    ("headers", "validator"),
    [
        ({"etag": '"a"'}, '"a"'),
        ({"etag": ' "a" '}, '"a"'),
        ({"etag": '""'}, '""'),
        ({"etag": 'W/"a"'}, None),
        ({"etag": "a"}, None),
        ({"etag": '"a", "b"'}, None),
        ({"last-modified": "Mon, 05 Jan 2026 11:59:59 GMT", "date": DATE}, "Mon, 05 Jan 2026 11:59:59 GMT"),
        ({"last-modified": DATE, "date": DATE}, None),
        ({"last-modified": "Mon, 05 Jan 2026 12:00:01 GMT", "date": DATE}, None),
        ({"last-modified": "Mon, 05 Jan 2026 11:59:59 GMT"}, None),
        ({"last-modified": "long ago", "date": DATE}, None),
        (
            {"etag": 'W/"a"', "last-modified": "Mon, 05 Jan 2026 10:00:00 GMT", "date": DATE},
            "Mon, 05 Jan 2026 10:00:00 GMT",
        ),
    ],
)
def test_only_strong_validators_count(headers: dict[str, str], validator: str | None) -> None:
    assert version_of(headers, SOURCE).validator == validator


@pytest.mark.parametrize(
    ("headers", "total"),
    [
        ({"content-length": "7"}, 7),
        ({"content-length": "0"}, 0),
        ({}, None),
        ({"content-length": "-7"}, None),
        ({"content-length": "7", "transfer-encoding": "chunked"}, None),
        ({"content-length": "9" * 40}, None),
    ],
)
def test_the_length_is_what_is_announced(headers: dict[str, str], total: int | None) -> None:
    assert version_of(headers, SOURCE).total == total


def test_a_date_of_last_modification_is_compared_with_such_a_date() -> None:
    held = Version(SOURCE, DATE, 100)
    answer = {"content-range": "bytes 40-99/100", "etag": '"whatever"', "last-modified": DATE}
    assert judge(206, answer, wish(held, 40), held, SOURCE) == Plan(None, 100, 100)
    answer["last-modified"] = "Tue, 06 Jan 2026 12:00:00 GMT"
    assert judge(206, answer, wish(held, 40), held, SOURCE) == StartOver()


TEXT = st.text(alphabet='0123456789-*/ bytes"W:,²', max_size=30)


@given(
    st.sampled_from([200, 206, 416]),
    st.dictionaries(st.sampled_from(["content-range", "content-length", "etag"]), TEXT),
)
def test_no_headers_are_an_error_and_a_part_is_only_used_where_it_fits(status: int, headers: dict[str, str]) -> None:
    verdict = judge(status, headers, ASKED, HELD, SOURCE)
    if isinstance(verdict, Plan) and verdict.begin is None:
        assert verdict.end is not None
        assert headers["content-range"].strip().startswith("bytes 40-")
        assert 40 < verdict.end <= 100
        assert verdict.total == 100
