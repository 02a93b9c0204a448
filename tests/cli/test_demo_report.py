"""The report of the demo: a page by itself, in a file that is the old one or the new one."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.cli.test_demo_series import filled_course
from trioresil.cli import _commands
from trioresil.cli._demo import page
from trioresil.cli._demo.course import Course, Options
from trioresil.cli._demo.page import bands, has_something, render
from trioresil.cli._demo.report import document
from trioresil.cli._demo.report_file import RESERVED_BYTES, ReportFile

ROOT = Path(__file__).parent.parent.parent
PROGRAM = [sys.executable, "-W", "error", "-c", "from trioresil.cli import main; main()"]
PATIENCE = 60
NOW = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
VOID = {"meta", "input", "path", "br", "link", "img"}


class Page(HTMLParser):
    """The elements of a page, with their text; complains about one that isn't closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self._text_of: list[int] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.texts.append("")
        if tag not in VOID:
            self._open.append(tag)
            self._text_of.append(len(self.texts) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:  # as a browser writes a path
            return
        assert self._open.pop() == tag
        self._text_of.pop()

    def handle_data(self, data: str) -> None:
        for index in self._text_of:
            self.texts[index] += data

    def all(self, tag: str, **attributes: str) -> list[tuple[dict[str, str], str]]:
        return [
            (found, text)
            for (name, found), text in zip(self.elements, self.texts, strict=True)
            if name == tag and all(found.get(key) == value for key, value in attributes.items())
        ]


def reported_course() -> Course:
    course = filled_course()
    course.bare.total.begun, course.bare.total.fresh, course.bare.total.failed = 600, 480, 120
    course.resilient.total.begun, course.resilient.total.fresh, course.resilient.total.cached = 600, 480, 120
    course.bare.waits = [0.03] * 480 + [2.5] * 120
    course.resilient.waits = [0.02] * 600
    course.bare.errors.update({"ReadError": 100, "<script>alert(1)</script>": 20})
    course.events.circuit_log.append((8.25, "circuit opened </script><b>& more"))
    return course


@pytest.fixture(scope="module")
def text() -> str:
    return render(reported_course(), NOW)


@pytest.fixture(scope="module")
def seen(text: str) -> Page:
    return Page(text)


# --- what is in it ---------------------------------------------------------------------------------------------------


def test_it_asks_nothing_of_the_network(text: str, seen: Page) -> None:
    assert not re.search(r"https?://|//cdn|@import|url\(", text)
    assert [name for name, attrs in seen.elements if {"src", "href", "srcset", "data", "action"} & attrs.keys()] == []
    policy = seen.all("meta", **{"http-equiv": "Content-Security-Policy"})[0][0]["content"]
    assert "default-src 'none'" in policy
    scripts = [text for attrs, text in seen.all("script") if not attrs]
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy


def test_it_begins_with_both_sides_beside_each_other(seen: Page) -> None:
    assert [text for _, text in seen.all("dd")] == ["80.0 %", "100.0 %", "2.50 s", "20 ms", "0", "0"]
    assert [text.strip() for _, text in seen.all("dt")] == ["bare httpx", "trioresil"] * 3


def test_every_chart_has_a_text_and_a_table(seen: Page) -> None:
    charts = [attrs for attrs, _ in seen.all("svg") if attrs.get("role") == "img"]
    assert len(charts) == 5
    assert all("table below" in each["aria-label"] and len(each["aria-label"]) > 60 for each in charts)
    assert [attrs["id"] for attrs, _ in seen.all("figure")] == ["answered", "load", "waits", "circuit"]
    regions = [attrs["aria-label"] for attrs, _ in seen.all("div", role="region")]
    assert len(regions) == 5
    rows = [attrs for attrs, _ in seen.all("tr") if "data-at" in attrs]
    assert len(rows) == 3 * 40 + 4
    assert all(attrs.get("aria-hidden") == "true" for attrs, _ in seen.all("svg") if attrs.get("role") != "img")


def test_names_that_are_referred_to_are_there_once(seen: Page) -> None:
    ids = [attrs["id"] for _, attrs in seen.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    referred = {attrs["aria-labelledby"] for _, attrs in seen.elements if "aria-labelledby" in attrs}
    assert referred <= set(ids)
    assert len(referred) == 8


def test_no_two_curves_differ_by_colour_alone() -> None:
    sheet = page._static("report.css")
    looks = [
        tuple(
            re.findall(rf"\.curve\.{kind} \{{[^}}]*?{what}: ([^;]+);", sheet)
            for what in ("stroke-dasharray", "stroke-width")
        )
        for kind in ("bare", "resilient", "fresh", "offered")
    ]
    assert len({str(each) for each in looks}) == 4
    assert "prefers-color-scheme: dark" in sheet
    assert len(re.findall(r"repeating-linear-gradient|radial-gradient", sheet)) == 2  # the two kinds of bad weather


def contrast(colours: tuple[str, str]) -> float:
    lights = []
    for colour in colours:
        digits = colour * 2 if len(colour) == 3 else colour
        parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)


@pytest.mark.parametrize("theme", [0, 1])
@pytest.mark.parametrize("name", ["text", "soft", "accent", "bare", "resilient"])
def test_text_and_curves_have_the_contrast_of_wcag_aa_in_both_themes(theme: int, name: str) -> None:
    sheet = page._static("report.css")
    for ground in ("page", "card"):
        pair = tuple(re.findall(rf"--{each}: #([0-9a-f]+);", sheet)[theme] for each in (name, ground))
        assert contrast((pair[0], pair[1])) >= 4.5


def test_what_was_measured_is_escaped(text: str, seen: Page) -> None:
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    embedded = seen.all("script", id="document")[0][1]
    assert json.loads(embedded) == json.loads(json.dumps(document(reported_course())))
    assert "</" not in embedded


def test_it_says_when_and_how_it_was_made(text: str) -> None:
    assert '<time datetime="2026-11-24T09:30:00+00:00">2026-11-24 09:30</time>' in text
    assert "trioresil demo --seconds 20 --rate 40 --seed 1 --report report.html" in text


def test_bad_weather_is_where_it_was() -> None:
    assert [(each.kind, round(each.left), round(each.width)) for each in bands(reported_course())] == [
        ("outage", 40, 15),
        ("restarting", 55, 5),
    ]
    stopped = reported_course()
    stopped._ended_at = 10.0
    assert [(each.kind, round(each.left), round(each.width)) for each in bands(stopped)] == [("outage", 80, 20)]


def test_a_course_in_which_nothing_was_sent_has_no_report() -> None:
    assert has_something(reported_course())
    assert not has_something(Course(Options()))


def test_one_moment_is_a_report_already() -> None:
    course = Course(Options())
    course.state, course._ended_at = "over", 0.01
    course.bare.total.begun = course.resilient.total.begun = 1
    assert has_something(course)
    Page(render(course, NOW))


# --- the file --------------------------------------------------------------------------------------------------------


def test_a_report_takes_the_place_of_the_old_one_at_once(tmp_path: Path) -> None:
    path = tmp_path / "out.html"
    path.write_text("old" * 1000)
    path.chmod(0o640)
    file = ReportFile(str(path))
    with path.open() as reader:
        file.write("näw")
        assert reader.read() == "old" * 1000
    file.close()
    assert path.read_bytes() == "näw".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_a_report_that_is_not_written_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "out.html"
    path.write_text("old")
    file = ReportFile(str(path))
    assert len(list(tmp_path.iterdir())) == 2
    file.close()
    file.close()
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "old"


def test_a_new_file_has_the_mode_of_new_files(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        file = ReportFile(str(tmp_path / "new.html"))
        file.write("x")
        file.close()
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "new.html").stat().st_mode) == 0o640


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.html"
    link.symlink_to("real/out.html")
    file = ReportFile(str(link))
    file.write("x")
    file.close()
    assert link.is_symlink()
    assert (tmp_path / "real" / "out.html").read_text() == "x"


