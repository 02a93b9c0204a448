"""open_stream against a model without tasks: the same items come out, at the same instants, over the same sessions."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from trioresil import StreamLink, constant, open_stream

Operation: TypeAlias = tuple[str, int]

operations = st.one_of(
    st.tuples(st.sampled_from(["send", "send", "send", "read", "read", "alive"]), st.just(0)),
    st.tuples(st.sampled_from(["break", "return", "stop sending", "stop reading"]), st.just(0)),
    st.tuples(st.just("sleep"), st.integers(1, 6)),
    st.tuples(st.sampled_from(["fail", "finish"] + ["send"] * 12), st.just(0)),
)
DELAY = 2.0


class Fatal(Exception):
    pass


@attrs.define
class Model:
    """Items are numbers, and their own tokens. Readers and senders are in order of arrival."""

    size: int
    when_full: str
    heartbeat: float
    now: float = 0.0
    session: int = 1
    next_at: float = math.inf  # when the next session begins
    silent_at: float = math.inf
    ended: str | None = None
    token: int = 0
    buffer: list[int] = attrs.field(factory=list)
    senders: list[int] = attrs.field(factory=list)
    readers: list[int] = attrs.field(factory=list)
    got: dict[int, int | str] = attrs.field(factory=dict)  # of each reader
    sent: dict[int, str] = attrs.field(factory=dict)  # of each item: how its send_item ended
    dropped: int = 0

    @property
    def runs(self) -> bool:
        return self.next_at == math.inf and self.ended is None

    def alive(self) -> None:
        self.silent_at = math.inf if self.senders else self.now + self.heartbeat

    def send(self, item: int) -> None:
        if not self.runs:
            return
        if self.readers:
            self.got[self.readers.pop(0)] = item
        elif len(self.buffer) < self.size:
            self.buffer.append(item)
        elif self.when_full == "wait":
            self.senders.append(item)
            self.alive()
            return
        else:
            self.dropped += 1
            if self.when_full == "drop_oldest":
                self.buffer = [*self.buffer[1:], item]
        self.token = item
        self.sent[item] = "sent"
        self.alive()

    def read(self, reader: int) -> None:
        if self.senders:
            item = self.senders.pop(0)
            self.buffer.append(item)
            self.token = item
            self.sent[item] = "sent"
            self.alive()
        if self.buffer:
            self.got[reader] = self.buffer.pop(0)
        elif self.ended:
            self.got[reader] = self.ended
        else:
            self.readers.append(reader)

    def stop_sending(self) -> None:
        if self.senders:
            self.sent[self.senders.pop(0)] = "cancelled"
            self.alive()

    def stop_reading(self) -> None:
        if self.readers:
            self.got[self.readers.pop(0)] = "cancelled"

    def end_session(self, ended: str | None = None) -> None:
        if not self.runs:
            return
        self.sent |= dict.fromkeys(self.senders, "cancelled")
        self.senders = []
        self.silent_at = math.inf
        self.ended = ended
        if ended is None:
            self.next_at = self.now + DELAY
            return
        self.got |= dict.fromkeys(self.readers, ended)
        self.readers = []

    def advance(self, now: float) -> None:
        while min(self.next_at, self.silent_at) <= now:
            self.now = min(self.next_at, self.silent_at)
            if self.next_at <= self.silent_at:
                self.next_at = math.inf
                self.session += 1
                self.silent_at = self.now + self.heartbeat
            else:
                self.end_session()
        self.now = now


class House:
    """The same with tasks."""

    def __init__(self) -> None:
        self.link: StreamLink[int] | None = None
        self.ending: trio.Event = trio.Event()
        self.how: Any = None
        self.nursery: trio.Nursery | None = None
        self.sending: dict[int, trio.CancelScope] = {}
        self.reading: dict[int, trio.CancelScope] = {}
        self.got: dict[int, int | str] = {}
        self.sent: dict[int, str] = {}

    async def session(self, link: StreamLink[int]) -> None:
        self.ending, self.how, self.link = trio.Event(), None, link
        try:
            async with trio.open_nursery() as self.nursery:
                await self.ending.wait()
                self.nursery.cancel_scope.cancel()
            if isinstance(self.how, Exception):
                raise self.how
        finally:
            self.link = self.nursery = None

    async def send(self, item: int) -> None:
        assert self.link is not None
        self.sent[item] = "cancelled"
        try:
            with trio.CancelScope() as self.sending[item]:
                await self.link.send_item(item, resume=item)
                self.sent[item] = "sent"
        finally:
            del self.sending[item]

    async def read(self, stream: Any, reader: int) -> None:
        with trio.CancelScope() as self.reading[reader]:
            self.got[reader] = "cancelled"
            try:
                self.got[reader] = await anext(stream)
            except (Fatal, StopAsyncIteration) as exc:
                self.got[reader] = type(exc).__name__
        del self.reading[reader]

    def end_session(self, how: Any) -> None:
        if self.link is not None:
            if how == "finish":
                self.link.finish()
            self.how = how
            self.ending.set()


async def compare(size: int, when_full: Any, heartbeat: float, todo: list[Operation]) -> None:
    model, house = Model(size, when_full, heartbeat), House()
    model.alive()
    manager = open_stream(
        house.session,
        on=OSError,
        backoff=constant(DELAY),
        heartbeat_timeout=heartbeat,
        buffer=size,
        when_full=when_full,
        resume=0,
    )
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        try:
            async with manager as stream:
                await wait_all_tasks_blocked()
                for number, (operation, amount) in enumerate(todo, 1):
                    if operation == "send":
                        model.send(number)
                        if house.nursery is not None:
                            house.nursery.start_soon(house.send, number)
                    elif operation == "read":
                        model.read(number)
                        nursery.start_soon(house.read, stream, number)
                    elif operation == "alive":
                        if model.runs:
                            model.alive()
                        if house.link is not None:
                            house.link.alive()
                    elif operation == "stop sending":
                        model.stop_sending()
                        for item in sorted(house.sending)[:1]:
                            house.sending[item].cancel()
                    elif operation == "stop reading":
                        model.stop_reading()
                        for reader in sorted(house.reading)[:1]:
                            house.reading[reader].cancel()
                    elif operation == "sleep":
                        model.advance(model.now + amount + 0.25)  # an instant at which nothing is due
                        await trio.sleep(amount + 0.25)
                    else:
                        ended = {"fail": "Fatal", "finish": "StopAsyncIteration"}.get(operation)
                        model.end_session(ended)
                        house.end_session({"break": OSError(), "fail": Fatal()}.get(operation, operation))
                    await wait_all_tasks_blocked()
                    agree(model, house, stream.statistics(), start)
                nursery.cancel_scope.cancel()
        except Fatal:
            assert model.ended == "Fatal"
            assert "Fatal" not in model.got.values()
        else:
            assert model.ended != "Fatal" or "Fatal" in model.got.values()
        nursery.cancel_scope.cancel()


def agree(model: Model, house: House, statistics: Any, start: float) -> None:
    assert trio.current_time() - start == model.now
    assert statistics.sessions == model.session
    assert {each: house.got[each] for each in model.got} == model.got
    assert {each: house.sent[each] for each in model.sent} == model.sent
    assert sorted(house.reading) == model.readers
    assert sorted(house.sending) == model.senders
    assert statistics.resume == model.token
    assert (statistics.buffered, statistics.dropped) == (len(model.buffer), model.dropped)
    assert (statistics.state == "ended") == (model.ended is not None)
    assert (house.link is not None) == model.runs


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(
    size=st.integers(0, 3),
    when_full=st.sampled_from(["wait", "wait", "drop_oldest", "drop_newest"]),
    heartbeat=st.sampled_from([math.inf, 4.0, 8.0]),
    todo=st.lists(operations, max_size=40),
)
def test_it_does_what_the_model_does(size: int, when_full: str, heartbeat: float, todo: list[Operation]) -> None:
    size += when_full == "drop_oldest"

    async def main() -> None:
        await compare(size, when_full, heartbeat, todo)

    trio.run(main, clock=MockClock(autojump_threshold=0))
