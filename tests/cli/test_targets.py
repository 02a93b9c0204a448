"""What is to be watched: URLs, files and options are read before anything is asked, and refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trioresil.cli._targets import Statuses, Target, TargetError, Targets, read_targets


def of_urls(*urls: str, count: int | None = None, **options: Any) -> list[Target]:
    return list(read_targets(urls, None, options, count=count).targets)


def of_file(folder: Path, text: str, *urls: str, count: int | None = None, **options: Any) -> Targets:
    file = folder / "targets.toml"
    file.write_text(text, encoding="utf-8")
    return read_targets(urls, str(file), options, count=count)


# --- URLs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://example.com/health?x=1", ("https", "example.com", None)),
        ("http://127.0.0.1:8080", ("http", "127.0.0.1", 8080)),
        ("HTTP://Example.com", ("http", "example.com", None)),
        ("tcp://db.internal:5432", ("tcp", "db.internal", 5432)),
        ("tcp://[::1]:5432/", ("tcp", "::1", 5432)),
        ("tls://example.com", ("tls", "example.com", 443)),
        ("tls://example.com:8443", ("tls", "example.com", 8443)),
        ("dns://example.com", ("dns", "example.com", None)),
    ],
)
def test_a_url_says_what_to_ask_and_where(url: str, parts: tuple[str, str, int | None]) -> None:
    [target] = of_urls(url)
    assert (target.scheme, target.host, target.port) == parts
    assert target.url == url


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("example.com", "is not a URL: it must begin with https://, http://, tcp://, tls:// or dns://"),
        ("", "url must be a string with at least one character"),
        ("ftp://example.com", "can't be watched: it must begin with"),
        ("tcp://db", "can't be watched: write tcp://host:port"),
        ("tcp://db:5432/path", "can't be watched: write tcp://host:port"),
        ("tcp://u:hunter2@db:5432", "can't be watched: write tcp://host:port"),
        ("tls://db?x=hunter2", "can't be watched: write tls://host or tls://host:port"),
        ("dns://db:53", "can't be watched: write dns://name"),
        ("dns://db#x", "can't be watched: write dns://name"),
        ("http://", "is not a URL: it has no host"),
        ("tcp://:80", "is not a URL: it has no host"),
        ("http://u:hunter2@db:99999/", "is not a URL: a port is a number from 1 to 65535"),
        ("tcp://db:x", "is not a URL: a port is a number from 1 to 65535"),
        ("tcp://db:0", "is not a URL: a port is from 1 to 65535"),
        ("http://a b/", "is not a URL: "),
        ("tcp://a b:1", "is not a URL: it holds white space"),
        ("tcp://a\x9bb:1", "is not a URL: it holds white space or a control character"),
        ("tcp://a\u202eb:1", "is not a URL: it holds white space or a control character"),
        ("dns://a..b", "is not a URL: its host is no name that can be looked up"),
        ("tcp://" + "a" * 64 + ":1", "is not a URL: its host is no name that can be looked up"),
        ("tcp://[fe80::1]:65536", "is not a URL: a port is a number from 1 to 65535"),
        ("tcp://[zz]:1", "is not a URL: 'zz' does not appear to be an IPv4 or IPv6 address"),
        ("http://u:hunter2/@db", "is not a URL: "),
        ("http://[::1/?k=hunter2", "is not a URL: Invalid IPv6 URL"),
    ],
)
def test_what_can_not_be_asked_is_refused_without_its_secrets(url: str, told: str) -> None:
    with pytest.raises(TargetError) as refused:
        of_urls(url)
    assert told in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_name_has_no_secrets_and_is_nobody_elses() -> None:
    targets = of_urls("http://u:p@host/a?k=1", "http://host/a?k=2", "http://host/a", "http://host/b")
    assert [each.name for each in targets] == ["http://host/a", "http://host/a #2", "http://host/a #3", "http://host/b"]
    assert "u:p" not in repr(targets)
    assert "k=1" not in repr(targets)


# --- settings ------------------------------------------------------------------------------------------------------------


def test_without_settings_the_defaults_are_the_monitors() -> None:
    [target] = of_urls("http://host")
    assert (target.interval, target.timeout, target.rise, target.fall) == (5, 5, 2, 3)
    assert (target.degraded_above, target.critical, target.group, target.min_days_left) == (None, False, None, 14)


@pytest.mark.parametrize(("count", "rise", "fall"), [(1, 1, 1), (2, 2, 2), (3, 2, 3), (9, 2, 3)])
def test_a_count_is_enough_to_know(count: int, rise: int, fall: int) -> None:
    [target] = of_urls("http://host", count=count)
    assert (target.rise, target.fall) == (rise, fall)


def test_more_rise_than_checks_is_refused() -> None:
    with pytest.raises(TargetError, match="dns://host can't become healthy: rise is 3, and it is asked 2 times"):
        of_urls("dns://host", count=2, rise=3)
    [target] = of_urls("dns://host", count=3, rise=3)
    assert target.rise == 3


def test_a_target_goes_before_the_command_line_and_that_before_the_file(tmp_path: Path) -> None:
    text = """
        interval = 60
        timeout = 7
        rise = 4
        [[target]]
        url = "http://one"
        interval = 1
        [[target]]
        url = "http://two"
        fall = 9
    """
    zero, one, two = of_file(tmp_path, text, "http://zero", interval=30.0, degraded_above=2.0).targets
    assert [each.name for each in (zero, one, two)] == ["http://zero", "http://one", "http://two"]
    assert [each.interval for each in (zero, one, two)] == [30, 1, 30]
    assert [each.timeout for each in (zero, one, two)] == [7, 7, 7]
    assert [each.rise for each in (zero, one, two)] == [4, 4, 4]
    assert [each.fall for each in (zero, one, two)] == [3, 3, 9]
    assert [each.degraded_above for each in (zero, one, two)] == [2, 2, 2]


def test_a_file_says_all_that_can_be_said(tmp_path: Path) -> None:
    text = """
        ca_file = "ca.pem"
        expect_status = "2xx"
        [need]
        web = 1
        [[target]]
        url = "https://u:p@host/health"
        name = "api"
        critical = true
        group = "web"
        expect_status = [200, "301-302"]
        contains = "ok"
        headers = { Accept = "text/plain" }
        degraded_above = 0.5
        [[target]]
        url = "tls://host"
        min_days_left = 21
        ca_file = "/etc/other.pem"
    """
    found = of_file(tmp_path, text)
    api, tls = found.targets
    assert found.need == {"web": 1}
    assert (api.name, api.critical, api.group, api.contains) == ("api", True, "web", "ok")
    assert [status for status in range(100, 600) if status in api.expect_status] == [200, 301, 302]
    assert api.headers == {"Accept": "text/plain"}
    assert (api.ca_file, tls.ca_file) == (str(tmp_path / "ca.pem"), "/etc/other.pem")
    assert (api.degraded_above, tls.min_days_left) == (0.5, 21)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("interval = ", "targets.toml is not a TOML file: Invalid value (at "),
        ("", 'targets.toml: there is no target in it: write [[target]], and below it url = "https://…"'),
        ("[target]\nurl = 'dns://a'", "targets.toml: targets are tables: write [[target]], with double brackets"),
        ("[[target]]\nname = 'a'", "targets.toml: target 1: it has no url"),
        ("x = " + "[" * 5_000, "targets.toml is not a TOML file that can be read: it is nested too deeply"),
        ("x = 1" + "0" * 5_000, "targets.toml is not a TOML file: Exceeds the limit"),
        (
            "[[target]]\nurl = 'dns://a'\nname = \"a\\nb\"",
            "target 1: name must not hold control characters, as 'a\\nb'",
        ),
        ("[[target]]\nurl = 'dns://a'\nname = \"\\u001b[2J\"", "target 1: name must not hold control characters"),
        ("[[target]]\nurl = 'tls://a'\nca_file = \"a\\u0000\"", "target 1: ca_file must not hold control characters"),
        ("[[target]]\nurl = 5", "targets.toml: target 1: url must be a string, not 5"),
        ("[[target]]\nurl = 'dns://a'\n[[target]]\nurl = 'a'", "targets.toml: target 2: 'a' is not a URL"),
        ("intervall = 3\n[[target]]\nurl = 'dns://a'", "there is no setting 'intervall': did you mean interval?"),
        ("[[target]]\nurl = 'dns://a'\nzzz = 1", "target 1: there is no setting 'zzz': there are url, name, critical"),
        (
            "[[target]]\nurl = 'dns://a'\ninterval = 0",
            "target 1: interval must be a finite number of seconds > 0, not 0",
        ),
        ("[[target]]\nurl = 'dns://a'\ninterval = 'x'", "target 1: interval must be a finite number of seconds > 0"),
        ("[[target]]\nurl = 'dns://a'\ntimeout = inf", "target 1: timeout must be a finite number of seconds > 0"),
        ("rise = 0\n[[target]]\nurl = 'dns://a'", "targets.toml: rise must be a whole number >= 1, not 0"),
        ("[[target]]\nurl = 'dns://a'\nfall = 1.5", "target 1: fall must be a whole number >= 1, not 1.5"),
        ("[[target]]\nurl = 'dns://a'\ncritical = 1", "target 1: critical must be True or False, not 1"),
        ("[[target]]\nurl = 'dns://a'\ncontains = 'x'", "contains is for https and http only, and this is dns"),
        ("[[target]]\nurl = 'http://a'\nmin_days_left = 1", "min_days_left is for tls only, and this is http"),
        ("[[target]]\nurl = 'http://a'\nexpect_status = 99", "expect_status must be like 200, 2xx or 200-299"),
        ("[[target]]\nurl = 'http://a'\nexpect_status = []", "expect_status must be a status, text like '2xx, 301'"),
        ("[[target]]\nurl = 'http://a'\nexpect_status = '400-300'", "expect_status must have the smaller number first"),
        ("[[target]]\nurl = 'http://a'\nheaders = 'x'", "target 1: headers must be a table of texts"),
        (
            "[[target]]\nurl = 'http://a'\nheaders = { \"a b\" = 'x' }",
            "headers must be such as HTTP can send: 'a b' is not",
        ),
        ("[[target]]\nurl = 'http://a'\nheaders = { a = \"x\\r\\nb: c\" }", "headers must be such as HTTP can send"),
        ("[[target]]\nurl = 'http://a'\nheaders = { a = \"é\" }", "headers must be"),
        ("need = 3\n[[target]]\nurl = 'dns://a'", "need must be a table of groups"),
        ("need.a = 0\n[[target]]\nurl = 'dns://a'\ngroup = 'a'", "need.a must be a whole number >= 1, not 0"),
        ("need.b = 2\n[[target]]\nurl = 'dns://a'\ngroup = 'b'", "need.b is 2, and 1 of the targets are in that group"),
        ("[[target]]\nurl = 'dns://a'\nname = 'x'\n" * 2, "target 2: name must be one that no other has, not 'x'"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_what_and_where(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(TargetError) as refused:
        of_file(tmp_path, text)
    assert told in str(refused.value)
    assert str(refused.value).startswith(str(tmp_path))
    assert "\n" not in str(refused.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "targets.toml"
    file.write_bytes(b"# \xff\n")
    with pytest.raises(TargetError, match=r"is not a TOML file: byte 2 is not UTF-8"):
        read_targets([], str(file), {})


@pytest.mark.parametrize(
    ("written", "first", "last", "size"), [("200", 200, 200, 1), ("2XX", 200, 299, 100), ("301, 5xx", 301, 599, 101)]
)
def test_statuses_are_numbers_classes_and_ranges(written: str, first: int, last: int, size: int) -> None:
    statuses = Statuses(written)
    found = [status for status in range(1000) if status in statuses]
    assert (found[0], found[-1], len(found)) == (first, last, size)
    assert repr(statuses) == written


def test_the_file_in_the_docs_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent.parent / "docs/reference/cli-watch.md").read_text(encoding="utf-8")
    found = of_file(tmp_path, page.partition("```toml\n")[2].partition("```")[0])
    assert [each.name for each in found.targets[:2]] == ["api", "tls://api.example.com"]
    assert [each.group for each in found.targets[2:]] == ["upstreams", "upstreams"]
    assert found.need == {"upstreams": 1}
