"""`trioresil watch` as a program, against real servers on loopback."""

from __future__ import annotations

import base64
import fcntl
import os
import pty
import re
import select
import signal
import socket
import ssl
import struct
import subprocess
import termios
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import trustme
from click.testing import CliRunner

from tests.cli._watching import PATIENCE, PROGRAM, ROOT, closed_port, documents, environment, http_server, run, running
from trioresil.cli import _commands

pytestmark = pytest.mark.slow


def one_line_of(text: str) -> str:
    """Return the one line that is all there is."""
    assert "Traceback" not in text
    [line] = text.splitlines()
    return line


# --- what it finds, and its exit codes -----------------------------------------------------------------------------------


def test_a_healthy_server_is_exit_code_0_and_a_line_for_each_check() -> None:
    with http_server() as server:
        ended = run("watch", "--count", "2", "--interval", "0.2", server.url)
    assert (ended.returncode, ended.stderr) == (0, "")
    first, second, end = ended.stdout.splitlines()
    number = r"[\d.]+ m?s"
    assert re.fullmatch(rf"\d\d:\d\d:\d\d  UNKNOWN    {server.url} +{number}  p50 {number}, p99 {number}", first)
    assert re.fullmatch(rf"\d\d:\d\d:\d\d  HEALTHY    {server.url} .*  was UNKNOWN", second)
    assert end == "1 of 1 healthy"
    assert [path for path, _ in server.asked] == ["/", "/"]


def test_a_sick_one_among_healthy_ones_is_exit_code_1_and_is_named() -> None:
    nobody = f"tcp://127.0.0.1:{closed_port()}"
    with http_server() as server:
        ended = run("watch", "--count", "1", server.url, nobody)
    assert (ended.returncode, ended.stderr) == (1, "")
    assert re.search(rf"UNHEALTHY  {nobody} +failed  was UNKNOWN  Connection refused\n", ended.stdout)
    assert ended.stdout.splitlines()[-1] == f"1 of 2 healthy; {nobody} is UNHEALTHY"


def test_every_kind_of_target_is_asked_as_often_as_wanted(tmp_path: Path) -> None:
    ca = trustme.CA()
    certificate = ca.issue_cert("localhost", "127.0.0.1", not_after=datetime.now(UTC) + timedelta(days=20, hours=1))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with http_server(context) as secure, http_server() as bare:
        urls = [
            f"https://localhost:{secure.port}/",
            f"tls://127.0.0.1:{secure.port}",
            f"tcp://127.0.0.1:{bare.port}",
            "dns://localhost",
            f"{bare.url}/health",
        ]
        options = ["--count", "3", "--interval", "0.2", "--ca-file", str(tmp_path / "ca.pem"), "--json"]
        ended = run("watch", *options, *urls)
    assert (ended.returncode, ended.stderr) == (0, "")
    *checks, end = documents(ended.stdout)
    assert end["type"] == "end"
    assert end["reason"] == "count"
    assert end["healthy"] is True
    assert end["states"] == dict.fromkeys(urls, "healthy")
    for url in urls:
        of_it = [each for each in checks if each["target"] == url]
        assert [each["state"] for each in of_it] == ["unknown", "healthy", "healthy"]
        assert [each["previous"] for each in of_it] == ["unknown", "unknown", "healthy"]
        assert [each["consecutive"] for each in of_it] == [1, 2, 3]
        assert all(each["passed"] and each["error"] is None and 0 < each["seconds"] < 5 for each in of_it)
        assert of_it[1]["since"] == of_it[2]["since"] == of_it[1]["at"] > of_it[0]["since"]
        assert ("days_left" in of_it[0]) == url.startswith("tls")
    [first, *_] = [each for each in checks if each["target"].startswith("tls")]
    assert 20 < first["days_left"] < 20.05


