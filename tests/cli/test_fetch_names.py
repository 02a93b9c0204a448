"""Names, lists, checksums and errors of `trioresil fetch`: all that needs no network."""

from __future__ import annotations

import errno
import io
import os
import socket
import ssl
import sys

import click
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import trioresil.httpx
from trioresil.cli._fetch_command import _rate
from trioresil.cli._fetch_errors import describe, worth_another
from trioresil.cli._fetch_names import LONGEST_BYTES, name_from_header, name_from_url, safe_name
from trioresil.cli._fetch_plan import check_url, printable, read_checksums, read_list
from trioresil.cli._fetch_text import duration, times
from trioresil.cli._options import Misuse


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://h/a/b.tar.gz?x=/y#z", "b.tar.gz"),
        ("http://h", "index.html"),
        ("http://h/a/", "index.html"),
        ("http://h/%2e%2e", "index.html"),
        ("http://h/..%2f..%2fetc%2fpasswd", "_.._.._etc_passwd"),
        ("http://h/..%5cx", "_.._x"),
        ("http://h/.bashrc", "_.bashrc"),
        ("http://h/a%00%1b[31m%0a", "a__[31m_"),
        ("http://h/%E2%80%AEfdp.exe", "_fdp.exe"),
        ("http://h/CON.txt", "_CON.txt"),
        ("http://h/console", "console"),
        ("http://h/d%C3%A9j%C3%A0%20vu.txt", "déjà vu.txt"),
        ("http://h/x.", "x"),
    ],
)
def test_a_url_names_a_file_in_this_directory(url: str, name: str) -> None:
    assert name_from_url(url) == name


@settings(deadline=None)
@given(st.text(max_size=400))
def test_whatever_is_given_a_safe_name_is_one_name(given_: str) -> None:
    name = safe_name(given_)
    assert name not in ("", ".", "..")
    assert not set(name) & set('/\\:*?"<>|')
    assert name.isprintable()
    assert not name.startswith(".")
    assert len(name.encode()) <= LONGEST_BYTES + 1
    assert os.path.basename(name) == name
    assert safe_name(name) == name


@settings(deadline=None)
@given(st.text(max_size=100))
def test_whatever_a_header_says_nothing_breaks(header: str) -> None:
    name = name_from_header(f"attachment; filename={header}")
    assert name is None or safe_name(name) == name


def test_a_long_name_keeps_its_ending() -> None:
    name = safe_name("é" * 300 + ".tar")
    assert name == "é" * 98 + ".tar"


@pytest.mark.parametrize("header", ["inline", 'attachment; filename=""', "attachment", "", ";;;"])
def test_a_header_without_a_name_gives_none(header: str) -> None:
    assert name_from_header(header) is None


def test_a_windows_path_in_a_header_is_cut_to_its_name() -> None:
    assert name_from_header(r'attachment; filename="C:\\dir\\a.txt"') == "a.txt"


def test_a_list_has_urls_names_and_comments() -> None:
    wanted = list(read_list(io.StringIO("\ufeffhttp://h/1\n# no\n\n http://h/2\tmy name \n"), "list"))
    assert [(each.url, each.name, each.source) for each in wanted] == [
        ("http://h/1", None, "list, line 1"),
        ("http://h/2", "my name", "list, line 4"),
    ]


@pytest.mark.parametrize("name", ["../x", "/x", "..", "a/b", "a\x1bb"])
def test_a_name_in_a_list_must_not_lead_elsewhere(name: str) -> None:
    with pytest.raises(Misuse, match=r"line 1: .* must be the name of a file"):
        list(read_list(io.StringIO(f"http://h/1 {name}\n"), "list"))


def test_a_list_that_is_no_text_is_misuse() -> None:
    with pytest.raises(Misuse, match="list: not a text file in UTF-8"):
        list(read_list(io.TextIOWrapper(io.BytesIO(b"\xff\xfe\x00"), encoding="utf-8"), "list"))


MD5, SHA1, SHA256, SHA512 = "a" * 32, "b" * 40, "C" * 64, "d" * 128


def test_checksums_are_read_as_the_tools_write_them() -> None:
    text = f"{MD5}  one\n{SHA1} *dir/two\r\n# a comment\n\nSHA256 (three (3)) = {SHA256}\n\\{SHA512}  fo\\\\ur\\n\n"
    assert read_checksums(io.StringIO(text), "SUMS") == {
        "one": f"md5:{MD5}",
        "two": f"sha1:{SHA1}",
        "three (3)": f"sha256:{SHA256.lower()}",
        "fo\\ur\n": f"sha512:{SHA512}",
    }


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "SUMS: no checksums in it"),
        ("hello", "SUMS, line 1: not a checksum and a name"),
        ("abc  x", "SUMS, line 1: 3 hexadecimal digits are no checksum"),
        (f"SHA1 (x) = {MD5}", "SUMS, line 1: 32 hexadecimal digits"),
        (f"{MD5}  x\n{MD5[:-1]}b  x", "SUMS, line 2: another checksum for 'x' than before"),
    ],
)
def test_wrong_checksums_are_named_by_line(text: str, complaint: str) -> None:
    with pytest.raises(Misuse) as caught:
        read_checksums(io.StringIO(text), "SUMS")
    assert complaint in caught.value.message
    assert caught.value.exit_code == 2


