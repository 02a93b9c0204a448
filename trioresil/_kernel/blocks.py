"""Who is inside of which block: a LIFO of tickets for each task.

The law:

- A block form has nothing but the task to tell its entries apart, so the last entered is the first left.
- Where tickets of different generations are open in one task, nobody can tell which of them is being left (generators may
  interleave): then the exit gives no verdict.
- A task that leaves a block without having entered one finishes what another task began (a generator that was handed over, by a
  task that may have ended since): the oldest open ticket of all is dropped, so that its slot comes back, and gives no verdict.
- A ticket older than the lease, whose slot is given away anyway, is dropped when its task enters another block; its own exit then
  finds an entry in `_expired` rather than somebody else's ticket.
- Every entry is ended by one exit, somewhere. So as many tickets are open as blocks are, whoever left which.

Rejected: holding tasks weakly. A block that outlives the task that entered it would take its slot along.
"""

from __future__ import annotations

from collections.abc import Hashable

from .circuit import Ticket


class BlockStacks:
    """The open tickets of each owner, which is a task."""

    __slots__ = ("_expired", "_stacks")

    def __init__(self) -> None:
        self._stacks: dict[Hashable, list[Ticket]] = {}  # none of them empty
        self._expired: dict[Hashable, int] = {}  # none of them 0

    def __len__(self) -> int:
        return sum(map(len, self._stacks.values()))

    def push(self, owner: Hashable, ticket: Ticket, oldest: float) -> None:
        """Note an entry, and drop the owner's tickets that were admitted at `oldest` or before."""
        stack = self._stacks.get(owner)
        if stack is None:
            self._stacks[owner] = [ticket]
            return
        kept = [each for each in stack if each.admitted_at > oldest]
        if len(kept) < len(stack):
            self._expired[owner] = self._expired.get(owner, 0) + len(stack) - len(kept)
            stack[:] = kept
        stack.append(ticket)

    def pop(self, owner: Hashable) -> tuple[Ticket | None, bool]:
        """Note an exit. Return the ticket that it ends, and whether the exit may give a verdict."""
        stack = self._stacks.get(owner)
        if stack is not None:
            certain = all(each.generation == stack[-1].generation for each in stack)
            return self._take(owner, -1), certain
        if owner in self._expired:
            self._expired[owner] -= 1
            if not self._expired[owner]:
                del self._expired[owner]
            return None, False
        return self._pop_oldest(), False

    def clear(self) -> None:
        """Forget everything: whoever was inside belonged to a run that has ended."""
        self._stacks.clear()
        self._expired.clear()

    def _pop_oldest(self) -> Ticket | None:
        if not self._stacks:
            return None
        return self._take(min(self._stacks, key=lambda owner: self._stacks[owner][0].admitted_at), 0)

    def _take(self, owner: Hashable, place: int) -> Ticket:
        stack = self._stacks[owner]
        ticket = stack.pop(place)
        if not stack:
            del self._stacks[owner]
        return ticket
