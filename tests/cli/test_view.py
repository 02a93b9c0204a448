"""The live view fits its terminal and says everything without colour and, where it must, without Unicode."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from trioresil.cli._demo.course import Course, Options
from trioresil.cli._demo.timeline import Tally
from trioresil.cli._demo.view import View


def a_course() -> Course:
    """A course that is over, with an outage in which one side failed and the other answered from its cache."""
    course = Course(Options(seconds=20, seed=3, rate=40))
    for slice_ in course.timeline.slices:
        good = slice_.weather == "fair"
        slice_.bare = Tally(begun=6, fresh=6 * good, failed=6 * (not good), sent=6)
        slice_.resilient = Tally(begun=6, fresh=6 * good, cached=6 * (not good), sent=6)
        slice_.circuit = "closed" if good else "open"
    course.bare.total = Tally(begun=720, fresh=576, failed=144, sent=720)
    course.resilient.total = Tally(begun=720, fresh=576, cached=144, sent=600)
    course.resilient.oldest = 4.25
    course.bare.waits = course.resilient.waits = [0.03] * 720
    course.events.circuit_log.append((8.7, "circuit opened for 0.5 s: too many failures, then 1 s by Retry-After"))
    course.state = "over"
    course._ended_at = 20.0
    return course


def drawn(course: Course, width: int, encoding: str = "utf-8") -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=file, width=width, color_system=None, legacy_windows=False).print(View(course))
    file.seek(0)
    return file.read().splitlines()


@pytest.mark.parametrize("width", [40, 50, 80, 120, 200])
def test_it_fits_the_width_of_the_terminal(width: int) -> None:
    assert max(map(len, drawn(a_course(), width))) <= width


def test_it_fits_a_terminal_of_80_by_24() -> None:
    lines = drawn(a_course(), 80)
    assert len(lines) < 24
    assert not [line for line in lines if "…" in line]


def test_both_sides_stand_beside_each_other_with_their_figures() -> None:
    text = " ".join("\n".join(drawn(a_course(), 80)).split())
    assert "─ bare httpx ─" in text
    assert "─ through trioresil ─" in text
    for figure in (
        "answered 80.0 %",
        "answered 100.0 %",
        "cached 144 20.0 % ≤ 4.25 s old",
        "sent 600 attempts, 0 waiting",
        "at 8.7 s: circuit opened for 0.5 s: too many failures, then 1 s by Retry-After",
    ):
        assert figure in text


def test_the_legend_explains_every_mark() -> None:
    text = " ".join("\n".join(drawn(a_course(), 80)).split())
    assert "█ fresh ▒ cached ░ few × failed ' few · waiting a column is 0.71 s" in text
    assert "service: ─ up ! down ~ restarting circuit: - closed h probing O open" in text


@pytest.mark.parametrize(("opened", "told"), [(0, "CLOSED │"), (1, "CLOSED, opened once │"), (3, "opened 3 times │")])
def test_it_tells_how_often_the_circuit_opened(opened: int, told: str) -> None:
    course = a_course()
    course.events.circuit_opened = opened
    assert told in " ".join("\n".join(drawn(course, 80)).split())


def test_the_outage_is_told_by_shapes_alone() -> None:
    lines = drawn(a_course(), 80)
    rows = [line for line in lines if "██" in line]
    assert len(rows) == 5
    assert all("×" in row[:40] and "▒" in row[40:] for row in rows)
    assert any(line.count("!!!!") == 2 and line.count("~") == 2 and "service" in line for line in lines)
    assert any("circuit" in line and "OOOO" in line and "----" in line for line in lines)


def test_without_unicode_it_is_drawn_in_ascii() -> None:
    text = "\n".join(drawn(a_course(), 80, "ascii"))
    assert text.isascii()
    assert "####" in text
    assert "++++" in text
    assert "xxxx" in text


def test_before_the_first_request_it_draws_empty_panels() -> None:
    text = "\n".join(drawn(Course(Options()), 80))
    assert "starting" in text
    assert "answered -" in text
    assert "!!" not in text