def test_a_wrong_url_is_told_without_its_secrets() -> None:
    with pytest.raises(Misuse) as caught:
        check_url("http://user:geheim@[::1/?token=geheim", "argument 1")
    assert "argument 1" in caught.value.message
    assert "geheim" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "rate"), [("10", 10.0), ("10/s", 10.0), ("0.5/s", 0.5), ("300/min", 5.0), ("60/m", 1.0), ("1800/h", 0.5)]
)
def test_a_rate_is_requests_in_a_time(text: str, rate: float) -> None:
    assert _rate(None, None, text) == rate  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "10/d", "1e3", "nan", "inf", "9" * 400])
def test_a_wrong_rate_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not like 10/s"):
        _rate(None, None, text)  # type: ignore[arg-type]


def _from(cause: BaseException) -> httpx.ConnectError:
    error = httpx.ConnectError("no", request=httpx.Request("GET", "http://h"))
    error.__cause__ = cause
    return error


def _garbled(said: str) -> httpx.RemoteProtocolError:
    return httpx.RemoteProtocolError(said, request=httpx.Request("GET", "http://h"))


UNTRUSTED = ssl.SSLCertVerificationError(1, "certificate verify failed")
UNTRUSTED.verify_message = "self-signed certificate"


@pytest.mark.parametrize(
    ("error", "again", "words"),
    [
        (_from(socket.gaierror(socket.EAI_NONAME, "Name or service not known")), False, "there is no such host"),
        (_from(socket.gaierror(socket.EAI_AGAIN, "Temporary failure")), True, "can't be looked up now"),
        (_from(UNTRUSTED), False, "the certificate can't be trusted: self-signed certificate"),
        (_from(OSError(errno.ECONNREFUSED, "x")), True, "no connection: Connection refused"),
        (_from(ExceptionGroup("", [OSError(errno.ENETUNREACH, "x")])), True, "no connection: Network is unreachable"),
        (trioresil.httpx.CircuitOpenError("h", None), True, "circuit open"),
        (trioresil.httpx.CircuitIsolatedError("h"), False, "circuit open"),
        (trioresil.httpx.PoolClosedError("h"), False, ""),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            False,
            "No space left on device; make room, and run it again",
        ),
        (httpx.UnsupportedProtocol("x"), False, "it redirects to what is neither http:// nor https://"),
        (_garbled("Server disconnected without x"), True, "closed the connection without an answer"),
        (_garbled("<StreamReset>"), True, "the connection broke: <StreamReset>"),
        (_garbled("bad Content-Length"), True, "the answer is not valid HTTP: bad Content-Length"),
        (BlockingIOError(errno.EAGAIN, "x", "y"), False, "another download of this file is under way"),
    ],
)
def test_an_error_says_what_happened_and_whether_another_attempt_helps(
    error: Exception, again: bool, words: str
) -> None:
    assert worth_another(error) is again
    assert words in describe(error)


@pytest.mark.parametrize(("status", "again"), [(404, False), (403, False), (429, True), (500, False), (503, True)])
def test_an_answer_is_judged_as_a_download_judges_it(status: int, again: bool) -> None:
    request = httpx.Request("GET", "http://h")
    response = httpx.Response(status, headers={"retry-after": "7"}, request=request)
    error = httpx.HTTPStatusError("x", request=request, response=response)
    assert worth_another(error) is again
    assert describe(error) == f"the server answered {status} {response.reason_phrase} (Retry-After: 7)"


def test_a_success_without_the_file_is_told() -> None:
    request = httpx.Request("GET", "http://h")
    error = httpx.HTTPStatusError("x", request=request, response=httpx.Response(204, request=request))
    assert describe(error) == "the server answered 204 No Content, which is not the whole file"


def test_what_a_server_says_cannot_speak_to_the_terminal() -> None:
    error = httpx.RemoteProtocolError("bad\x1b]0;owned\x07 \n http://u:geheim@h/?q=geheim")
    assert describe(error) == "the answer is not valid HTTP: bad?]0;owned? http://h/"
    assert printable("a\x1b[2J\u202eb\tc") == "a?[2J?b c"


def test_figures_read_well() -> None:
    assert (times(1, "retry"), times(2, "retry"), times(0, "file")) == ("1 retry", "2 retries", "0 files")
    assert (duration(0.04), duration(99.96), duration(100), duration(3725)) == ("0.0 s", "100.0 s", "1:40", "1:02:05")


def test_without_the_extra_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from trioresil.cli import main

    for name in [name for name in sys.modules if name.startswith("trioresil.cli._") and name != "trioresil.cli._main"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setattr(sys, "argv", ["trioresil", "fetch", "http://h/x"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "the command line needs rich, which is in the extra `cli`: pip install 'trioresil[cli]'\n"
    )
