"""Stock against an exact model: whatever is done, each connection is in one state, and what is due goes in the right order."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from trioresil._kernel.stock import Kept, Stock

steps = st.lists(
    st.tuples(
        st.sampled_from(["connect", "fail", "made", "lease", "keep", "keep", "close", "closed", "due", "pass"]),
        st.integers(0, 20),
    ),
    max_size=60,
)


@settings(derandomize=True, database=None, deadline=None, max_examples=400)
@given(steps=steps, min_idle=st.integers(0, 2), max_idle_time=st.sampled_from([4, 16, math.inf]))
def test_every_connection_is_in_one_state_and_goes_when_it_is_due(
    steps: list[tuple[str, int]], min_idle: int, max_idle_time: float
) -> None:
    stock: Stock[int] = Stock(4, min_idle, max_idle_time)
    now, connecting, made, closing = 0.0, 0, 0, 0
    leased: list[Kept[int]] = []
    idle: list[tuple[Kept[int], float]] = []  # longest idle first, and since when
    timer = math.inf
    for step, value in steps:
        total = connecting + len(leased) + len(idle) + closing
        if step == "connect" and total < 4:
            stock.begin_connecting()
            connecting += 1
        elif step == "fail" and connecting:
            stock.fail_connecting()
            connecting -= 1
        elif step == "made" and connecting:
            kept = stock.lease_new(made, now, value + 1.0)
            assert (kept.connection, kept.opened_at, kept.is_dirty) == (made, now, False)
            leased.append(kept)
            connecting, made = connecting - 1, made + 1
        elif step == "lease":
            newest, taken = stock.newest(), stock.lease()
            assert newest is taken is (idle[-1][0] if idle else None)
            if taken is not None:
                idle.pop()
                leased.append(taken)
        elif step == "keep" and leased:
            kept = leased.pop(value % len(leased))
            timer = min(timer, stock.keep(kept, now))
            idle.append((kept, now))
        elif step == "close" and leased:
            leased.pop()
            stock.begin_closing()
            closing += 1
        elif step == "closed" and closing:
            stock.end_closing()
            closing -= 1
        elif step == "pass":
            now += value
        elif step == "due":
            expired = [kept for kept, _ in idle if kept.opened_at + (kept.expires_at - kept.opened_at) <= now]
            unused = [kept for kept, since in idle[: max(0, len(idle) - min_idle)] if since + max_idle_time <= now]
            wanted = (expired[0], "expired") if expired else (unused[0], "idle") if unused else None
            found = stock.lease_due(now)
            assert found == wanted
            if found is None:
                timer = stock.next_due()
            else:
                assert timer <= now  # one timer for the least of them would have rung
                idle = [each for each in idle if each[0] is not found[0]]
                leased.append(found[0])
        assert (stock.connecting, stock.leased, stock.idle, stock.closing, stock.opened) == (
            connecting,
            len(leased),
            len(idle),
            closing,
            made,
        )
        total = connecting + len(leased) + len(idle) + closing
        assert stock.lacks_idle() is (len(idle) < min_idle and total < 4)
        ends = [kept.expires_at for kept, _ in idle]
        ends += [since + max_idle_time for _, since in idle[: max(0, len(idle) - min_idle)]]
        assert stock.next_due() == min(ends, default=math.inf)
        assert timer <= stock.next_due()


def test_connection_expires_in_the_instant_in_which_its_lifetime_is_over() -> None:
    kept = Kept("a", 3.0, 7.0)
    assert not kept.is_expired(math.nextafter(10.0, 0))
    assert kept.is_expired(10.0)


def test_connection_that_never_expires_is_never_due() -> None:
    stock: Stock[str] = Stock(math.inf, 0, math.inf)
    stock.begin_connecting()
    kept = stock.lease_new("a", 0.0, math.inf)
    assert stock.keep(kept, 1.0) == math.inf == stock.next_due()
    assert stock.lease_due(1e300) is None