def test_the_room_is_reserved_before(tmp_path: Path) -> None:
    file = ReportFile(str(tmp_path / "out.html"))
    (draft,) = tmp_path.iterdir()
    assert draft.stat().st_blocks * 512 >= RESERVED_BYTES
    file.close()


def test_a_full_disk_is_told_before_and_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    refused = demo("--report", str(tmp_path / "out.html"))
    assert refused.exit_code == 2
    assert refused.stderr == f"Error: --report {tmp_path}/out.html: it can't be written: No space left on device\n"
    assert list(tmp_path.iterdir()) == []


# --- misuse ----------------------------------------------------------------------------------------------------------


def demo(*arguments: str) -> Result:
    return CliRunner().invoke(_commands.trioresil, ["demo", "--seconds", "1", *arguments])


def test_a_place_that_takes_no_report_is_told_before_the_run(tmp_path: Path) -> None:
    began_at = time.monotonic()
    for path, reason in {
        f"{tmp_path}/missing/out.html": "No such file or directory",
        str(tmp_path): "it is a directory",
        "/dev/null": "it is no ordinary file",
    }.items():
        refused = demo("--report", path)
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert refused.stderr == f"Error: --report {path}: it can't be written: {reason}\n"
    assert time.monotonic() - began_at < 10
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_what_is_no_name_is_refused(path: str) -> None:
    refused = demo("--report", path)
    assert refused.exit_code == 2
    assert refused.stderr == f"Error: --report {path!r} is no name of a file\n"


