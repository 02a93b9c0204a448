"""LoggingInstrument and StructlogInstrument: fitting levels, no flood, no secrets."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import structlog
import structlog.testing
import trio
from trio.testing import MockClock

import trioresil
from tests.telemetry._y import ERROR, SECRET, Mine, health_status, one_of_each
from trioresil import _events
from trioresil.telemetry import LoggingInstrument, StructlogInstrument

LEVELS = {
    "policy_seen": "debug",
    "call_finished": "debug",
    "call_rejected": "info",
    "retry_scheduled": "warning",
    "retry_gave_up": "error",
    "timed_out": "warning",
    "circuit_opened": "error",
    "circuit_half_opened": "warning",
    "circuit_closed": "info",
    "fell_back": "warning",
    "connection_opened": "debug",
    "connection_closed": "debug",
    "connect_failed": "warning",
    "certificate_reloaded": "info",
    "certificate_reload_failed": "error",
    "health_changed": "error",
    "child_failed": "error",
    "child_restarted": "warning",
    "stream_connected": "info",
    "stream_broken": "warning",
    "stream_gave_up": "error",
    "shutdown_requested": "info",
    "admission_closed": "info",
    "shutdown_cancelled": "warning",
}
RETRY = {"attempt": 1, "delay": 0.5, "error": ERROR}


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, logger="trioresil")
    return caplog


def retried(policy: Any, **fields: Any) -> trioresil.Event:
    return _events.RetryScheduled(policy=policy, **{**RETRY, **fields})


def test_each_event_is_logged_at_its_level_and_without_secrets(log: pytest.LogCaptureFixture) -> None:
    instrument, mine = LoggingInstrument(), Mine()
    for event in one_of_each(mine):
        instrument.record(event)
    heard = {each.message.split()[1]: each.levelname.lower() for each in log.records}
    assert heard == LEVELS
    assert all(each.message.startswith("mine: ") for each in log.records)
    assert all("\n" not in each.message for each in log.records)
    assert SECRET not in log.text
    assert SECRET not in str([each.__dict__ for each in log.records])


def test_a_record_says_what_the_event_says(log: pytest.LogCaptureFixture) -> None:
    mine = Mine()
    LoggingInstrument().record(retried(mine, error=OSError("reset by peer")))
    (record,) = log.records
    assert record.message == "mine: retry_scheduled attempt=1 delay=0.5 error='OSError: reset by peer'"
    fields = {"policy": "mine", "attempt": 1, "delay": 0.5, "error": "OSError: reset by peer"}
    assert record.__dict__["trioresil"] == fields


@pytest.mark.parametrize(
    ("state", "level"),
    [
        (trioresil.HealthState.HEALTHY, "INFO"),
        (trioresil.HealthState.DEGRADED, "WARNING"),
        (trioresil.HealthState.UNHEALTHY, "ERROR"),
        (trioresil.HealthState.UNKNOWN, "INFO"),
    ],
)
def test_a_check_is_logged_as_its_state_deserves(
    log: pytest.LogCaptureFixture, state: trioresil.HealthState, level: str
) -> None:
    mine = Mine("monitor")
    previous = trioresil.HealthState.UNKNOWN
    event = _events.HealthChanged(policy=mine, name="db", status=health_status(state), previous=previous)
    LoggingInstrument().record(event)
    (record,) = log.records
    assert record.levelname == level
    assert record.message.startswith(f"monitor: health_changed check=db state={state.value} previous=unknown error=")


async def test_an_outage_can_not_flood_the_log(autojump_clock: MockClock, log: pytest.LogCaptureFixture) -> None:
    instrument, one, two = LoggingInstrument(), Mine("one"), Mine("two")
    for _ in range(100):
        instrument.record(retried(one))
    instrument.record(retried(two))
    instrument.record(_events.CircuitOpened(policy=one, open_for=1.0, level=0, error=None))
    assert [each.message.split()[:2] for each in log.records] == [
        *[["one:", "retry_scheduled"]] * 10,
        ["two:", "retry_scheduled"],
        ["one:", "circuit_opened"],
    ]
    log.clear()
    await trio.sleep(1)
    for _ in range(12):
        instrument.record(retried(one))
    assert len(log.records) == 10
    assert log.messages[0].endswith(" left_out=90")
    assert "left_out" not in "".join(log.messages[1:])


def test_the_limit_is_an_option(log: pytest.LogCaptureFixture) -> None:
    mine = Mine()
    for most, expected in ((1, 1), (math.inf, 50)):
        log.clear()
        instrument = LoggingInstrument(max_per_second=most)

        async def flood(instrument: LoggingInstrument = instrument) -> None:
            for _ in range(50):
                instrument.record(retried(mine))

        trio.run(flood, clock=MockClock())
        assert len(log.records) == expected


async def test_many_names_are_no_way_around_the_limit(mock_clock: MockClock, log: pytest.LogCaptureFixture) -> None:
    instrument = LoggingInstrument(max_per_second=2)
    for _ in range(3):
        for number in range(3_000):
            instrument.record(retried(Mine(f"n{number}")))
        assert len(instrument._limiter) == 1_001
    assert len(log.records) == 1_000 * 2 + 2  # two of each of a thousand names, and two of all others
    mock_clock.jump(1)
    instrument.record(retried(Mine("new")))
    assert len(instrument._limiter) == 1  # those of another second are forgotten
    assert len(log.records) == 2_003


def test_what_the_logger_does_not_want_is_not_counted(log: pytest.LogCaptureFixture) -> None:
    instrument, mine = LoggingInstrument(max_per_second=1), Mine()
    log.set_level(logging.ERROR, logger="trioresil")
    instrument.record(retried(mine))
    assert log.records == []
    assert len(instrument._limiter) == 0


def test_another_logger_can_be_given(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="mine")
    mine = Mine()
    LoggingInstrument(logging.getLogger("mine")).record(retried(mine))
    LoggingInstrument(logging.LoggerAdapter(logging.getLogger("mine"), {})).record(retried(mine))
    assert [each.name for each in caplog.records] == ["mine", "mine"]


def test_events_of_somebody_else_are_ignored(log: pytest.LogCaptureFixture) -> None:
    class Own(trioresil.Event):
        pass

    mine = Mine()
    LoggingInstrument().record(Own(policy=mine))
    StructlogInstrument().record(Own(policy=mine))
    assert log.records == []


def test_structlog_gets_names_levels_and_fields_without_secrets() -> None:
    mine = Mine()
    with structlog.testing.capture_logs() as records:
        instrument = StructlogInstrument()
        for event in one_of_each(mine):
            instrument.record(event)
    assert {each["event"]: each["log_level"] for each in records} == LEVELS
    assert {each["policy"] for each in records} == {"mine"}
    assert SECRET not in str(records)
    (retry,) = [each for each in records if each["event"] == "retry_scheduled"]
    assert (retry["attempt"], retry["delay"]) == (1, 0.5)


async def test_structlog_is_not_flooded(autojump_clock: MockClock) -> None:
    mine = Mine()
    with structlog.testing.capture_logs() as records:
        instrument = StructlogInstrument(max_per_second=2)
        for _ in range(5):
            instrument.record(retried(mine))
        await trio.sleep(1)
        instrument.record(retried(mine))
    assert [each.get("left_out") for each in records] == [None, None, 3]


@pytest.mark.parametrize("kind", [LoggingInstrument, StructlogInstrument])
def test_wrong_arguments_are_refused(kind: Any) -> None:
    with pytest.raises(TypeError, match="logger must be a "):
        kind("trioresil")
    with pytest.raises(ValueError, match=r"max_per_second must be a whole number >= 1 or math\.inf, not 0"):
        kind(max_per_second=0)


async def test_with_it_installed_the_built_in_warnings_keep_quiet(log: pytest.LogCaptureFixture) -> None:
    async def fails() -> None:
        raise ConnectionError("x")

    with trioresil.instrument(LoggingInstrument()), pytest.raises(ConnectionError):
        await trioresil.Retry(on=OSError, backoff=[0], max_attempts=2).call(fails)
    assert [each.message.split()[1] for each in log.records] == ["policy_seen", "retry_scheduled", "retry_gave_up"]
