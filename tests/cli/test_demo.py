"""The whole demo, over real sockets: in this process, as a program on a terminal, into a pipe, and interrupted."""

from __future__ import annotations

import fcntl
import json
import math
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from trioresil.cli import _commands
from trioresil.cli._demo.course import Course, Options
from trioresil.cli._demo.report import document
from trioresil.cli._demo.view import progress_line

ROOT = Path(__file__).parent.parent.parent
PROGRAM = [sys.executable, "-W", "error", "-c", "from trioresil.cli import main; main()"]
PATIENCE = 60


# --- in this process -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def course() -> Course:
    """A course of two seconds, run to its end, and watched."""
    course = Course(Options(seconds=2.0, seed=7, rate=40.0))
    lines: list[str] = []

    async def watch(watched: Course) -> None:
        while True:
            lines.append(progress_line(watched))
            await trio.sleep(0.5)

    trio.run(course.run, watch)
    assert len(lines) >= 4
    return course


@pytest.fixture(scope="module")
def seen(course: Course) -> dict[str, Any]:
    """Its document, as somebody gets it who reads the JSON."""
    document_read: dict[str, Any] = json.loads(json.dumps(document(course), allow_nan=False))
    return document_read


@pytest.mark.slow
def test_the_course_ends_in_time(seen: dict[str, Any]) -> None:
    assert 1.9 <= seen["elapsed"] < 2 + 7
    assert (seen["interrupted"], seen["overdue"]) == (False, False)


@pytest.mark.slow
def test_both_sides_make_the_same_requests(seen: dict[str, Any]) -> None:
    assert seen["bare"]["requests"] == seen["resilient"]["requests"] == 80


@pytest.mark.slow
@pytest.mark.parametrize("side", ["bare", "resilient"])
def test_every_request_has_one_outcome(seen: dict[str, Any], side: str) -> None:
    figures = seen[side]
    assert figures["fresh"] + figures["cached"] == figures["answered"]
    assert figures["answered"] + figures["failed"] + figures["cut_off"] == figures["requests"]
    assert sum(figures["errors"].values()) == figures["failed"]
    assert figures["answered_ratio"] == figures["answered"] / 80
    assert 0 < figures["p50"] <= figures["p99"]


@pytest.mark.slow
def test_the_bare_client_sends_each_request_once(seen: dict[str, Any]) -> None:
    assert seen["bare"]["sent"] == 80
    assert seen["bare"]["cached"] == 0
    assert seen["bare"]["oldest_cached"] is None


@pytest.mark.slow
def test_the_services_count_agrees_with_what_the_policies_report(seen: dict[str, Any]) -> None:
    figures = seen["resilient"]
    started = figures["requests"] + figures["retries"] - figures["rejected"]
    # An attempt may run out of time before it reaches the service; nothing reaches it uncounted.
    assert started - figures["timed_out"] <= figures["sent"] <= started
    assert figures["fresh"] <= figures["answers_of_service"]["answer"]


@pytest.mark.slow
@pytest.mark.parametrize("side", ["bare", "resilient"])
def test_the_timeline_adds_up_to_the_totals(seen: dict[str, Any], side: str) -> None:
    slices = [each[side] for each in seen["timeline"]]
    names = {"begun": "requests", "fresh": "fresh", "cached": "cached", "failed": "failed", "sent": "sent"}
    for of_slice, of_total in names.items():
        assert sum(each[of_slice] for each in slices) == seen[side][of_total]
    assert sum(seen[side]["answers_of_service"].values()) == seen[side]["sent"]


@pytest.mark.slow
def test_the_outage_is_a_fifth_of_the_time(seen: dict[str, Any]) -> None:
    down = sum(each["ends"] - each["begins"] for each in seen["weather"] if each["kind"] != "fair")
    assert math.isclose(down, 0.2 * seen["seconds"])
    assert [each["weather"] for each in seen["timeline"]].count("outage") == 3


@pytest.mark.slow
def test_trioresil_answers_more_callers(seen: dict[str, Any]) -> None:
    assert seen["resilient"]["answered"] > seen["bare"]["answered"]
    assert seen["resilient"]["circuit_opened"] >= 1


@pytest.mark.slow
def test_nothing_is_left_behind(course: Course) -> None:
    assert course.client is not None
    assert course.client.bulkhead.statistics().borrowed == 0
    assert course.client.bucket.statistics().waiting == 0
    assert course.state == "over"


