"""The weather is a pure function of seed and time: exact phases, exact fates, and the ratios that it promises."""

from __future__ import annotations

from collections import Counter

import pytest

from trioresil.cli._demo import weather
from trioresil.cli._demo.weather import Fate, Phase, Weather, slot

WEATHER = Weather(seed=1, seconds=20.0)
FATES_OF_SEED_1 = [
    ("answer", 0.0371, None),
    ("answer", 0.0254, None),
    ("unavailable", 0.005, None),
    ("answer", 0.0113, None),
    ("answer", 0.0188, None),
    ("answer", 0.0201, None),
    ("answer", 0.0152, None),
    ("reset", 0.005, None),
    ("answer", 0.0548, None),
    ("answer", 0.0228, None),
    ("answer", 0.0568, None),
    ("answer", 0.0252, None),
]


def test_the_outage_takes_a_fifth_of_the_time_and_lies_in_the_middle() -> None:
    assert WEATHER.phases() == (
        Phase("fair", 0.0, 8.0),
        Phase("outage", 8.0, 11.0),
        Phase("restarting", 11.0, 12.0),
        Phase("fair", 12.0, float("inf")),
    )


@pytest.mark.parametrize(
    ("at", "kind"),
    [
        (0.0, "fair"),
        (7.99, "fair"),
        (8.0, "outage"),
        (10.99, "outage"),
        (11.0, "restarting"),
        (12.0, "fair"),
        (1e6, "fair"),
    ],
)
def test_a_phase_begins_at_its_instant(at: float, kind: str) -> None:
    assert WEATHER.phase(at).kind == kind


def test_the_fates_of_a_seed_are_these() -> None:
    fates = [WEATHER.fate(1.0, number) for number in range(12)]
    assert [(fate.action, round(fate.delay, 4), fate.retry_after) for fate in fates] == FATES_OF_SEED_1


def test_another_seed_has_other_fates() -> None:
    assert Weather(2, 20.0).fate(1.0, 0) != WEATHER.fate(1.0, 0)


def test_a_fate_depends_on_the_slot_and_not_on_the_instant_in_it() -> None:
    assert slot(1.02) == slot(1.08)
    assert WEATHER.fate(1.02, 3) == WEATHER.fate(1.08, 3)
    assert WEATHER.fate(1.02, 3) != WEATHER.fate(1.12, 3)


def test_fair_weather_keeps_its_ratios() -> None:
    fates = [Weather(seed, 20.0).fate(1.0, 0) for seed in range(20_000)]
    actions = Counter(fate.action for fate in fates)
    slow = sum(fate.action == "answer" and fate.delay >= weather.SLOW_DELAY[0] for fate in fates)
    assert actions["reset"] / len(fates) == pytest.approx(weather.RESET_RATIO, abs=0.006)
    assert actions["unavailable"] / len(fates) == pytest.approx(weather.UNAVAILABLE_RATIO, abs=0.006)
    assert slow / len(fates) == pytest.approx(weather.SLOW_RATIO, abs=0.005)


def test_fair_weather_answers_with_a_tail() -> None:
    delays = sorted(
        fate.delay for seed in range(4_000) if (fate := Weather(seed, 20.0).fate(1.0, 0)).action == "answer"
    )
    assert delays[len(delays) // 2] == pytest.approx(weather.USUAL_DELAY, rel=0.2)
    assert delays[-1] > 50 * weather.USUAL_DELAY


def test_nothing_is_answered_in_the_outage_and_what_hangs_ends_with_it() -> None:
    fates = [WEATHER.fate(9.5, number) for number in range(200)]
    assert {fate.action for fate in fates} == {"reset"}
    assert {fate.delay for fate in fates} == {1.5, 0.002}
    hanging = sum(fate.delay == 1.5 for fate in fates)
    assert hanging / len(fates) == pytest.approx(weather.HANG_RATIO, abs=0.1)


@pytest.mark.parametrize(
    ("seconds", "at", "retry_after"), [(20.0, 11.0, 1), (20.0, 11.9, 1), (60.0, 33.0, 3), (60.0, 35.5, 1)]
)
def test_a_restarting_service_says_when_it_will_be_back(seconds: float, at: float, retry_after: int) -> None:
    assert Weather(1, seconds).fate(at, 0) == Fate("unavailable", 0.002, retry_after=retry_after)


def test_a_503_in_fair_weather_says_nothing_about_when() -> None:
    blips = [fate for seed in range(500) if (fate := Weather(seed, 20.0).fate(1.0, 0)).action == "unavailable"]
    assert blips
    assert {blip.retry_after for blip in blips} == {None}