def test_a_certificate_that_ends_soon_or_is_nobodys_is_unhealthy() -> None:
    ca = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1", not_after=datetime.now(UTC) + timedelta(days=20)).configure_cert(context)
    with http_server(context) as server:
        ended = run(
            "watch", "--count", "1", "--json", f"tls://127.0.0.1:{server.port}", f"https://127.0.0.1:{server.port}"
        )
        found = {each["target"][:5]: each["error"] for each in documents(ended.stdout)[:-1]}
        with ca.cert_pem.tempfile() as ca_file:
            options = ["--count", "1", "--json", "--ca-file", ca_file, "--min-days-left", "20.5"]
            late = run("watch", *options, f"tls://127.0.0.1:{server.port}")
    assert ended.returncode == late.returncode == 1
    refused = "the certificate is refused: unable to get local issuer certificate"
    assert found == {"tls:/": refused, "https": refused}
    assert re.fullmatch(
        r"the certificate ends in (?:20.0|19.9) days, and 20.5 are asked for", documents(late.stdout)[0]["error"]
    )


def test_what_does_not_answer_in_time_has_failed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        ended = run("watch", "--count", "1", "--timeout", "0.3", "--json", url)
    check, _end = documents(ended.stdout)
    assert ended.returncode == 1
    assert (check["passed"], check["error"]) == (False, "no answer within 0.3 s")
    assert 0.3 <= check["seconds"] < 3


def test_a_name_that_nobody_has_is_unhealthy_and_no_traceback() -> None:
    ended = run(
        "watch", "--count", "1", "--json", "http://nobody.invalid/", "dns://nobody.invalid", "tcp://nobody.invalid:1"
    )
    assert (ended.returncode, ended.stderr) == (1, "")
    errors = {each["error"] for each in documents(ended.stdout)[:-1]}
    assert errors <= {
        "Name or service not known",
        "Temporary failure in name resolution",
        "No address associated with hostname",
    }


def test_until_healthy_waits_for_a_server_to_recover() -> None:
    with http_server() as server:
        server.status = 503
        with running("watch", "--until-healthy", "--interval", "0.2", "--json", server.url) as process:
            assert process.stdout is not None
            [first] = documents(process.stdout.readline())
            server.status = 200
            output, errors = process.communicate(timeout=PATIENCE)
    *checks, end = documents(output)
    assert (first["passed"], first["error"]) == (False, "the status is 503, not in 2xx, 3xx")
    assert (process.returncode, errors) == (0, "")
    assert (checks[-1]["state"], end["reason"]) == ("healthy", "healthy")


def test_until_healthy_gives_up_after_the_total_timeout() -> None:
    nobody = f"tcp://127.0.0.1:{closed_port()}"
    options = ["--until-healthy", "--total-timeout", "0.5", "--interval", "0.1", "--json"]
    ended = run("watch", *options, nobody)
    *checks, end = documents(ended.stdout)
    assert (ended.returncode, ended.stderr) == (1, "")
    assert len(checks) >= 2
    assert (end["reason"], end["states"]) == ("total timeout", {nobody: "unhealthy"})


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_the_line_of_the_end(number: signal.Signals, code: int) -> None:
    with http_server() as server, running("watch", "--interval", "0.1", "--json", server.url) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (code, "")
    assert documents(output)[-1]["reason"] == "signal"


# --- output that goes wrong ----------------------------------------------------------------------------------------------


def test_a_reader_that_leaves_ends_it_quietly() -> None:
    with http_server() as server, running("watch", "--interval", "0.1", server.url) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(PATIENCE) == 141


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_lead_nowhere(closed: str) -> None:
    with http_server() as server:
        line = f'"$@" watch --count 2 --interval 0.05 --json --serve 127.0.0.1:0 {server.url} {closed}'
        ended = subprocess.run(
            ["sh", "-c", line, "sh", *PROGRAM],
            capture_output=True,
            cwd=ROOT,
            env=environment(),
            timeout=PATIENCE,
            check=False,
        )
    assert ended.returncode == 0
    assert b"Traceback" not in ended.stderr
    assert b"the live page" not in ended.stdout
    assert len(server.asked) == 2


