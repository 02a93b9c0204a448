"""The bucket as one instant: against a naive model in whole numbers, and the check of every window."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.shared._windows import excess
from trioresil._kernel.gcra import State, give_back, lead_at, pause, reserve, settle

TOKEN = 1000  # microseconds
BURST = 5 * TOKEN
NOW = 1_700_000_000_000_000

STEPS = st.lists(
    st.tuples(
        st.integers(0, 8000), st.lists(st.integers(1, 5), min_size=1, max_size=4), st.sampled_from([-1, 0, 3000])
    ),
    max_size=40,
)


@given(steps=STEPS)
def test_it_grants_what_a_bucket_would_and_when(steps: list[tuple[int, list[int], int]]) -> None:
    state: State | None = None
    now, full_at = NOW, 0  # the model: the instant from which on it is full
    grants: list[tuple[float, float]] = []
    for after, sizes, max_wait in steps:
        now += after
        found = reserve(state, now, sizes, token_time=TOKEN, burst=BURST, max_wait=max_wait)
        admitted, refused, model = 0, -1, max(full_at, now)
        for size in sizes:
            wait = model + size * TOKEN - now - BURST
            if wait > max_wait >= 0:
                refused = wait
                break
            model += size * TOKEN
            admitted += 1
            grants.append(((now + max(0, wait) - NOW) / 1e6, size))
        assert (found.base, found.admitted, found.refused) == (max(0, full_at - now), admitted, refused)
        assert (found.state is None) is (admitted == 0)
        if admitted:
            full_at, state = model, found.state
            assert state is not None
            assert now + lead_at(state, now) == full_at
    assert excess(grants, rate=1e6 / TOKEN, burst=5) <= 1e-6


def test_full_it_has_its_capacity_and_no_more() -> None:
    found = reserve(None, NOW, [1] * 9, token_time=TOKEN, burst=BURST, max_wait=0)
    assert (found.admitted, found.refused) == (5, TOKEN)
    assert found.state == (NOW, BURST)


def test_what_is_beside_is_taken_only_if_it_is_there() -> None:
    for sizes, wanted, got in (([1], 9, 4), ([1], 2, 2), ([5], 9, 0), ([6], 9, 0)):
        found = reserve(None, NOW, sizes, token_time=TOKEN, burst=BURST, max_wait=-1, extra=wanted)
        assert found.extra == got
        assert found.state == (NOW, (sum(sizes) + got) * TOKEN)
    refused = reserve((NOW, BURST), NOW, [1], token_time=TOKEN, burst=BURST, max_wait=0, extra=9)
    assert (refused.extra, refused.state) == (0, None)
    behind = reserve(None, NOW, [3, 3], token_time=TOKEN, burst=BURST, max_wait=0, extra=2)
    assert (behind.admitted, behind.extra) == (1, 0)  # not past somebody who was refused
    half = reserve((NOW, 1.5 * TOKEN), NOW, [], token_time=TOKEN, burst=BURST, max_wait=-1, extra=9)
    assert half.extra == 3  # whole ones only


def test_a_clock_that_is_set_back_takes_the_state_along() -> None:
    state = (NOW, 2.0 * TOKEN)
    assert lead_at(state, NOW - 3_600_000_000) == 2 * TOKEN
    assert lead_at(state, NOW + TOKEN) == TOKEN
    assert lead_at(state, NOW + 3_600_000_000) == 0


def test_only_the_last_reservation_is_given_back() -> None:
    empty = (NOW, 0.0)
    states = [empty, (NOW, 1000.0), (NOW, 2000.0), (NOW, 3000.0)]
    slots = [(states[n], states[n - 1]) for n in (3, 2, 1)]
    assert give_back(states[3], slots) == (empty, 3)
    assert give_back(states[3], slots[:2]) == (states[1], 2)
    assert give_back(states[3], slots[1:]) == (None, 0)  # from the middle: others have reserved behind it
    assert give_back(states[3], [slots[0], slots[2]]) == (states[2], 1)
    assert give_back(None, slots) == (None, 0)


def test_settling_charges_and_gives_back_but_never_more_than_is_full() -> None:
    assert settle(None, NOW, 3, token_time=TOKEN) == (NOW, 3000)
    assert settle((NOW - 1000, 3000.0), NOW, 2, token_time=TOKEN) == (NOW, 4000)
    assert settle((NOW, 3000.0), NOW, -2, token_time=TOKEN) == (NOW, 1000)
    assert settle((NOW, 1000.0), NOW, -2, token_time=TOKEN) == (NOW, 0)


def test_a_pause_grants_nothing_and_never_shortens_what_is_reserved() -> None:
    paused = pause(None, NOW, 7000, burst=BURST)
    found = reserve(paused, NOW, [1], token_time=TOKEN, burst=BURST, max_wait=-1)
    assert found.state == (NOW, 7000 + BURST + TOKEN)  # ready a token's time after the pause
    assert pause((NOW, 60_000.0), NOW, 7000, burst=BURST) == (NOW, 60_000)
