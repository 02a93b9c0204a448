"""The mailbox: nothing is lost or passed by, whatever the order of puts, takes and departures."""

from __future__ import annotations

from collections import deque
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioresil._kernel.mailbox import Mailbox, Put, WhenFull


@attrs.define(eq=False)
class Sender:
    item: int
    log: list[Any]

    def entered(self) -> None:
        self.log.append(("entered", self.item))


@attrs.define(eq=False)
class Reader:
    name: int
    log: list[Any]

    def give(self, item: int) -> None:
        self.log.append(("given", self.name, item))


def test_items_come_out_in_order() -> None:
    box: Mailbox[int] = Mailbox(3, "wait")
    assert [box.put(item) for item in (1, 2, 3)] == [Put.ENTERED] * 3
    assert box.put(4) is Put.FULL
    assert [box.take() for _ in range(3)] == [1, 2, 3]
    with pytest.raises(IndexError):
        box.take()
    assert (box.received, box.delivered, box.dropped, len(box)) == (3, 3, 0, 0)


def test_a_place_that_is_made_goes_to_the_sender_that_waits_longest_in_the_same_step() -> None:
    box: Mailbox[int] = Mailbox(1, "wait")
    log: list[Any] = []
    box.put(1)
    for item in (2, 3):
        box.wait_to_put(Sender(item, log))
    assert box.waiting_to_put == 2
    assert (box.take(), log) == (1, [("entered", 2)])
    assert box.put(4) is Put.FULL
    assert (box.take(), log) == (2, [("entered", 2), ("entered", 3)])
    assert box.take() == 3


def test_with_no_room_at_all_items_go_from_hand_to_hand() -> None:
    box: Mailbox[int] = Mailbox(0, "wait")
    log: list[Any] = []
    box.wait_to_take(Reader(1, log))
    assert box.put(7) is Put.ENTERED
    assert log == [("given", 1, 7)]
    assert box.put(8) is Put.FULL
    box.wait_to_put(Sender(8, log))
    assert box.take() == 8
    assert log[1:] == [("entered", 8)]
    assert (box.received, box.delivered, len(box)) == (2, 2, 0)


def test_readers_get_items_in_the_order_of_their_arrival() -> None:
    box: Mailbox[int] = Mailbox(1, "wait")
    log: list[Any] = []
    for name in (1, 2, 3):
        box.wait_to_take(Reader(name, log))
    box.withdraw_reader(box.readers[1])
    box.put(7)
    box.put(8)
    assert log == [("given", 1, 7), ("given", 3, 8)]
    assert box.readers == []


def test_who_has_left_gets_and_puts_nothing() -> None:
    box: Mailbox[int] = Mailbox(0, "wait")
    log: list[Any] = []
    sender = Sender(1, log)
    box.wait_to_put(sender)
    box.withdraw_sender(sender)
    box.withdraw_sender(sender)
    with pytest.raises(IndexError):
        box.take()
    assert (log, box.received) == ([], 0)


@pytest.mark.parametrize(("when_full", "kept"), [("drop_oldest", [3, 4]), ("drop_newest", [1, 2])])
def test_what_is_dropped_is_counted(when_full: WhenFull, kept: list[int]) -> None:
    box: Mailbox[int] = Mailbox(2, when_full)
    puts = [box.put(item) for item in (1, 2, 3, 4)]
    assert puts[2:] == [Put.DROPPED if when_full == "drop_newest" else Put.ENTERED] * 2
    assert [box.take(), box.take()] == kept
    assert (box.received, box.delivered, box.dropped) == (4, 2, 2)


@given(
    size=st.integers(0, 3),
    when_full=st.sampled_from(["wait", "drop_oldest", "drop_newest"]),
    operations=st.lists(st.sampled_from(["put", "take", "leave", "go"]), max_size=60),
)
def test_it_is_a_queue_with_a_bound(size: int, when_full: WhenFull, operations: list[str]) -> None:
    """Against a model: one list of what is inside or waits to be, and one of readers."""
    if when_full == "drop_oldest":
        size += 1
    box: Mailbox[int] = Mailbox(size, when_full)
    log: list[Any] = []
    inside: deque[int] = deque()
    senders: deque[Sender] = deque()
    readers: deque[Reader] = deque()
    expected: list[Any] = []
    dropped = 0
    for number, operation in enumerate(operations):
        if operation == "put":
            if readers:
                expected.append(("given", readers.popleft().name, number))
            elif len(inside) < size:
                inside.append(number)
            elif when_full == "wait":
                senders.append(Sender(number, log))
            else:
                dropped += 1
                if when_full == "drop_oldest":
                    inside.popleft()
                    inside.append(number)
            if box.put(number) is Put.FULL:
                box.wait_to_put(senders[-1])
        elif operation == "take":
            if senders:
                inside.append(senders[0].item)
                expected.append(("entered", senders.popleft().item))
            if inside:
                assert box.take() == inside.popleft()
            else:
                with pytest.raises(IndexError):
                    box.take()
                readers.append(Reader(number, log))
                box.wait_to_take(readers[-1])
        elif operation == "leave" and senders:
            box.withdraw_sender(senders.pop())
        elif operation == "go" and readers:
            box.withdraw_reader(readers.popleft())
        assert log == expected
        assert len(box) == len(inside) <= size
        assert box.received == box.delivered + box.dropped + len(box)
        assert (box.dropped, box.waiting_to_put, box.readers) == (dropped, len(senders), list(readers))