def test_a_target_is_never_asked_more_often_than_wanted_however_often_that_is() -> None:
    with http_server() as server:
        slow, fast = server.url, [f"tcp://127.0.0.1:{server.port}", f"tcp://127.0.0.1:{closed_port()}"]
        ended = run("watch", "--count", "3", "--interval", "0.000001", "--json", slow, *fast)
    assert (ended.returncode, ended.stderr) == (1, "")
    asked = [each["target"] for each in documents(ended.stdout)[:-1]]
    assert {target: asked.count(target) for target in asked} == dict.fromkeys([slow, *fast], 3)


def test_a_full_disk_is_told_in_a_line() -> None:
    with http_server() as server, open("/dev/full", "w") as full:
        with running("watch", "--count", "1", server.url, stdout=full) as process:
            _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert one_line_of(errors) == "Error: standard output can't be written: No space left on device"


def test_secrets_go_to_the_server_and_nowhere_else(tmp_path: Path) -> None:
    with http_server() as server:
        url = f"http://alice:hunter2@127.0.0.1:{server.port}/health?key=s3cret"
        file = tmp_path / "targets.toml"
        file.write_text(f'[[target]]\nurl = "{url}&more"\nheaders = {{ x-api-key = "t0ken" }}\n', encoding="utf-8")
        server.status = 401
        ended = run("watch", "--count", "1", "--json", "--targets", str(file), url)
        plain = run("watch", "--count", "1", "--targets", str(file), url)
    assert ended.returncode == plain.returncode == 1
    for secret in ("hunter2", "alice", "s3cret", "t0ken"):
        assert secret not in ended.stdout + ended.stderr + plain.stdout + plain.stderr
    names = {each["target"] for each in documents(ended.stdout)[:-1]}
    assert names == {f"http://127.0.0.1:{server.port}/health", f"http://127.0.0.1:{server.port}/health #2"}
    paths, headers = zip(*server.asked, strict=True)
    assert set(paths) == {"/health?key=s3cret", "/health?key=s3cret&more"}
    basic = "Basic " + base64.b64encode(b"alice:hunter2").decode()
    lowered = [{name.lower(): value for name, value in each.items()} for each in headers]
    assert all(each["authorization"] == basic for each in lowered)
    assert sum(each.get("x-api-key") == "t0ken" for each in lowered) == 2


