"""Block stacks: a LIFO for each task, and what becomes of tickets that another task leaves behind."""

from __future__ import annotations

import gc
import math
import weakref
from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st

from tests.kernel._prove import prove
from trioresil._kernel.blocks import BlockStacks
from trioresil._kernel.circuit import Ticket

NEVER = -math.inf


def test_the_last_entered_is_the_first_left() -> None:
    blocks = BlockStacks()
    outer, inner = Ticket(1, 0.0), Ticket(1, 1.0)
    blocks.push("a", outer, NEVER)
    blocks.push("a", inner, NEVER)
    assert len(blocks) == 2
    assert blocks.pop("a") == (inner, True)
    assert blocks.pop("a") == (outer, True)
    assert len(blocks) == 0


def test_each_task_has_its_own() -> None:
    blocks = BlockStacks()
    first, second = Ticket(1, 0.0), Ticket(2, 1.0)
    blocks.push("a", first, NEVER)
    blocks.push("b", second, NEVER)
    assert len(blocks) == 2
    assert blocks.pop("a") == (first, True)
    assert blocks.pop("b") == (second, True)


def test_of_different_generations_nobody_can_tell_which_is_left() -> None:
    blocks = BlockStacks()
    first, second, third = Ticket(1, 0.0), Ticket(2, 1.0), Ticket(2, 1.0)
    for ticket in (first, second, third):
        blocks.push("a", ticket, NEVER)
    assert blocks.pop("a") == (third, False)
    assert blocks.pop("a") == (second, False)
    assert blocks.pop("a") == (first, True)


def test_left_in_a_task_that_has_none_the_oldest_of_all_is_dropped() -> None:
    blocks = BlockStacks()
    oldest, younger, other = Ticket(1, 1.0), Ticket(1, 3.0), Ticket(1, 2.0)
    for owner, ticket in (("b", other), ("a", oldest), ("a", younger)):
        blocks.push(owner, ticket, NEVER)
    assert blocks.pop("stranger") == (oldest, False)
    assert blocks.pop("stranger") == (other, False)
    assert blocks.pop("a") == (younger, True)
    assert blocks.pop("stranger") == (None, False)
    assert blocks.pop("a") == (None, False)


def test_a_ticket_outlives_the_task_that_took_it() -> None:
    class Owner:
        pass

    blocks = BlockStacks()
    owner, ticket = Owner(), Ticket(1, 1.0)
    gone = weakref.ref(owner)
    blocks.push(owner, ticket, NEVER)
    del owner
    gc.collect()
    assert blocks.pop("stranger") == (ticket, False)
    assert gone() is None  # and with the last ticket the task is let go


def test_tickets_as_old_as_the_lease_are_dropped_at_the_next_entry_and_their_exits_find_nobody_elses() -> None:
    blocks = BlockStacks()
    old, edge, fresh, new = (Ticket(1, at) for at in (1.0, 2.0, 2.5, 6.0))
    foreign = Ticket(1, 0.0)
    blocks.push("b", foreign, NEVER)
    for ticket in (old, edge, fresh):
        blocks.push("a", ticket, NEVER)
    blocks.push("a", new, 2.0)
    assert len(blocks) == 3
    assert blocks.pop("a") == (new, True)
    assert blocks.pop("a") == (fresh, True)
    assert blocks.pop("a") == (None, False)
    assert blocks.pop("a") == (None, False)
    assert blocks.pop("a") == (foreign, False)  # this exit has no entry of its own


def test_drops_of_several_entries_add_up() -> None:
    blocks = BlockStacks()
    foreign = Ticket(1, 0.0)
    blocks.push("b", foreign, NEVER)
    tickets = [Ticket(1, float(at)) for at in range(4)]
    for ticket in tickets:
        blocks.push("a", ticket, ticket.admitted_at - 1.0)
        assert len(blocks) == 2
    assert blocks.pop("a") == (tickets[3], True)
    assert [blocks.pop("a") for _ in range(4)] == [(None, False)] * 3 + [(foreign, False)]


def test_dropping_all_that_a_task_has_leaves_the_new_one() -> None:
    blocks = BlockStacks()
    old, new = Ticket(1, 0.0), Ticket(2, 9.0)
    blocks.push("a", old, NEVER)
    blocks.push("a", new, 5.0)
    assert len(blocks) == 1
    assert blocks.pop("a") == (new, True)


def test_clear_forgets_tickets_and_dropped_ones() -> None:
    blocks = BlockStacks()
    blocks.push("a", Ticket(1, 0.0), NEVER)
    blocks.push("a", Ticket(1, 9.0), 5.0)
    blocks.push("b", Ticket(1, 9.0), 5.0)
    blocks.clear()
    assert len(blocks) == 0
    other = Ticket(1, 10.0)
    blocks.push("c", other, 5.0)
    assert blocks.pop("a") == (other, False)


# --- a model: one list of entries in the order of time ---------------------------------------------------------------


@attrs.define(eq=False)
class Entry:
    owner: str
    ticket: Ticket
    dropped: bool = False


class Model:
    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def of(self, owner: str, dropped: bool) -> list[Entry]:
        return [entry for entry in self.entries if entry.owner == owner and entry.dropped is dropped]

    def push(self, owner: str, ticket: Ticket, oldest: float) -> None:
        late = [entry for entry in self.of(owner, dropped=False) if entry.ticket.admitted_at <= oldest]
        for entry in late:
            entry.dropped = True
        self.entries.append(Entry(owner, ticket))

    def pop(self, owner: str) -> tuple[Ticket | None, bool]:
        mine, dropped = self.of(owner, dropped=False), self.of(owner, dropped=True)
        if mine:
            self.entries.remove(mine[-1])
            return mine[-1].ticket, len({entry.ticket.generation for entry in mine}) == 1
        if dropped:
            self.entries.remove(dropped[0])
            return None, False
        living = [entry for entry in self.entries if not entry.dropped]
        if not living:
            return None, False
        self.entries.remove(living[0])
        return living[0].ticket, False


pushes = st.tuples(st.just("push"), st.sampled_from("abc"), st.integers(0, 1), st.sampled_from([1.0, 4.0, math.inf]))
pops = st.tuples(st.just("pop"), st.sampled_from("abcd"))


@prove
@given(st.lists(st.one_of(pushes, pops), max_size=40))
def test_stacks_do_what_one_list_of_entries_does(script: list[tuple[Any, ...]]) -> None:
    blocks, model = BlockStacks(), Model()
    for now, (operation, owner, *arguments) in enumerate(script):
        if operation == "push":
            generation, lease = arguments
            ticket = Ticket(generation, float(now))
            blocks.push(owner, ticket, now - lease)
            model.push(owner, ticket, now - lease)
        else:
            assert blocks.pop(owner) == model.pop(owner)
        assert len(blocks) == sum(not entry.dropped for entry in model.entries)
