"""Recorder keeps what it hears, in order."""

from __future__ import annotations

import trioresil
from trioresil.abc import Instrument
from trioresil.testing import Recorder

RETRY = trioresil.Retry(on=OSError)
SEEN = trioresil.PolicySeen(policy=RETRY)
GAVE_UP = trioresil.RetryGaveUp(policy=RETRY, reason="attempts", attempts=1, waited=0.0, error=None, errors=())


def test_it_is_an_instrument() -> None:
    assert isinstance(Recorder(), Instrument)


def test_events_are_kept_oldest_first() -> None:
    recorder = Recorder()
    for event in (SEEN, GAVE_UP, SEEN):
        recorder.record(event)
    assert recorder.events == [SEEN, GAVE_UP, SEEN]
    assert recorder.events[0] is SEEN
    assert repr(recorder) == "<trioresil.testing.Recorder of 3 events>"


def test_of_picks_one_class_and_those_derived_from_it() -> None:
    recorder = Recorder()
    for event in (SEEN, GAVE_UP):
        recorder.record(event)
    assert recorder.of(trioresil.RetryGaveUp) == [GAVE_UP]
    assert recorder.of(trioresil.Event) == [SEEN, GAVE_UP]
    assert recorder.of(trioresil.TimedOut) == []


def test_clear_forgets_all() -> None:
    recorder = Recorder()
    recorder.record(SEEN)
    recorder.record(GAVE_UP)
    recorder.clear()
    assert recorder.events == []
    recorder.record(GAVE_UP)
    assert recorder.events == [GAVE_UP]


def test_recorders_share_nothing() -> None:
    first, second = Recorder(), Recorder()
    first.record(SEEN)
    assert second.events == []


async def test_it_hears_what_happens_in_its_block_only() -> None:
    recorder = Recorder()

    async def work() -> None: ...

    await RETRY.call(work)
    with trioresil.instrument(recorder):
        await RETRY.call(work)
    await RETRY.call(work)
    assert recorder.events == [SEEN]
