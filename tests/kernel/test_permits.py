"""The permits that processes share: who holds, who waits, and until when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trioresil._kernel.permits import LOST, WAITING, Permits

LEASE = 100


def test_who_is_not_heard_of_is_gone_at_the_end_of_its_lease_and_not_before() -> None:
    permits = Permits()
    permits.look(1000)
    assert permits.acquire("a", 1, LEASE, 9) == 1000
    permits.look(1000 + LEASE - 1)
    assert "a" in permits.fences
    assert permits.next_expiry() == 1
    permits.look(1000 + LEASE)
    assert permits == Permits(seen=1000 + LEASE, last=1000)
    assert permits.next_expiry() == -1


def test_who_comes_while_others_wait_waits_behind_them() -> None:
    permits = Permits()
    permits.look(1)
    permits.acquire("a", 1, LEASE, 9)
    assert permits.acquire("b", 1, LEASE, 9) == WAITING
    assert permits.acquire("c", 2, LEASE, 9) == WAITING  # one is free now, but b was here before
    assert [who for who, _ in permits.serve(2)] == ["b"]
    permits.release(["a"])
    assert [who for who, _ in permits.serve(2)] == ["c"]


def test_a_queue_that_is_full_takes_nobody() -> None:
    permits = Permits()
    permits.look(1)
    assert permits.acquire("a", 0, LEASE, 1) == WAITING
    assert permits.acquire("b", 0, LEASE, 1) is None
    assert "b" not in permits.expiries


def test_a_clock_that_is_set_back_takes_leases_along() -> None:
    permits = Permits()
    permits.look(10_000)
    permits.acquire("a", 1, LEASE, 9)
    permits.look(5_000)
    assert permits.next_expiry() == LEASE
    permits.look(5_000 + LEASE)
    assert not permits.fences


def test_a_holder_that_was_forgotten_takes_its_permit_again_if_one_is_free() -> None:
    permits = Permits()
    permits.look(10)
    permits.renew("old", 7, 1, LEASE)
    permits.renew("older", 5, 1, LEASE)
    permits.renew("waiter", WAITING, 1, LEASE)
    assert permits.standing([("old", 7), ("older", 5), ("waiter", WAITING)]) == [7, LOST, WAITING]
    assert "older" not in permits.expiries


steps = st.lists(
    st.tuples(st.sampled_from("arsl"), st.sampled_from("abcde"), st.integers(0, 150), st.integers(0, 3)), max_size=60
)


@given(steps)
def test_the_limit_holds_and_numbers_only_grow(plan: list[tuple[str, str, int, int]]) -> None:
    permits, now, latest = Permits(), 1000, 0
    for step, who, passed, limit in plan:
        now += passed
        permits.look(now)
        before = dict(permits.fences)
        if step == "a" and who not in permits.expiries:
            permits.acquire(who, limit, LEASE, 3)
        elif step == "r":
            permits.release([who])
        elif step == "l" and who in permits.expiries:
            permits.renew(who, permits.fences.get(who, WAITING), limit, LEASE)
        permits.serve(limit)
        new = [fence for who, fence in permits.fences.items() if who not in before]
        assert len(permits.fences) <= max(limit, len(before))
        assert len(permits.fences) >= min(limit, len(permits.expiries))  # nothing is free while somebody waits
        assert set(permits.expiries) == {*permits.fences, *permits.queue}
        assert not set(permits.fences) & set(permits.queue)
        assert all(fence > latest for fence in new)
        assert len(set(new)) == len(new)
        latest = max([latest, *new])