async def test_a_course_that_hangs_is_cut_off(monkeypatch: pytest.MonkeyPatch, autojump_clock: object) -> None:
    course = Course(Options(seconds=1.0))

    async def hang(*arguments: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(course, "_run", hang)
    await course.run(hang)
    assert trio.current_time() == 1 + 6 + 15
    assert course.overdue


# --- as a program ----------------------------------------------------------------------------------------------------


def on_a_terminal(*arguments: str, columns: int, lines: int) -> tuple[int, str]:
    """Run the program on a terminal of this size; return its exit code and all that it wrote."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
        environment.pop(name, None)
    with subprocess.Popen(
        [*PROGRAM, *arguments], stdin=slave, stdout=slave, stderr=slave, env=environment, cwd=ROOT
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


@pytest.mark.slow
def test_a_terminal_shows_both_sides_live_and_then_a_table() -> None:
    code, written = on_a_terminal("demo", "--seconds", "1", columns=80, lines=24)
    plain = re.sub(r"\x1b\[[0-9]*[AK]", "\n", written).replace("\r", "")  # each frame goes up and erases the one before
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", plain)
    assert code == 0
    assert "Traceback" not in plain
    lines = plain.splitlines()
    frames = [line for line in lines if "─ bare httpx ─" in line and "─ through trioresil ─" in line]
    assert len(frames) >= 5
    assert "service: DOWN" in plain
    assert any(line.count("│ service ───") == 2 and "!!" in line for line in lines)  # the axes, with the outage marked
    assert max(map(len, lines)) <= 80
    assert re.search(r"requests +│ +40 │ +40\n", plain)
    assert "The bare client answered" in plain
    assert "\x1b[32m" in written  # colour
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l") >= 0  # the cursor is shown again


@pytest.mark.slow
def test_ctrl_c_ends_it_with_the_document_so_far() -> None:
    arguments = [*PROGRAM, "demo", "--seconds", "60", "--json"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stderr is not None
        assert "60 s at 40 requests/s" in process.stderr.readline()
        assert "answered" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "Traceback" not in errors
    seen = json.loads(output)
    assert seen["interrupted"] is True
    assert seen["elapsed"] < 30
    assert seen["bare"]["requests"] == seen["resilient"]["requests"] >= 20
    assert len(seen["timeline"]) == sum(0.5 * index <= seen["elapsed"] for index in range(120))


@pytest.mark.slow
def test_into_a_pipe_it_writes_plain_lines_and_a_reader_that_leaves_ends_it() -> None:
    arguments = [*PROGRAM, "demo", "--seconds", "60"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        process.stdout.close()
        assert process.stderr is not None
        errors = process.stderr.read()
        code = process.wait(PATIENCE)
    assert lines[0] == "60 s at 40 requests/s through each client, seed 1\n"
    assert re.match(
        r" +1\.\d s  up, but flaky +bare httpx: [\d.]+ % answered, p99 .*\|  trioresil: .*, circuit closed\n", lines[1]
    )
    assert "\x1b" not in "".join(lines)
    assert (code, errors) == (141, "")


# --- options and help ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--seconds", "0", "0.0 is not in the range 1<=x<=600"),
        ("--seconds", "nan", "'nan' is not a number"),
        ("--rate", "inf", "inf is not in the range"),
        ("--rate", "x", "'x' is not a valid number."),
        ("--seed", "1.5", "'1.5' is not a valid integer"),
    ],
)
def test_a_wrong_option_is_refused_by_name(option: str, value: str, complaint: str) -> None:
    refused = CliRunner().invoke(_commands.trioresil, ["demo", option, value])
    assert refused.exit_code == 2
    assert refused.stdout == ""
    assert f"Invalid value for '{option}': {complaint}" in refused.stderr


def test_the_help_says_what_the_figures_cannot_tell() -> None:
    told = " ".join(CliRunner().invoke(_commands.trioresil, ["demo", "--help"]).stdout.split())
    assert "The faults are seeded, the timing is real" in told
    assert "below about 15 seconds" in told


def test_the_help_tells_of_ctrl_c() -> None:
    told = CliRunner().invoke(_commands.trioresil, ["demo", "--help"])
    assert told.exit_code == 0
    assert "exit code 130" in " ".join(told.stdout.split())


@pytest.mark.slow
def test_the_version_is_the_packages() -> None:
    told = subprocess.run([*PROGRAM, "--version"], capture_output=True, text=True, check=True, cwd=ROOT)
    assert told.stdout == f"trioresil, version {version('trioresil')}\n"


@pytest.mark.slow
def test_it_runs_as_a_module_too() -> None:
    module = [sys.executable, "-W", "error", "-m", "trioresil", "--version"]
    told = subprocess.run(module, capture_output=True, text=True, check=True, cwd=ROOT)
    assert (told.stdout, told.stderr) == (f"trioresil, version {version('trioresil')}\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["click", "rich", "starlette", "hypercorn"])
def test_without_the_extra_it_says_which_one_in_a_line(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from trioresil.cli import main; main()"
    refused = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr == (
        f"the command line needs {missing}, which is in the extra `cli`: pip install 'trioresil[cli]'\n"
    )