# --- wrong use -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "there is nothing to watch: name a URL, or a file with --targets"),
        (["example.com"], "'example.com' is not a URL: it must begin with https://"),
        (["http://u:hunter2@[::1"], "'http://[::1' is not a URL: Invalid IPv6 URL"),
        (["--targets", "/nowhere/at-all.toml"], "/nowhere/at-all.toml can't be read: No such file or directory"),
        (["--targets", "/"], "/ can't be read: Is a directory"),
        (["--ca-file", "/nowhere.pem", "tls://localhost"], "the CA file /nowhere.pem can't be used: No such file"),
        (["--ca-file", "/dev/null", "tls://localhost"], "the CA file /dev/null can't be used: "),
        (["--count", "1", "--rise", "2", "dns://localhost"], "dns://localhost can't become healthy: rise is 2"),
        (["--expect-status", "ok", "dns://localhost"], "Error: --expect-status must be like 200, 2xx or 200-299"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(arguments: list[str], told: str) -> None:
    ended = CliRunner().invoke(_commands.trioresil, ["watch", *arguments])
    assert (ended.exit_code, ended.stdout) == (2, "")
    line = one_line_of(ended.stderr)
    assert line.startswith("Error: ")
    assert told in line
    assert "hunter2" not in line


def test_authorities_in_the_environment_that_are_not_there_are_told_if_they_are_needed() -> None:
    told = run("watch", "--count", "1", "http://127.0.0.1:1", SSL_CERT_FILE="/nowhere.pem")
    assert told.returncode == 2
    assert one_line_of(told.stderr) == (
        "Error: the CA file /nowhere.pem, of SSL_CERT_FILE in the environment, can't be used: No such file or directory"
    )
    needless = run("watch", "--count", "1", "tcp://127.0.0.1:1", SSL_CERT_FILE="/nowhere.pem")
    assert (needless.returncode, needless.stderr) == (1, "")


def test_a_dead_proxy_of_the_environment_is_named() -> None:
    proxy = f"127.0.0.1:{closed_port()}"
    told = run("watch", "--count", "1", "http://a.example/", HTTP_PROXY=f"http://u:hunter2@{proxy}", NO_PROXY="")
    assert told.returncode == 1
    assert f"no connection to the proxy {proxy}: Connection refused" in told.stdout
    assert "hunter2" not in told.stdout + told.stderr


def test_a_bad_file_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "targets.toml"
    file.write_text("interval = 5\n[[target]\n", encoding="utf-8")
    ended = run("watch", "--targets", str(file))
    assert ended.returncode == 2
    assert re.fullmatch(rf"Error: {file} is not a TOML file: .*at line 2, column \d+\)", one_line_of(ended.stderr))


# --- on a terminal -------------------------------------------------------------------------------------------------------


def on_a_terminal(*arguments: str, columns: int = 80, lines: int = 24, **more: str) -> tuple[int, str]:
    """Run the program on a terminal of this size; return its exit code and all that it wrote."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    with subprocess.Popen(
        [*PROGRAM, *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment(**more),
        cwd=ROOT,
    ) as process:
        os.close(slave)
        written = b""
        while True:
            try:
                read = os.read(master, 65536)
            except OSError:  # how Linux says that nobody has the terminal open any more
                break
            if not read:
                break
            written += read
        code = process.wait(PATIENCE)
    os.close(master)
    return code, written.decode()


def frames_of(written: str) -> list[str]:
    plain = re.sub(r"\x1b\[[0-9]*[AK]", "", written).replace("\r", "\n")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", plain)
    return ["trioresil watch" + each for each in plain.split("trioresil watch")[1:]]


def test_a_terminal_shows_a_live_table_that_stays() -> None:
    nobody = f"tcp://127.0.0.1:{closed_port()}"
    with http_server() as server:
        code, written = on_a_terminal("watch", "--count", "6", "--interval", "0.2", server.url, nobody)
    frames = frames_of(written)
    assert code == 1
    assert "Traceback" not in written
    assert len(frames) >= 5
    assert "STARTING  0 of 2 healthy" in frames[0]
    last = frames[-1]
    assert "NOT HEALTHY  1 of 2 healthy" in last
    assert re.search(rf"● HEALTHY    {server.url} +[▁▂▃▄▅▆▇█]{{6}} +(?:[\d.]+ m?s +){{3}}\ds\s", last)
    assert re.search(rf"✖ UNHEALTHY  {nobody} +×{{6}} +failed +- +- +\ds\n+└ Connection refused\n", last)
    assert max(len(line) for frame in frames for line in frame.splitlines()) <= 80
    assert "\x1b[32m" in written  # colour
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l") >= 0  # the cursor is shown again


def test_a_terminal_without_colour_has_none() -> None:
    with http_server() as server:
        code, written = on_a_terminal("watch", "--count", "1", server.url, NO_COLOR="1")
    assert code == 0
    assert "● HEALTHY" in written
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", written)


def test_a_dumb_terminal_gets_lines() -> None:
    with http_server() as server:
        code, written = on_a_terminal("watch", "--count", "1", server.url, TERM="dumb")
    assert code == 0
    assert "\x1b" not in written
    assert written.splitlines()[-1] == "1 of 1 healthy"


def test_a_pipe_gets_lines_even_if_colour_is_forced() -> None:
    with http_server() as server:
        ended = run("watch", "--count", "1", server.url, FORCE_COLOR="1")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "\x1b" not in ended.stdout
    assert ended.stdout.splitlines()[-1] == "1 of 1 healthy"


@pytest.mark.slow
def test_a_terminal_that_is_stopped_does_not_stop_the_watch() -> None:
    master, slave = pty.openpty()
    termios.tcflow(slave, termios.TCOOFF)  # as Ctrl-S does
    options = {"stdin": slave, "stdout": slave, "stderr": slave}
    try:
        with (
            http_server() as server,
            running("watch", "--count", "5", "--interval", "0.2", server.url, **options) as it,
        ):
            assert it.wait(PATIENCE) == 0
        assert len(server.asked) == 5
        assert select.select([master], [], [], 0)[0] == []  # the terminal was stopped indeed
    finally:
        os.close(master)
        os.close(slave)


# --- the live page -------------------------------------------------------------------------------------------------------


def test_serve_shows_the_same_health_over_http() -> None:
    nobody = f"tcp://127.0.0.1:{closed_port()}"
    with http_server() as server:
        arguments = ["watch", "--serve", "127.0.0.1:0", "--interval", "0.2", "--rise", "1", "--fall", "1", "--json"]
        with running(*arguments, server.url, nobody) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            page = process.stderr.readline().removeprefix("the live page: ").strip()
            for _ in range(4):  # by then both have been asked
                process.stdout.readline()
            with httpx.Client(base_url=page, trust_env=False) as client:
                health = client.get("/healthz")
                home = client.get("/")
                metrics = client.get("/metrics")
                deadline = time.monotonic() + PATIENCE
                wanted = {server.url: "healthy", nobody: "unhealthy"}
                while (shown := rows_of(client)) != wanted and time.monotonic() < deadline:
                    time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert (health.status_code, health.json()["status"]) == (503, "fail")
    checks = {name.removesuffix(":responseTime"): each["status"] for name, [each] in health.json()["checks"].items()}
    assert checks == {server.url: "pass", nobody: "fail"}
    assert home.status_code == 200
    assert home.headers["content-type"].startswith("text/html")
    host = httpx.URL(server.url).netloc.decode()
    lines = [each for each in metrics.text.splitlines() if each.startswith("trioresil_health_check_state{")]
    assert any(host in each and 'state="healthy"' in each and each.endswith(" 1.0") for each in lines)
    assert shown == wanted


def rows_of(client: httpx.Client) -> dict[str, str]:
    """What the live page tells of the checks."""
    policies = client.get("/api/state").json()["policies"]
    return {row["name"]: row["state"] for each in policies if each["kind"] == "health" for row in each["f"]["rows"]}


def test_a_port_that_is_taken_is_told_in_a_line() -> None:
    with http_server() as server:
        ended = run("watch", "--serve", f"127.0.0.1:{server.port}", "dns://localhost")
    assert ended.returncode == 2
    assert one_line_of(ended.stderr) == f"Error: --serve 127.0.0.1:{server.port}: Address already in use"


def test_other_machines_see_the_page_only_with_a_token() -> None:
    ended = run("watch", "--serve", "0.0.0.0:0", "dns://localhost")
    assert ended.returncode == 2
    line = one_line_of(ended.stderr)
    assert line.startswith("Error: --serve 0.0.0.0:0: ")
    assert line.endswith("give it with --token or in TRIORESIL_TOKEN")


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1", "localhost:99999", "http://localhost:80", "a b:80"])
def test_an_address_to_serve_at_has_a_host_and_a_port(address: str) -> None:
    ended = CliRunner().invoke(_commands.trioresil, ["watch", "--serve", address, "dns://localhost"])
    assert ended.exit_code == 2
    assert f"Invalid value for '--serve': {address!r} is not like 127.0.0.1:8080, [::1]:8080 or 8080." in ended.stderr
