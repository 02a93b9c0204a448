"""A mailbox: a bounded queue of items, and who waits at its two ends.

The law of this file:

1. An item is in one place: with a sender that waits, in the queue, taken, or dropped. Each move is one step, in which whoever
   waits for it is told.
2. Readers wait only while there is nothing to take; senders only while the queue is full. So nobody is passed by: an item that
   is put goes to the reader that waits longest, and the place that a reader makes to the sender that waits longest.
3. received = delivered + dropped + len(queue); what a waiting sender still has is not received yet.
4. With "drop_oldest" and "drop_newest" nobody ever waits to put.

Rejected: Trio's memory channel, whose sender learns that its item has gone in only when it runs again; until then nobody knows
from where a connection that takes its place must go on. And which can't drop its oldest item without barging past its readers.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Generic, Literal, Protocol, TypeAlias, TypeVar

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)
T_co = TypeVar("T_co", covariant=True)
WhenFull: TypeAlias = Literal["wait", "drop_oldest", "drop_newest"]


class Reader(Protocol[T_contra]):
    """Who waits for an item."""

    def give(self, item: T_contra, /) -> None:
        """Take the item, which was put."""


class Sender(Protocol[T_co]):
    """Who waits to put an item."""

    @property
    def item(self) -> T_co:
        """What it wants to put."""

    def entered(self) -> None:
        """Take note that the item is in the queue, or taken."""


class Put(enum.Enum):
    """What became of an item."""

    ENTERED = "it is in the queue, or taken"
    DROPPED = "it was dropped"
    FULL = "nothing: there is no room for it"


class Mailbox(Generic[T]):
    """The queue.

    Args:
      size (int >= 0): how many items it holds; with 0 each goes from hand to hand.
      when_full ("wait", "drop_oldest", "drop_newest"): what happens to an item if it is full. "drop_oldest" needs a size >= 1.
    """

    __slots__ = ("_items", "_readers", "_senders", "delivered", "dropped", "received", "size", "when_full")

    def __init__(self, size: int, when_full: WhenFull) -> None:
        self.size = size
        self.when_full = when_full
        self._items: deque[T] = deque()
        self._readers: dict[Reader[T], None] = {}
        self._senders: dict[Sender[T], None] = {}
        self.received = 0
        self.delivered = 0
        self.dropped = 0

    def put(self, item: T) -> Put:
        """Put an item, if there is room for it, or if there is a way to make some."""
        if self._readers:
            reader = next(iter(self._readers))
            del self._readers[reader]
            self.received += 1
            self.delivered += 1
            reader.give(item)
            return Put.ENTERED
        if len(self._items) >= self.size:
            if self.when_full == "wait":
                return Put.FULL
            self.dropped += 1
            if self.when_full == "drop_newest":
                self.received += 1
                return Put.DROPPED
            self._items.popleft()
        self.received += 1
        self._items.append(item)
        return Put.ENTERED

    def take(self) -> T:
        """Take the oldest item; IndexError if there is none."""
        if self._senders:
            sender = next(iter(self._senders))
            del self._senders[sender]
            self.received += 1
            self._items.append(sender.item)
            sender.entered()
        item = self._items.popleft()
        self.delivered += 1
        return item

    def wait_to_put(self, sender: Sender[T]) -> None:
        """Join the queue of senders, after a put that found it full."""
        self._senders[sender] = None

    def wait_to_take(self, reader: Reader[T]) -> None:
        """Join the queue of readers, after a take that found nothing."""
        self._readers[reader] = None

    def withdraw_sender(self, sender: Sender[T]) -> None:
        """Leave the queue of senders: the item was not put."""
        self._senders.pop(sender, None)

    def withdraw_reader(self, reader: Reader[T]) -> None:
        """Leave the queue of readers."""
        self._readers.pop(reader, None)

    @property
    def readers(self) -> list[Reader[T]]:
        """Who waits for an item, longest first."""
        return list(self._readers)

    @property
    def waiting_to_put(self) -> int:
        """How many senders wait."""
        return len(self._senders)

    def __len__(self) -> int:
        return len(self._items)
