"""URLs and arguments of open_redis: read or refused at once, and nothing shows a password."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from trioresil._shared.redis_urls import Place, read
from trioresil.redis import open_redis

HERE = ("127.0.0.1", 6379)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://127.0.0.1", Place("server", (HERE,))),
        ("redis://127.0.0.1:7000/3", Place("server", (("127.0.0.1", 7000),), db=3)),
        ("redis://127.0.0.1/", Place("server", (HERE,))),
        ("rediss://cache.example:1", Place("server", (("cache.example", 1),), tls=True)),
        ("redis://[::1]:7000", Place("server", (("::1", 7000),))),
        ("redis://ada:p%40ss%2F%3F@127.0.0.1", Place("server", (HERE,), username="ada", password="p@ss/?")),
        ("redis://:secret@127.0.0.1", Place("server", (HERE,), password="secret")),
        ("redis://ada@127.0.0.1", Place("server", (HERE,), username="ada")),
        ("unix:///run/redis.sock", Place("server", ("/run/redis.sock",))),
        ("unix://ada:x@/run/redis.sock", Place("server", ("/run/redis.sock",), username="ada", password="x")),
        (
            "redis+sentinel://a,b:7/main/2",
            Place("sentinel", (("a", 26379), ("b", 7)), service="main", db=2),
        ),
        ("rediss+sentinel://a/main", Place("sentinel", (("a", 26379),), tls=True, service="main")),
        ("redis+cluster://u:p@a:1,b:2", Place("cluster", (("a", 1), ("b", 2)), username="u", password="p")),
        ("rediss+cluster://a/0", Place("cluster", (("a", 6379),), tls=True)),
    ],
)
def test_url_is_read(url: str, place: Place) -> None:
    assert read(url) == place


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "its scheme is none of"),
        ("127.0.0.1:6379", "its scheme is none of"),
        ("http://127.0.0.1", "its scheme is none of"),
        ("redis+other://a", "its scheme is none of"),
        ("redis://", "a host is missing"),
        ("redis://ada:secret@", "a host is missing"),
        ("redis://a:0", "a port is a number from 1"),
        ("redis://a:65536", "a port is a number from 1"),
        ("redis://a:x", "a port is a number from 1"),
        ("redis://::1:7", "a port is a number from 1"),
        ("redis://[::1", "it is no URL"),
        ("redis://a/x", "a database is a number"),
        ("redis://a/-1", "a database is a number"),
        ("redis://a/1/2", "a database is a number"),
        ("redis://a/²", "a database is a number"),
        ("redis://a?db=1", "must be escaped"),
        ("redis://u:secret?x@a", "must be escaped"),
        ("redis://u:secret#x@a", "must be escaped"),
        ("redis://u:secret/x@a", "a port is a number"),
        ("redis://a,b", "several servers are a cluster"),
        ("redis+sentinel://a", "the name of the service"),
        ("redis+sentinel://a/main/x", "a database is a number"),
        ("redis+cluster://a,", "a host is missing"),
        ("redis+cluster://a/1", "database 0 only"),
        ("unix://", "its whole path"),
        ("unix://relative/path", "its whole path"),
    ],
)
def test_wrong_url_is_refused_by_a_message_without_its_password(url: str, why: str) -> None:
    with pytest.raises(ValueError, match="url must be redis://host:port/db") as caught:
        open_redis(url)
    assert why in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("url", [None, 7, b"redis://a"])
def test_url_must_be_a_string(url: Any) -> None:
    with pytest.raises(TypeError, match="url must be a string like redis://"):
        open_redis(url)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": ""}, ValueError, "name must be a string with at least one character"),
        ({"connect_timeout": 0}, ValueError, "connect_timeout must be a finite number of seconds > 0, not 0"),
        ({"connect_timeout": float("inf")}, ValueError, "connect_timeout must be a finite number"),
        ({"connect_timeout": "1"}, TypeError, "connect_timeout must be a finite number of seconds > 0, not '1'"),
        ({"allow_eviction": 1}, TypeError, "allow_eviction must be True or False, not 1"),
        ({"ssl_context": True}, TypeError, "ssl_context must be an ssl.SSLContext or None, not bool"),
        ({"ssl_context": ssl.create_default_context()}, ValueError, "ssl_context must be None for a URL without TLS"),
        ({"username": ""}, ValueError, "username must be a string with at least one character, or None"),
        ({"password": 7}, TypeError, "password must be a string or None, not int"),
        (
            {"sentinel_password": "secret"},
            ValueError,
            "sentinel_password must be None unless the URL is redis.sentinel",
        ),
        ({"rng": 7}, TypeError, "rng must be a random.Random"),
    ],
)
def test_wrong_argument_is_refused_at_once(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        open_redis("redis://127.0.0.1", **arguments)
    assert "secret" not in str(caught.value)


def test_password_is_never_shown() -> None:
    engine = open_redis(
        "redis+sentinel://ada:secret@127.0.0.1/main", password="secret2", sentinel_password="secret3", name="limits"
    )
    assert repr(engine) == "<trioresil.redis.RedisEngine 'limits' at main by 127.0.0.1:26379 not open>"
    for each in (engine, engine.statistics(), engine._settings, engine._place):
        assert "secret" not in f"{each!r} {each}"
