"""`trioresil fetch` as a program, against servers that misbehave."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pty
import re
import resource
import signal
import stat
import struct
import subprocess
import termios
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner

from tests.cli._fetch import PATIENCE, PROGRAM, environment, fetch, read_all, serve, start
from tests.http._file_site import FileSite
from tests.http._raw_server import Connection, RawServer, silent
from trioresil.cli import _fetch_run
from trioresil.cli._fetch_command import fetch as command
from trioresil.cli._fetch_errors import worth_another
from trioresil.cli._fetch_plan import Wanted, make_orders
from trioresil.cli._fetch_run import FetchRun, Job, Settings

CONTENT = bytes(range(256)) * 4_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()

pytestmark = pytest.mark.slow


@pytest.fixture
async def servers() -> AsyncIterator[trio.Nursery]:
    async with trio.open_nursery() as nursery:
        yield nursery
        nursery.cancel_scope.cancel()


async def test_a_file_comes_whole_through_a_server_that_breaks_off(servers: trio.Nursery, tmp_path: Path) -> None:
    site = FileSite(CONTENT, cuts=[300_000, 400_000])
    server = await serve(servers, site)
    ended = await fetch(f"{server.url}/data.bin", "--checksum", f"sha256:{SHA256}", "--json", cwd=tmp_path)
    assert ended.code == 0
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert os.listdir(tmp_path) == ["data.bin"]
    [file] = ended.files
    assert (file["outcome"], file["resumed"], file["requests"]) == ("saved", 2, 3)
    assert [each["reason"] for each in file["retries"]] == ["the connection broke in the middle"] * 2
    assert [each.get("range") for each in site.asked] == [None, "bytes=300000-", "bytes=700000-"]
    assert "2 x  " + server.url + "  the connection broke in the middle\n" in ended.err
    assert "saved   data.bin" in ended.err
    assert "\x1b" not in ended.err


async def test_ctrl_c_keeps_what_has_come_and_says_how_to_go_on(servers: trio.Nursery, tmp_path: Path) -> None:
    site = FileSite(CONTENT)
    server = await serve(servers, site, pause=0.15, soon_quick=True)
    arguments = [f"{server.url}/data.bin", "--json"]
    process = await start(*arguments, cwd=tmp_path)
    part = tmp_path / "data.bin.part"
    with trio.fail_after(PATIENCE):
        while not part.exists() or not part.stat().st_size:  # noqa: ASYNC110 - it is another process that writes
            await trio.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = await read_all(process.stdout), await read_all(process.stderr)
        assert await process.wait() == 130
    assert "Traceback" not in err
    assert not (tmp_path / "data.bin").exists()
    kept = part.stat().st_size
    assert 0 < kept < len(CONTENT)
    assert "unfinished; kept in data.bin.part: " in err
    assert "run the same command again, and it goes on from there" in err
    assert '"outcome": "unfinished"' in out
    assert '"part": "./data.bin.part"' in out

    ended = await fetch(*arguments, cwd=tmp_path)
    assert ended.code == 0
    assert site.asked[-1]["range"] == f"bytes={kept}-"
    assert ended.files[0]["kept_bytes"] == kept
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


async def test_sigterm_ends_it_in_the_same_way(servers: trio.Nursery, tmp_path: Path) -> None:
    server = await RawServer(silent).start(servers)
    process = await start(f"{server.url}/data.bin", cwd=tmp_path)
    with trio.fail_after(PATIENCE):
        await server.wait(lambda server: server.accepted > 0)
        process.send_signal(signal.SIGTERM)
        err = await read_all(process.stderr)
        assert await process.wait() == 143
    assert "cut off data.bin  unfinished; nothing can be kept of it" in err
    assert os.listdir(tmp_path) == []


async def test_one_failure_among_many_is_told_and_ends_with_1(servers: trio.Nursery, tmp_path: Path) -> None:
    async def missing(connection: Connection) -> None:
        while await connection.request() is not None:
            await connection.respond(status="404 Not Found")

    good, bad = await serve(servers, FileSite(CONTENT)), await RawServer(missing).start(servers)
    ended = await fetch(f"{good.url}/a", f"{bad.url}/b", f"{good.url}/c", "--dir", "new/dir", "--json", cwd=tmp_path)
    assert ended.code == 1
    assert [each["outcome"] for each in ended.files] == ["saved", "failed", "saved"]
    assert ended.files[1]["error"] == "the server answered 404 Not Found"
    assert sorted(os.listdir(tmp_path / "new" / "dir")) == ["a", "c"]
    assert "2 of 3 files saved, 1 failed" in ended.err
    assert ended.summary["failed"] == 1
    assert bad.count("GET") == 1


async def test_an_unreachable_host_is_tried_as_often_as_told(tmp_path: Path) -> None:
    with trio.socket.socket() as unused:
        await unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        ended = await fetch(f"http://{address}/x", "--max-attempts", "2", cwd=tmp_path)
    assert ended.code == 1
    assert f"FAILED  x  no connection to {address}: Connection refused, after 2 attempts\n" in ended.err
    assert f"1 retry, 0.{ended.err.split('1 retry, 0.')[1][0]} s of waiting in all:" in ended.err
    assert os.listdir(tmp_path) == []


async def test_a_total_timeout_keeps_the_part(servers: trio.Nursery, tmp_path: Path) -> None:
    server = await serve(servers, FileSite(CONTENT), pause=0.2)
    ended = await fetch(f"{server.url}/x", "--total-timeout", "0.8", cwd=tmp_path)
    assert ended.code == 1
    assert "FAILED  x  not whole within 0.8 s" in ended.err
    assert "; kept in x.part: " in ended.err


async def test_a_silent_server_costs_a_timeout_for_each_attempt(servers: trio.Nursery, tmp_path: Path) -> None:
    server = await RawServer(silent).start(servers)
    ended = await fetch(f"{server.url}/x", "--timeout", "0.3", "--max-attempts", "2", cwd=tmp_path)
    assert ended.code == 1
    assert server.accepted == 2
    assert "after 2 attempts" in ended.err


async def test_a_full_disk_is_told_in_a_line_and_the_part_stays(servers: trio.Nursery, tmp_path: Path) -> None:
    server = await serve(servers, FileSite(CONTENT))

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    ended = await fetch(f"{server.url}/data.bin", "--json", cwd=tmp_path, preexec_fn=small)
    assert ended.code == 1
    assert ended.files[0]["error"] == "File too large"
    assert (tmp_path / "data.bin.part").stat().st_size == 300_000
    again = await fetch(f"{server.url}/data.bin", cwd=tmp_path)
    assert again.code == 0
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


async def test_a_wrong_checksum_leaves_nothing(servers: trio.Nursery, tmp_path: Path) -> None:
    server = await serve(servers, FileSite(CONTENT))
    ended = await fetch(f"{server.url}/x", "--checksum", "sha256:" + "0" * 64, cwd=tmp_path)
    assert ended.code == 1
    assert "should have sha256:0000" in ended.err
    assert os.listdir(tmp_path) == []


async def test_a_checksums_file_is_obeyed(servers: trio.Nursery, tmp_path: Path) -> None:
    server = await serve(servers, FileSite(CONTENT))
    (tmp_path / "SUMS").write_text(f"{SHA256}  good\n{'0' * 64} *bad\n")
    arguments = ["--checksums", "SUMS", "--dir", "out", f"{server.url}/good"]
    ended = await fetch(*arguments, f"{server.url}/bad", cwd=tmp_path)
    assert ended.code == 1
    assert os.listdir(tmp_path / "out") == ["good"]
    unlisted = await fetch(*arguments, f"{server.url}/other", cwd=tmp_path)
    assert (unlisted.code, unlisted.err) == (2, "Error: --checksums has none for 'other'\n")


async def test_what_is_there_is_left_unless_told(servers: trio.Nursery, tmp_path: Path) -> None:
    site = FileSite(CONTENT)
    server = await serve(servers, site)
    there = tmp_path / "x"
    there.write_text("mine")
    ended = await fetch(f"{server.url}/x", "--json", cwd=tmp_path)
    assert (ended.code, ended.files[0]["outcome"], there.read_text(), site.asked) == (0, "present", "mine", [])
    checked = await fetch(f"{server.url}/x", "--checksum", f"sha256:{SHA256}", cwd=tmp_path)
    assert (checked.code, there.read_text()) == (1, "mine")
    assert "x is there, and has another checksum (--overwrite replaces it)" in checked.err
    assert (await fetch(f"{server.url}/x", "--overwrite", cwd=tmp_path)).code == 0
    assert there.read_bytes() == CONTENT
    assert (await fetch(f"{server.url}/x", "--checksum", f"sha256:{SHA256}", cwd=tmp_path)).code == 0


async def test_a_name_of_the_servers_stays_in_the_directory(servers: trio.Nursery, tmp_path: Path) -> None:
    named = {
        'attachment; filename="../../../evil.sh"': "evil.sh",
        "attachment; filename=/etc/cron.d/evil": "evil",
        "attachment; filename*=UTF-8''..%2F..%2F.bashrc": "_.bashrc",
        'attachment; filename=".."': "index.html",
        "inline": "4",
    }
    headers = list(named)

    async def script(connection: Connection) -> None:
        while (received := await connection.request()) is not None:
            header = headers[int(received.target[1:])]
            if received.method == "HEAD":
                answer = f"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Disposition: {header}\r\n\r\n"
                await connection.send(answer.encode())
            else:
                await connection.respond(received.target[1:].encode())

    server = await RawServer(script).start(servers)
    (tmp_path / "a" / "b").mkdir(parents=True)
    urls = [f"{server.url}/{number}" for number in range(len(headers))]
    ended = await fetch("-O", *urls, "--dir", "a/b", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert {each: (tmp_path / each).read_text() for each in files_under(tmp_path)} == {
        f"a/b/{name}": str(number) for number, name in enumerate(named.values())
    }


def files_under(root: Path) -> list[str]:
    return [each.relative_to(root).as_posix() for each in root.rglob("*") if each.is_file()]


async def test_two_files_that_the_server_calls_the_same_are_told(servers: trio.Nursery, tmp_path: Path) -> None:
    one, other = [await serve(servers, FileSite(CONTENT)) for _ in range(2)]
    ended = await fetch("-O", f"{one.url}/same", f"{other.url}/same", "--json", cwd=tmp_path)
    assert ended.code == 1
    assert sorted(each["outcome"] for each in ended.files) == ["failed", "saved"]
    assert "another URL of this run is saved as 'same'" in ended.err


async def test_a_host_gets_no_more_downloads_at_once_than_told(servers: trio.Nursery, tmp_path: Path) -> None:
    server = await serve(servers, FileSite(bytes(100_000)), pause=0.05)
    other = await serve(servers, FileSite(bytes(100_000)))
    urls = [f"{server.url}/{number}" for number in range(12)]
    urls += [f"{other.url}/{number}-quick" for number in range(3)]
    ended = await fetch(*urls, "--per-host", "2", "--workers", "3", "--json", cwd=tmp_path)
    assert ended.code == 0
    assert server.most_open == 2
    numbers = [json.loads(line).get("number") for line in ended.out.splitlines()]
    assert all(numbers.index(quick) < 7 for quick in (13, 14, 15))  # not behind the twelve of a busy host


async def test_where_redirects_lead_gets_no_more_either(servers: trio.Nursery, tmp_path: Path) -> None:
    target = await serve(servers, FileSite(bytes(100_000)), pause=0.05)

    async def elsewhere(connection: Connection) -> None:
        while (received := await connection.request()) is not None:
            await connection.respond(status="302 Found", headers=[("Location", target.url + received.target)])

    doors = [await RawServer(elsewhere).start(servers) for _ in range(6)]
    ended = await fetch(*[f"{door.url}/{door.port}" for door in doors], "--per-host", "1", cwd=tmp_path)
    assert ended.code == 0
    assert sorted(os.listdir(tmp_path)) == sorted(str(door.port) for door in doors)
    assert target.most_open == 1


async def test_a_server_without_head_is_asked_for_the_name_by_get(servers: trio.Nursery, tmp_path: Path) -> None:
    async def script(connection: Connection) -> None:
        while (received := await connection.request()) is not None:
            if received.method == "HEAD":
                await connection.send(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")
            else:
                await connection.respond(headers=[("Content-Disposition", "attachment; filename=named")])

    server = await RawServer(script).start(servers)
    assert (await fetch("-O", f"{server.url}/x", cwd=tmp_path)).code == 0
    assert os.listdir(tmp_path) == ["named"]
    assert [received.method for received in server.received] == ["HEAD", "GET", "GET"]


async def test_a_rate_spaces_all_requests(servers: trio.Nursery, tmp_path: Path) -> None:
    at: list[float] = []

    async def script(connection: Connection) -> None:
        while await connection.request() is not None:
            at.append(trio.current_time())
            await connection.respond()

    one, other = [await RawServer(script).start(servers) for _ in range(2)]
    urls = [f"{server.url}/{server.port}-{number}" for number in range(3) for server in (one, other)]
    assert (await fetch(*urls, "--rate", "300/min", cwd=tmp_path)).code == 0
    assert len(at) == 6
    assert at[-1] - at[0] >= 0.9  # five gaps of 0.2 s, but for a late start of the first


async def test_a_list_may_come_from_stdin_and_name_files(servers: trio.Nursery, tmp_path: Path) -> None:
    server = await serve(servers, FileSite(CONTENT))
    lines = f"# mirrors\n\n{server.url}/x\n  {server.url}/x   other name.bin\n"
    ended = await fetch("-i", "-", cwd=tmp_path, stdin=lines.encode())
    assert ended.code == 0
    assert sorted(os.listdir(tmp_path)) == ["other name.bin", "x"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "no URL: give at least one, or a list of them with --input"),
        (["ftp://user:geheim@h/x?token=geheim"], "argument 1: 'ftp://h/x' must begin with http:// or https://"),
        (["http://user:geheim@h:99999/x"], "argument 1: 'http://h:99999/x': the port must be from 1 to 65535"),
        (["http:///x"], "argument 1: 'http:///x' has no host"),
        (["example.com/x"], "argument 1: 'example.com/x' must begin with http:// or https://"),
        (["http://h/x", "http://g/x"], "two URLs would be saved as 'x': argument 1, and argument 2"),
        (["http://h/x", "http://g/x.part"], "two URLs would be saved as 'x.part': argument 1, and argument 2"),
        (["http://h/x", "http://h/y", "-o", "z"], "--output is for one URL, and there are 2"),
        (["http://h/x", "-o", "-"], "--output - is not possible"),
        (["http://h/x", "-o", "no/such"], "--output: there is no directory ./no"),
        (["http://h/x", "-o", "."], "is a directory"),
        (["http://h/x", "-o", ""], "--output must not be empty"),
        (["http://h/x", "-o", "/dev/null", "--overwrite"], "--output: /dev/null is a device or the like, and no file"),
        (["http://h/x", "--dir", ""], "--dir must not be empty"),
        (["http://h/\udcff"], "argument 1: 'http://h/?' is not a URL: it is not in UTF-8"),
        (["-i", "missing.txt"], "missing.txt: No such file or directory"),
        (["http://h/x", "--dir", "/dev/null/x"], "--dir: /dev/null/x: Not a directory"),
    ],
)
def test_misuse_is_one_line_and_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(command, arguments)
    assert ended.exit_code == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("Error: ")
    assert complaint in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "geheim" not in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--dir", "file"], "Invalid value for '--dir': Directory 'file' is a file."),
        (
            ["--checksum", "abc"],
            "'algorithm:hexadecimal' with an algorithm of hashlib, not 'abc'; it looks like sha256:9f",
        ),
        (["--checksum", "shake_128:00"], "must be 'algorithm:hexadecimal' with an algorithm of hashlib"),
        (["--checksum", "md5:00"], "must have 32 hexadecimal digits for md5, not 'md5:00'"),
        (["--timeout", "0"], "0.0 is not in the range x>0"),
    ],
)
def test_a_wrong_option_is_2_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    ended = CliRunner().invoke(command, ["http://h/x", *arguments])
    assert ended.exit_code == 2
    assert complaint in ended.stderr


async def test_misuse_ends_the_program_with_2_and_one_line(tmp_path: Path) -> None:
    ended = await fetch("-i", "-", "--json", cwd=tmp_path, stdin=b"\xff")
    assert (ended.code, ended.out, ended.err) == (
        2,
        "",
        "Error: stdin: not a text file in UTF-8 (invalid start byte)\n",
    )


def test_what_is_wrong_with_the_environment_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    ended = CliRunner().invoke(command, ["https://h/x"])
    assert ended.exit_code == 2
    assert "no client can be made: No such file or directory (look at " in ended.stderr
    assert "SSL_CERT_FILE" in ended.stderr.partition("look at")[2]


async def test_a_place_where_no_file_can_be_is_misuse(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    program = ["bash", "-c", 'rmdir "$PWD"; exec "$0" "$@"', *PROGRAM, "http://h/x"]
    ended = await trio.run_process(program, cwd=gone, env=environment(), capture_stderr=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr == b"Error: argument 1: there can be no file './x': No such file or directory\n"


async def test_a_locale_that_lacks_letters_is_told(tmp_path: Path) -> None:
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ended = await trio.run_process(
        [*PROGRAM, "http://h/%C3%BC"], cwd=tmp_path, env=environment(**locale), capture_stderr=True, check=False
    )
    assert ended.returncode == 2
    assert b"argument 1: there can be no file './\xc3\xbc': 'ascii' codec can't encode" in ended.stderr
    assert b"Traceback" not in ended.stderr


async def test_colours_that_are_forced_make_no_bars_of_lines(servers: trio.Nursery, tmp_path: Path) -> None:
    server = await serve(servers, FileSite(b"x"))
    ended = await trio.run_process(
        [*PROGRAM, f"{server.url}/x"], cwd=tmp_path, env=environment(FORCE_COLOR="1"), capture_stderr=True, check=False
    )
    assert ended.returncode == 0
    assert ended.stderr.startswith(b"\x1b[32msaved")
    assert b"\x1b[?25l" not in ended.stderr


async def test_a_name_of_the_servers_is_not_the_part_of_another_file(servers: trio.Nursery, tmp_path: Path) -> None:
    server = await serve(servers, FileSite(b"x"))
    ended = await fetch("-O", "-i", "-", cwd=tmp_path, stdin=f"{server.url}/1 data\n{server.url}/data.part\n".encode())
    assert ended.code == 1
    assert "FAILED  http" in ended.err
    assert "another URL of this run is saved as 'data.part'" in ended.err
    assert os.listdir(tmp_path) == ["data"]


async def test_a_file_that_another_program_downloads_is_left_to_it(servers: trio.Nursery, tmp_path: Path) -> None:
    server = await serve(servers, FileSite(CONTENT))
    (tmp_path / "x.part").write_bytes(b"of the other")
    (tmp_path / "x.part.json").write_text("{}")
    with open(tmp_path / "x.part", "rb") as part:  # noqa: ASYNC230 - opening it takes no time
        fcntl.flock(part, fcntl.LOCK_EX)
        ended = await fetch(f"{server.url}/x", cwd=tmp_path)
    assert ended.code == 1
    assert ended.err.startswith("FAILED  x  another download of this file is under way\n0 of 1 file saved")
    assert "kept" not in ended.err


async def test_overwriting_replaces_no_device_or_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    ended = await fetch("http://127.0.0.1:1/x", "--overwrite", cwd=tmp_path)
    assert ended.code == 1
    assert "FAILED  x  ./x is there, and is no file\n" in ended.err
    assert stat.S_ISFIFO((tmp_path / "x").stat().st_mode)


async def test_what_ctrl_c_cuts_off_has_not_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stop_first(error: Exception) -> bool:
        run.stop("Ctrl-C")
        return worth_another(error)

    class Watcher:
        def changed(self, job: Job) -> None:
            told.append(job.state)

    told: list[str] = []
    monkeypatch.setattr(_fetch_run, "worth_another", stop_first)
    orders = make_orders(
        [Wanted(url="http://127.0.0.1:1/x", source="")],
        output=None,
        directory=str(tmp_path),
        server_names=False,
        digest=None,
        checksums=None,
    )
    settings = Settings(
        max_attempts=9,
        timeout=PATIENCE,
        total_timeout=PATIENCE,
        rate=None,
        per_host=1,
        workers=1,
        directory=str(tmp_path),
        overwrite=False,
        checksums=None,
    )
    run = FetchRun(orders, settings, Watcher())
    await run.run()
    assert told == ["running", "unfinished"]


async def test_a_second_ctrl_c_waits_for_nobody(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    try:
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        urls = [f"http://127.0.0.1:1/{number}" for number in range(60)]
        process = await start(*urls, "--json", cwd=tmp_path, stdout=writer)
        assert process.stderr is not None
        err = b""
        with trio.fail_after(PATIENCE):
            while b"again" not in err:
                err += await process.stderr.receive_some()
            process.send_signal(signal.SIGINT)
            while b"0 of 60 files saved, 60 unfinished" not in err:
                piece = await process.stderr.receive_some()
                assert piece, err.decode()
                err += piece
            process.send_signal(signal.SIGINT)  # nobody reads the 60 lines of JSON, and it waits for that
            err += (await read_all(process.stderr)).encode()
            assert await process.wait() == 130
        assert b"Traceback" not in err
        assert 0 < len(os.read(reader, 100_000)) <= 4096
    finally:
        os.close(reader)
        os.close(writer)


async def test_secrets_are_used_and_never_shown(servers: trio.Nursery, tmp_path: Path) -> None:
    site = FileSite(CONTENT, cuts=[0])
    server = await serve(servers, site)
    url = server.url.replace("://", "://user:geheim@") + "/x?token=geheim"
    ended = await fetch(url, "--json", cwd=tmp_path)
    assert ended.code == 0
    assert site.asked[0]["authorization"].startswith("Basic ")
    assert ended.files[0]["url"] == f"{server.url}/x"
    assert "geheim" not in ended.out + ended.err


async def test_a_reader_who_leaves_ends_it_quietly(servers: trio.Nursery, tmp_path: Path) -> None:
    server = await serve(servers, FileSite(CONTENT), pause=0.1)
    quick = await serve(servers, FileSite(b"x"))
    process = await start(f"{quick.url}/a", f"{quick.url}/b", f"{server.url}/c", "--json", "-q", cwd=tmp_path)
    assert process.stdout is not None
    await process.stdout.aclose()
    with trio.fail_after(PATIENCE):
        err = await read_all(process.stderr)
        assert await process.wait() == 141
    assert err == ""


async def test_output_that_cannot_be_written_is_told(servers: trio.Nursery, tmp_path: Path) -> None:
    server = await serve(servers, FileSite(b"x"))
    with open("/dev/full", "wb") as full:  # noqa: ASYNC230 - opening it takes no time
        ended = await fetch(f"{server.url}/a", "--json", "-q", cwd=tmp_path, stdout=full)
    assert (ended.code, ended.err) == (1, "Error: the output can't be written: No space left on device\n")


async def test_quiet_tells_of_failures_only(servers: trio.Nursery, tmp_path: Path) -> None:
    server = await serve(servers, FileSite(CONTENT, cuts=[5]))
    assert await fetch(f"{server.url}/a", "-q", cwd=tmp_path) == (await fetch(f"{server.url}/b", "-q", cwd=tmp_path))
    ended = await fetch("http://127.0.0.1:1/a.x", "-q", "--max-attempts", "1", cwd=tmp_path)
    assert (ended.code, ended.err) == (1, "FAILED  a.x  no connection to 127.0.0.1:1: Connection refused\n")


async def test_a_terminal_shows_bars_and_wipes_them(servers: trio.Nursery, tmp_path: Path) -> None:
    site = FileSite(CONTENT, cuts=[500_000])
    server = await serve(servers, site, pause=0.06)
    code, written = await trio.to_thread.run_sync(on_a_terminal, [f"{server.url}/data.bin"], tmp_path)
    assert code == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written)
    assert re.search(r"data\.bin +[━╺╸]+ +\d\d% .* of 1\.0 MB", plain)
    assert re.search(r"(again in \d\.\d s|trying again): the connection broke", plain)
    assert "saved   data.bin  1.0 MB in" in plain
    assert "1 of 1 file saved" in plain
    assert "\x1b[32msaved" in written
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l") >= 0  # the cursor is shown again
    assert max(len(line) for line in plain.replace("\r", "\n").splitlines() if "━" in line) <= 90


async def test_json_on_a_terminal_has_no_bars_in_it(servers: trio.Nursery, tmp_path: Path) -> None:
    server = await serve(servers, FileSite(b"x"))
    code, written = await trio.to_thread.run_sync(on_a_terminal, [f"{server.url}/x", "--json"], tmp_path)
    assert code == 0
    lines = written.splitlines()
    assert {json.loads(line)["kind"] for line in lines if line.startswith("{")} == {"file", "summary"}
    assert not any("Ctrl-C" in line or "\x1b[?25l" in line for line in lines)


def on_a_terminal(arguments: list[str], cwd: Path) -> tuple[int, str]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 90, 0, 0))
    with subprocess.Popen(
        [*PROGRAM, *arguments], stdin=slave, stdout=slave, stderr=slave, env=environment(TERM="xterm-256color"), cwd=cwd
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