def test_a_write_protected_report_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.html"
    path.write_text("old")
    monkeypatch.setattr(os, "access", lambda asked, mode: not (asked == str(path.resolve()) and mode == os.W_OK))
    refused = demo("--report", str(path))
    assert (refused.exit_code, path.read_text()) == (2, "old")
    assert "it is write-protected" in refused.stderr


@pytest.mark.slow
def test_without_the_template_engine_a_line_says_which_extra_has_it(tmp_path: Path) -> None:
    code = "import sys; sys.modules['jinja2'] = None; from trioresil.cli import main; main()"
    arguments = [sys.executable, "-c", code, "demo", "--report", "out.html"]
    refused = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, env=with_root(), check=False)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == (
        "the command line needs jinja2, which is in the extra `cli`: pip install 'trioresil[cli]'\n"
    )
    assert list(tmp_path.iterdir()) == []


# --- as a program ----------------------------------------------------------------------------------------------------


def with_root() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def started(directory: Path, *arguments: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        [*PROGRAM, "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=directory,
        env=with_root(),
        **options,
    )


@pytest.mark.slow
def test_a_run_ends_with_its_report(tmp_path: Path) -> None:
    with started(tmp_path, "--seconds", "1", "--json", "--report", "out.html") as process:
        output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert errors.splitlines()[-1] == "Report: out.html"
    written = Page((tmp_path / "out.html").read_text())
    assert json.loads(written.all("script", id="document")[0][1]) == json.loads(output)
    assert [each.name for each in tmp_path.iterdir()] == ["out.html"]
    policies = [text for _, text in written.all("code") if text.startswith("trioresil.")]
    assert len(policies) == 7
    assert policies[0].startswith("trioresil.Fallback")
    bare_load = [cells for cells, _ in written.all("tr") if "data-at" in cells]
    assert len(bare_load) >= 30


@pytest.mark.slow
def test_ctrl_c_in_the_middle_writes_what_was_measured(tmp_path: Path) -> None:
    with started(tmp_path, "--seconds", "60", "--report", "out.html") as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)][1].lstrip().startswith("1.")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (130, "Report: out.html\n")
    written = (tmp_path / "out.html").read_text()
    assert re.search(r"<title>trioresil demo: stopped after \d\.\d s at 40 requests/s, seed 1</title>", written)


@pytest.mark.slow
def test_a_disk_that_fills_up_meanwhile_costs_the_report_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "out.html").write_text("old")

    def little_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    with started(tmp_path, "--seconds", "2", "--report", "out.html", preexec_fn=little_room) as process:
        assert process.stdout is not None
        process.stdout.readline()
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (8192, 8192))
        output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert errors == "Error: the report out.html can't be written: File too large\n"
    assert "The bare client answered" in output
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("out.html", "old")]


@pytest.mark.slow
def test_a_reader_that_leaves_does_not_take_the_report_along(tmp_path: Path) -> None:
    with started(tmp_path, "--seconds", "60", "--report", "out.html") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        errors = process.stderr.read()
        code = process.wait(PATIENCE)
    assert (code, errors) == (141, "Report: out.html\n")
    assert "stopped after" in (tmp_path / "out.html").read_text()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_an_output_that_is_full_is_told_in_a_line(tmp_path: Path, form: list[str]) -> None:
    with open("/dev/full", "w") as full:
        arguments = [*PROGRAM, "demo", "--seconds", "1", *form]
        ended = subprocess.run(
            arguments, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=with_root(), check=False
        )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == "Error: standard output can't be written: No space left on device"
    assert "Traceback" not in ended.stderr


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture
def browser(tmp_path: Path) -> list[str]:
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("needs Debian's package chromium")
    return [found, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]


@pytest.mark.slow
def test_in_a_browser_one_moment_is_shown_in_all_charts(browser: list[str], tmp_path: Path, text: str) -> None:
    file = tmp_path / "out.html"
    file.write_text(text)
    dumped = subprocess.run(
        [*browser, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    shown = Page(dumped.stdout)
    assert [text for _, text in shown.all("p", **{"class": "readout"})] == [
        "bare httpx 0.0 % · trioresil 100.0 % · trioresil, fresh only 0.0 %",
        "bare httpx 30.0/s · trioresil 6.0/s · callers 40.0/s",
        "bare httpx 2.50 s · trioresil 20 ms",
        "bare httpx 2.50 s · trioresil 20 ms",
        "trioresil open",
    ]
    assert [text for _, text in shown.all("output")] == ["9.5 s"]
