"""open_stream: cancelled at any moment, no item is lost or comes twice, the token is right, and nobody waits for nothing."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import trio

import trioresil._kernel.mailbox
import trioresil._services.stream
from trioresil import StreamLink, constant, open_stream
from trioresil._kernel.mailbox import Mailbox
from trioresil.testing import Sweep, SweepFailure, cancellation_sweep

LAST = 6


class House:
    """A stream of numbers that breaks now and then, what was read, and the invariants."""

    def __init__(self, sweep: Sweep, **options: Any) -> None:
        self.sweep = sweep
        self.read: list[int] = []
        self.entered: list[int] = []
        self.inside = 0
        options = {"on": OSError, "backoff": constant(0.5), "resume": 0, "buffer": 1} | options
        self.manager = open_stream(self.session, **options)
        self.stream: Any = None
        sweep.when_quiet(self.check)

    def check(self) -> None:
        if self.stream is None:
            return
        statistics, box = self.stream.statistics(), self.stream._mailbox
        assert statistics.received == statistics.delivered + statistics.buffered + statistics.dropped
        assert (
            statistics.resume == statistics.received
        )  # the numbers are the tokens, and none is missing or there twice
        assert not (box.readers and (statistics.buffered or box.waiting_to_put))
        assert not (box.waiting_to_put and statistics.buffered < box.size)
        assert self.inside <= 1
        assert not (statistics.state == "ended" and box.readers)

    async def session(self, link: StreamLink[int]) -> None:
        self.inside += 1
        try:
            for number in range(link.resume + 1, LAST + 1):
                await link.send_item(number, resume=number)
                if link.number < 3 and number % 2 == 0:
                    raise OSError
                await trio.sleep(0.25)
            link.finish()
        finally:
            self.inside -= 1

    async def reader(self, seconds: float = 0) -> None:
        async for item in self.stream:
            self.read.append(item)
            await trio.sleep(seconds)

    async def __aenter__(self) -> House:
        self.stream = await self.manager.__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> bool:
        return await self.manager.__aexit__(*exc)

    def finish(self) -> None:
        assert sorted(self.read) == [*range(1, LAST + 1)]
        assert self.inside == 0
        assert self.stream.statistics().resume == LAST


async def a_reader_is_cancelled(sweep: Sweep, **options: Any) -> None:
    """What a cancelled reader has not got, the other gets."""
    house = House(sweep, **options)

    async def victim() -> None:
        with sweep.victim():
            await house.reader(1)

    async with house, trio.open_nursery() as nursery:
        nursery.start_soon(victim)
        nursery.start_soon(house.reader, 0.75)
    house.finish()


async def a_send_item_is_cancelled(sweep: Sweep) -> None:
    """An item whose sending was cancelled is sent again by the session, or it has entered: never both."""
    house = House(sweep)

    async def session(link: StreamLink[int]) -> None:
        with sweep.victim() if link.number == 1 else trio.CancelScope():
            for number in range(link.resume + 1, LAST + 1):
                await link.send_item(number, resume=number)
        if link.resume == LAST:
            link.finish()

    house.manager = open_stream(session, on=OSError, backoff=constant(0.5), resume=0, buffer=1)
    async with house:
        await house.reader(0.25)
    house.finish()


async def the_whole_is_cancelled(sweep: Sweep) -> None:
    house = House(sweep)
    told: list[BaseException] = []

    async def outsider() -> None:
        try:
            await house.reader()
        except trio.ClosedResourceError as exc:
            told.append(exc)

    async def messenger() -> None:
        try:
            for _ in range(4):
                await house.stream.send("x")
        except (trio.ClosedResourceError, trio.BrokenResourceError) as exc:
            told.append(exc)

    async with trio.open_nursery() as nursery:
        with sweep.victim():
            async with house:
                nursery.start_soon(outsider)
                nursery.start_soon(messenger)
                await house.reader(0.25)
    assert house.inside == 0
    assert house.stream is None or house.stream.statistics().state == "ended"
    assert house.read == sorted(set(house.read)) or len(house.read) == LAST


async def a_sender_is_cancelled(sweep: Sweep) -> None:
    """A message is sent once, or not at all if send() was cancelled."""
    got: list[str] = []
    sent: list[str] = []

    async def session(link: StreamLink[int]) -> None:
        await trio.sleep(1)
        async for message in link.outgoing:
            got.append(message)
            if message == "last":
                link.finish()
                return
            if len(got) == 2:
                raise OSError

    async def victim() -> None:
        with sweep.victim():
            for message in "abc":
                await stream.send(message)
                sent.append(message)

    async with open_stream(session, on=OSError, backoff=constant(0.5), outgoing=1) as stream:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(victim)
        await stream.send("last")
        async for _ in stream:
            raise AssertionError
    assert got == [*sent, "last"]


SCENARIOS = {
    "a reader": a_reader_is_cancelled,
    "a reader, from hand to hand": functools.partial(a_reader_is_cancelled, buffer=0),
    "a reader of silent sessions": functools.partial(a_reader_is_cancelled, heartbeat_timeout=0.2),
    "send_item": a_send_item_is_cancelled,
    "the whole": the_whole_is_cancelled,
    "send": a_sender_is_cancelled,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_it_survives_a_cancellation_at_any_moment(name: str) -> None:
    cancellation_sweep(SCENARIOS[name])


# --- planted bugs ----------------------------------------------------------------------------------------------------


class ForgetsReaders(Mailbox[Any]):
    """A reader that has left stays in the queue."""

    def withdraw_reader(self, reader: Any) -> None:
        pass


class ForgetsSenders(Mailbox[Any]):
    """A sender that has left stays in the queue: its item enters all the same."""

    def withdraw_sender(self, sender: Any) -> None:
        pass


class HandsOnLate(Mailbox[Any]):
    """A place that becomes free isn't given to who waits for it."""

    def take(self) -> Any:
        if self._items:
            self.delivered += 1
            return self._items.popleft()
        return super().take()


async def reads_then_checks(stream: Any) -> Any:
    """A read with a checkpoint between taking the item and returning it."""
    item = await READ(stream)
    await trio.lowlevel.checkpoint()
    return item


READ = trioresil.Stream.__anext__


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "broken"),
    [
        (a_reader_is_cancelled, ForgetsReaders),
        (a_send_item_is_cancelled, ForgetsSenders),
        (a_reader_is_cancelled, HandsOnLate),
    ],
)
def test_the_sweep_sees_a_broken_queue(scenario: Any, broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trioresil._services.stream, "Mailbox", broken)
    with pytest.raises(SweepFailure):
        cancellation_sweep(scenario)


@pytest.mark.slow
def test_the_sweep_sees_an_item_lost_behind_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trioresil.Stream, "__anext__", reads_then_checks)
    with pytest.raises(SweepFailure):
        cancellation_sweep(a_reader_is_cancelled)
