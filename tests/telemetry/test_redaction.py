"""What is shown of others' texts holds no credentials, no query strings and no values of headers that hold secrets."""

from __future__ import annotations

import time

import pytest

from trioresil._redaction import one_line, safe_error, safe_repr, without_secrets

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://joe:hunter2@a.example/x?token=hunter2#hunter2", "https://a.example/x"),
        ("GET /x?token=hunter2 HTTP/1.1", "GET /x HTTP/1.1"),
        ("'/x?hunter2' was not found", "'/x' was not found"),
        ("/?hunter2", "/"),
        ("joe:hunter2@db.example:5432 refused", "db.example:5432 refused"),
        ("Authorization: Bearer hunter2", "Authorization: ***"),
        ("authorization: Basic aHVudGVyMg==, Accept: */*", "authorization: ***, Accept: */*"),
        ("{'Authorization': 'Bearer hunter2', 'Accept': 'x'}", "{'Authorization': ***, 'Accept': 'x'}"),
        ("[(b'Cookie', b'sid=hunter2; a=hunter2'), (b'Accept', b'x')]", "[(b'Cookie', ***), (b'Accept', b'x')]"),
        ("Set-Cookie: sid=hunter2", "Set-Cookie: ***"),
        ("Cookie: a=hunter2; b=hunter2", "Cookie: ***"),
        ("X-Api-Key: hunter2", "X-Api-Key: ***"),
        ("api_key='hunter2' was refused", "api_key=*** was refused"),
        ("X-Auth-Token=hunter2 and more", "X-Auth-Token=***"),
        ("password=hunter2", "password=***"),
        ('{"access_token": "hunter2", "n": 1}', '{"access_token": ***, "n": 1}'),
        ("Proxy-Authorization: hunter2", "Proxy-Authorization: ***"),
        ("sent Bearer hunter2abc", "sent Bearer ***"),
        ("jwt eyJhbGciOi.eyJzdWIiOi.c2ln here", "jwt *** here"),
        ("the bearer of bad news", "the bearer of bad news"),
        ("a/b?hunter2 was not found", "a/b was not found"),
        ("example.com/a?x=hunter2", "example.com/a"),
        ("https://a.example/x?q='hunter2'", "https://a.example/x'"),
        ("{'url': 'https://a.example/x?q=hunter2', 'n': 1}", "{'url': 'https://a.example/x', 'n': 1}"),
        ("https://joe:hun'ter2@a.example/x", "https://a.example/x"),
        ("https://joe:#hunter2@a.example/x", "https://a.example/x"),
        ("https://joe:hunter2?x@a.example/", "https://a.example/"),
        ("https://joe:hunter2/x@a.example/", "https://a.example/"),
        ("//joe:hunter2@a.example/x", "//a.example/x"),
        ("ssh://joe:hunter2@[::1]:22/x", "ssh://[::1]:22/x"),
        ("https://a.example/@scope/a@b", "https://a.example/@scope/a@b"),
        ("http://[::1]:80/@x and https://a.example:8080/a@b", "http://[::1]:80/@x and https://a.example:8080/a@b"),
        ("at http://a:80, 'http://b:81' and c@d", "at http://a:80, 'http://b:81' and c@d"),
        (r'{"body": "{\"password\": \"hunter2\"}"}', r'{"body": "{\"password\": ***}"}'),
        (r"password='it\'s hunter2', n=1", "password=***, n=1"),
        ("password='hunter2", "password=***"),
        ('Authorization: Digest username="joe", response="hunter2"', "Authorization: ***"),
        ("accessToken=hunter2", "accessToken=***"),
        ("PGPASSWORD=hunter2", "PGPASSWORD=***"),
        ("secret_key: hunter2", "secret_key: ***"),
        ("passphrase=hunter2", "passphrase=***"),
        ("<password>hunter2</password>", "<password>***"),
        ("api_key%3Dhunter2", "api_key%3D***"),
        ("['x', '--token', 'hunter2']", "['x', '--token', ***]"),
        ("x --api-token hunter2 y", "x --api-token *** y"),
        ("Illegal header value b'hunter2 '", "Illegal header value ***"),
        ("really? yes", "really? yes"),
        ("max_tokens=5", "max_tokens=5"),
        ("the tokens are gone: wait", "the tokens are gone: wait"),
        ("me@example.org", "me@example.org"),
        ("12:30@noon", "noon"),
    ],
)
def test_secrets_are_left_out_and_the_rest_stays(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


@pytest.mark.parametrize("padding", range(60, 230, 5))
def test_a_cut_never_uncovers_a_half_url(padding: int) -> None:
    error = OSError("x" * padding + f" https://joe:{SECRET}@a.example/{'y' * 100}?token={SECRET}")
    for text in (safe_error(error), safe_repr(error)):
        assert "hunt" not in text
        assert len(text) <= 200


@pytest.mark.parametrize("length", [3_950, 3_985, 3_990, 3_995, 4_000, 4_010])
def test_nor_does_the_cut_before_it_is_read(length: int) -> None:
    query = "q" * (length - 60)
    text = f"https://a.example/?{query} https://joe:{SECRET}@b.example/"
    assert "hunt" not in one_line(text)
    assert "hunt" not in one_line(f"//joe:{SECRET * 1000}@b.example/")


def test_a_text_becomes_one_line_and_short() -> None:
    assert one_line("a\n  b\tc") == "a b c"
    assert one_line("x" * 300) == "x" * 199 + "…"
    assert one_line("x" * 200) == "x" * 200
    assert one_line("abc", 2) == "a…"


def test_nothing_in_it_steers_a_terminal_or_spoils_an_encoding() -> None:
    assert one_line("a\x1b[31mb\x07\x9b1m\udc80\u202e") == "a?[31mb??1m??"
    assert one_line("Jürgen 👩\u200d🚀 ✖") == "Jürgen 👩\u200d🚀 ✖"


def test_an_error_that_can_not_be_printed_is_named_all_the_same() -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise ValueError

        __repr__ = __str__

    assert safe_error(Unprintable()) == "Unprintable"
    assert safe_repr(Unprintable()) == "<Unprintable>"
    assert safe_error(KeyError()) == "KeyError"


@pytest.mark.parametrize(
    "text",
    [
        "a" * 50_000,
        "://" * 20_000,
        "a:" * 20_000,
        "a-" * 20_000,
        "/" * 50_000,
        "eyJ" * 20_000,
        "=/" * 20_000,
        "a?" * 20_000,
        "x=\\" * 10_000,
        "token='" * 9_000,
        "https://" + "a:" * 20_000,
        "token=" * 9_000,
        "x:y@" * 9_000,
    ],
)
def test_long_texts_are_searched_in_linear_time(text: str) -> None:
    began = time.process_time()
    without_secrets(text)
    assert time.process_time() - began < 5  # quadratic, some of these would take minutes
