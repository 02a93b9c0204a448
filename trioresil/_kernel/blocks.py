"""Who is inside of which block: a LIFO of tickets for each task.

The law:

- A block form has nothing but the task to tell its entries apart, so the last entered is the first left.
- Where tickets of different generations are open in one task, nobody can tell which of them is being left (generators may
  interleave): then the exit gives no verdict.
- A task that leaves a block without having entered one finishes what another task began (a generator that was handed over):
  the oldest open ticket of all is dropped, so that its slot comes back, and there is no verdict.
- A ticket older than the lease is dropped when its task enters another block; its own exit then finds an entry in `_expired`
  rather than somebody else's ticket.
- A task that is gone takes its stack with it.
"""

from __future__ import annotations

from collections.abc import Hashable
from weakref import WeakKeyDictionary

from .circuit import Ticket


class BlockStacks:
    """The open tickets of each owner, which is a task."""

    __slots__ = ("_expired", "_stacks")

    def __init__(self) -> None:
        self._stacks: WeakKeyDictionary[Hashable, list[Ticket]] = WeakKeyDictionary()
        self._expired: WeakKeyDictionary[Hashable, int] = WeakKeyDictionary()

    def __len__(self) -> int:
        return sum(map(len, self._stacks.values()))

    def owners(self) -> list[Hashable]:
        """Return who is inside of a block."""
        return list(self._stacks)

    def push(self, owner: Hashable, ticket: Ticket, oldest: float) -> list[Ticket]:
        """Note an entry. Return the owner's tickets from before `oldest`, which are dropped."""
        stack = self._stacks.setdefault(owner, [])
        dropped = [each for each in stack if each.admitted_at <= oldest]
        if dropped:
            stack[:] = [each for each in stack if each.admitted_at > oldest]
            self._expired[owner] = self._expired.get(owner, 0) + len(dropped)
        stack.append(ticket)
        return dropped

    def pop(self, owner: Hashable) -> tuple[Ticket | None, bool]:
        """Note an exit. Return the ticket that it ends, and whether the exit may give a verdict."""
        stack = self._stacks.get(owner)
        if stack:
            certain = all(each.generation == stack[-1].generation for each in stack)
            ticket = stack.pop()
            self._forget_empty(owner)
            return ticket, certain
        if self._expired.get(owner):
            self._expired[owner] -= 1
            return None, False
        return self._pop_oldest(), False

    def _pop_oldest(self) -> Ticket | None:
        found = [(stack[0].admitted_at, owner) for owner, stack in self._stacks.items() if stack]
        if not found:
            return None
        owner = min(found, key=lambda pair: pair[0])[1]
        ticket = self._stacks[owner].pop(0)
        self._forget_empty(owner)
        return ticket

    def _forget_empty(self, owner: Hashable) -> None:
        if not self._stacks[owner]:
            del self._stacks[owner]

    def shift(self, seconds: float) -> None:
        """Meet another clock: whoever was inside belonged to another run and is gone."""
        self._stacks.clear()
        self._expired.clear()
