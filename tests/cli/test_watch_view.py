"""The live table fits its terminal and says everything without colour and, where it must, without Unicode."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
import trio
from rich.cells import cell_len
from rich.console import Console

from trioresil import HealthState
from trioresil._events import HealthStatus
from trioresil.cli._output import Output
from trioresil.cli._targets import read_targets
from trioresil.cli._watch import Result, Watched, Watching
from trioresil.cli._watch_lines import _plain_end
from trioresil.cli._watch_view import ASCII, UNICODE, LiveTable, View, ago, clipped, days, latency, picture, sparkline

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
URLS = ("https://api.example.com/a/long/path/to/health", "tcp://db:5432", "tls://example.com", "dns://例え.jp")
STATES = (HealthState.HEALTHY, HealthState.UNHEALTHY, HealthState.DEGRADED, HealthState.UNKNOWN)


def known(watched: Watched, state: HealthState, latencies: list[float | None]) -> None:
    failed = latencies[-1] is None
    error = ConnectionRefusedError(111, "refused") if failed or state is HealthState.UNHEALTHY else None
    watched.status = HealthStatus(
        name=watched.target.name,
        healthy=state.is_healthy,
        state=state,
        latency=0.0123,
        latency_p50=0.0123,
        latency_p99=1.5,
        checked_at=0.0,
        checked_at_utc=NOW,
        since=0.0,
        consecutive=1,
        error=error,
        critical=False,
        group=None,
    )
    watched.since_utc = NOW - timedelta(minutes=3, seconds=7)
    for seconds in latencies:
        watched.results.append(
            Result(at=NOW, passed=seconds is not None, seconds=seconds or 0.0, previous=HealthState.UNKNOWN)
        )


def a_watch() -> Watching:
    watching = Watching(read_targets(URLS, None, {}))
    for each, state in zip(watching.watched, STATES, strict=True):
        known(each, state, [0.01, 0.02, None if state is HealthState.UNHEALTHY else 0.0123])
    watching.watched[2].days_left = 63.4
    return watching


def lines_of(watching: Watching, width: int, height: int = 24, glyphs: object = UNICODE) -> list[str]:
    return [line.plain for line in picture(watching, width, height, glyphs, NOW)]  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [20, 40, 50, 64, 80, 100, 120, 250])
def test_it_fits_the_width_of_the_terminal(width: int) -> None:
    file = io.StringIO()
    Console(file=file, width=width, color_system=None, legacy_windows=False).print(View(a_watch()))
    assert max(cell_len(line) for line in file.getvalue().splitlines()) <= width


def test_a_wide_one_has_every_column() -> None:
    head, rule, titles, first, second, error, third, fourth = lines_of(a_watch(), 120)
    assert head.startswith("trioresil watch  NOT HEALTHY  2 of 4 healthy ")
    assert head.endswith("Ctrl-C ends")
    assert rule == "─" * 120
    assert titles.split() == ["STATE", "TARGET", "LATENCY", "LAST", "P50", "P99", "SINCE", "CERT"]
    assert first.startswith("● HEALTHY    https://api.example.com/")
    assert first.split()[-8:] == ["12.3", "ms", "12.3", "ms", "1.50", "s", "3m07s", "-"]
    assert second.startswith("✖ UNHEALTHY  tcp://db:5432 ")
    assert "▄█×" in second.replace("▅", "▄")
    assert "  failed" in second
    assert error == "└ Connection refused"
    assert third.startswith("▲ DEGRADED   tls://example.com")
    assert third.endswith(" 63 d")
    assert fourth.startswith("○ UNKNOWN    dns://例え.jp")
    assert len({cell_len(line) for line in (titles, first, second, third, fourth)}) == 1


@pytest.mark.parametrize("width", [40, 64, 80, 120])
def test_columns_are_aligned(width: int) -> None:
    _, _, titles, *rows = lines_of(a_watch(), width)
    widths = {cell_len(line) for line in (titles, *rows) if not line.startswith("└")}
    assert len(widths) == 1


def test_a_narrow_one_keeps_state_name_and_last() -> None:
    _, _, titles, first, *_ = lines_of(a_watch(), 40)
    assert titles.split() == ["STATE", "TARGET", "LAST"]
    assert lines_of(a_watch(), 40)[0] == "NOT HEALTHY  2 of 4 healthy  Ctrl-C ends"
    assert first.split() == ["●", "HEALTHY", "https://…to/health", "12.3", "ms"]


@pytest.mark.parametrize(("checks", "told"), [(0, False), (1, True)])
def test_lines_end_with_why_a_target_that_was_checked_is_not_known(checks: int, told: bool) -> None:
    watching = a_watch()
    watching.watched[3].checks = checks
    line = _plain_end(watching)
    assert line.startswith("2 of 4 healthy; tcp://db:5432 is UNHEALTHY; dns://例え.jp is UNKNOWN")
    assert line.endswith("; UNKNOWN: it was checked less often than --rise or --fall asks for") == told


def test_a_column_that_just_fits_is_there() -> None:
    watching = Watching(read_targets(["dns://host0"], None, {}))
    known(watching.watched[0], HealthState.HEALTHY, [0.1])
    exact = 11 + 2 + len("dns://host0") + 2 + 7
    assert lines_of(watching, exact)[2].split() == ["STATE", "TARGET", "LAST"]
    assert lines_of(watching, exact - 1)[2].split() == ["STATE", "TARGET"]


@pytest.mark.parametrize("height", [1, 5, 6, 7, 9, 24])
def test_every_size_of_terminal_is_fitted(height: int) -> None:
    watching = a_watch()
    for width in range(1, 140):
        file = io.StringIO()
        Console(file=file, width=width, height=height, color_system=None, legacy_windows=False).print(View(watching))
        lines = file.getvalue().splitlines()
        assert max(cell_len(line) for line in lines) <= width
        assert len(lines) < max(height, 7)  # below that rich shows the upper part


async def test_nothing_new_is_drawn_while_the_terminal_takes_nothing(autojump_clock: object) -> None:
    class Stopped(Output):
        def __init__(self) -> None:
            super().__init__()
            self.pictures: list[str] = []
            self.stopped = False

        @property
        def idle(self) -> bool:
            return not self.stopped

        def write(self, text: str) -> None:
            self.pictures.append(text)

        async def run(self) -> None:
            await trio.sleep_forever()

    output = Stopped()
    table = LiveTable(output)
    async with trio.open_nursery() as nursery:
        await nursery.start(table.run, a_watch())
        await trio.sleep(0.5)
        output.stopped = True
        shown = len(output.pictures)
        assert shown == 3
        await trio.sleep(60)
        assert len(output.pictures) == shown
        output.stopped = False
        await trio.sleep(0.5)
        assert len(output.pictures) > shown
        nursery.cancel_scope.cancel()
    assert output.pictures[-1].endswith("\x1b[?25h")  # the cursor is shown again


def test_eighty_columns_have_the_sparkline_and_the_percentiles() -> None:
    watching = Watching(read_targets(["http://127.0.0.1:8000"], None, {}))
    known(watching.watched[0], HealthState.HEALTHY, [0.1])
    _, _, titles, row = lines_of(watching, 80)
    assert titles.split() == ["STATE", "TARGET", "LATENCY", "LAST", "P50", "P99", "SINCE"]
    assert "http://127.0.0.1:8000" in row


def test_the_sick_are_shown_when_not_all_fit() -> None:
    watching = Watching(read_targets([f"dns://host{index}" for index in range(50)], None, {}))
    for each in watching.watched:
        known(each, HealthState.HEALTHY, [0.1])
    known(watching.watched[40], HealthState.UNHEALTHY, [None])
    lines = lines_of(watching, 80, 12)
    assert len(lines) <= 11
    assert any("UNHEALTHY  dns://host40" in line for line in lines)
    assert lines[-1] == "and 44 more, 44 of them healthy: make the window higher"
    assert sum("dns://" in line for line in lines) == 6


def test_all_are_shown_when_they_just_fit() -> None:
    watching = Watching(read_targets([f"dns://host{index}" for index in range(8)], None, {}))
    for each in watching.watched:
        known(each, HealthState.HEALTHY, [0.1])
    assert sum("dns://" in line for line in lines_of(watching, 80, 12)) == 8
    assert sum("dns://" in line for line in lines_of(watching, 80, 11)) == 6


def test_before_the_first_check_it_says_so_and_after_the_last_too() -> None:
    watching = Watching(read_targets(URLS, None, {}))
    lines = lines_of(watching, 80)
    assert "STARTING  0 of 4 healthy" in lines[0]
    assert lines[3].startswith("○ UNKNOWN    ")
    watching = a_watch()
    watching.over = "count"
    watching.page_url = "http://127.0.0.1:8080/"
    lines = lines_of(watching, 80)
    assert lines[0].endswith(" over")
    assert lines[-1] == "live page: http://127.0.0.1:8080/"


def test_all_healthy_is_told_in_the_head() -> None:
    watching = a_watch()
    for each in watching.watched:
        known(each, HealthState.HEALTHY, [0.1])
    assert "  HEALTHY  4 of 4 healthy" in lines_of(watching, 80)[0]


def test_without_unicode_it_is_drawn_in_ascii() -> None:
    watching = Watching(read_targets(["dns://host-with-a-long-name-that-is-cut.example.com"], None, {}))
    known(watching.watched[0], HealthState.UNHEALTHY, [0.1, 0.2, None])
    text = "\n".join(lines_of(watching, 64, glyphs=ASCII))
    assert text.isascii()
    assert "x UNHEALTHY" in text


def test_the_sparkline_is_as_high_as_its_slowest_and_newest_at_the_right() -> None:
    watched = Watched(read_targets(["dns://a"], None, {}).targets[0])
    known(watched, HealthState.HEALTHY, [0.0, 1.0, None, 0.5])
    assert sparkline(watched.results, 6, UNICODE).plain == "  ▁█×▅"
    assert sparkline(watched.results, 2, UNICODE).plain == "×█"
    assert sparkline([], 3, UNICODE).plain == "   "
    assert len(set(UNICODE.bars)) == len(UNICODE.bars) == len(ASCII.bars)


@pytest.mark.parametrize(
    ("name", "width", "shown"),
    [
        ("short", 8, "short   "),
        ("exactly8", 8, "exactly8"),
        ("one too long", 9, "one …long"),
        ("例え例え例え", 7, "例 …え "),
    ],
)
def test_a_name_that_is_too_long_loses_its_middle(name: str, width: int, shown: str) -> None:
    assert cell_len(clipped(name, width, UNICODE)) == width
    if name.isascii():
        assert clipped(name, width, UNICODE) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "-"),
        (0.0, "0.00 ms"),
        (0.00999, "9.99 ms"),
        (0.009996, "10.0 ms"),
        (0.0999, "99.9 ms"),
        (0.09996, "100 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.00 s"),
        (99.99, "99.99 s"),
        (100, "100 s"),
    ],
)
def test_latencies_have_three_digits_in_seven_cells(seconds: float | None, shown: str) -> None:
    assert latency(seconds) == shown
    assert len(shown) <= 7


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-1, "0s"),
        (59.9, "59s"),
        (60, "1m00s"),
        (3599, "59m59s"),
        (3600, "1h00m"),
        (86_399, "23h59m"),
        (90_000, "1d01h"),
    ],
)
def test_how_long_ago_is_told_in_two_units(seconds: float, shown: str) -> None:
    assert ago(seconds) == shown
    assert len(shown) <= 6


@pytest.mark.parametrize(("left", "shown"), [(0.04, "0.0 d"), (9.94, "9.9 d"), (13.7, "14 d"), (400, "400 d")])
def test_days_are_told_with_a_digit_more_when_they_are_few(left: float, shown: str) -> None:
    assert days(left) == shown


def test_a_long_name_of_wide_characters_keeps_its_end() -> None:
    name = clipped("例" * 20 + "終", 15, UNICODE)
    assert cell_len(name) == 15
    assert name.rstrip().endswith("…例例終")
