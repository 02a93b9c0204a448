"""A token bucket as one instant, for a state that many processes reserve from.

The law:

- The state is `seen`, when it was last changed, and `lead`: how long from then on until the bucket is full again. Both are in
  microseconds of the server's clock. As one instant it would be a float with steps of a quarter of a microsecond, since 1970:
  rounding to those granted 1 % too much at 99,000 a second, and all that was asked for at ten million.
- n tokens take it on by n times the time of one, from now at least. They may be used at `wait` after now: as soon as the bucket
  could hold what is still out then. So reservations get instants one after the other, in the order in which they were made.
- A reservation that would wait longer than is allowed changes nothing, and nor does any after it in the same step.
- `extra` tokens are taken beside as far as they are there at once, and never waited for.
- In every window the tokens whose instants lie in it are <= capacity + rate * window.
- A clock that is set back takes the state along: nothing is ready sooner or later for it, so nobody waits for that hour again.
- Only the last reservation can be given back: the state is compared with where it led to. Moving it back from anywhere else
  would hand out what others have reserved already: 51 where 1 is allowed.

Source: the generic cell rate algorithm (ITU-T I.371), with reservations as in Go's x/time/rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

State: TypeAlias = tuple[float, float]
"""When it was last changed, and how long from then on until the bucket is full again; both in microseconds."""


class Reserved(NamedTuple):
    """What came of asking for several reservations."""

    state: State | None
    """The new state; None if nothing has changed."""
    base: float
    """How long until the bucket would have been full again, from now on, without them."""
    admitted: int
    """How many of the reservations were made."""
    refused: float
    """How long the first that wasn't made would have waited, in microseconds; below 0 if all were."""
    extra: float
    """Tokens taken beside."""


def lead_at(state: State | None, now: float) -> float:
    """Return how long until the bucket is full again; a clock that was set back takes the state along."""
    if state is None:
        return 0.0
    seen, lead = state
    return max(0.0, lead - max(0.0, now - seen))


def reserve(
    state: State | None,
    now: float,
    sizes: Sequence[float],
    *,
    token_time: float,
    burst: float,
    max_wait: float,
    extra: float = 0.0,
) -> Reserved:
    """Reserve tokens for several, one after the other.

    Args:
      state (State): what was kept; None: the bucket is full.
      now (float, microseconds): the server's time.
      sizes (list of float, tokens): how many each wants.
      token_time (float, microseconds): 1 / rate.
      burst (float, microseconds): capacity / rate.
      max_wait (float, microseconds): longest wait; below 0: any.
      extra (float, tokens): how many to take beside, if they are there.
    """
    base = tail = lead_at(state, now)
    refused = -1.0
    admitted = 0
    for size in sizes:
        end = tail + size * token_time
        wait = end - burst
        if wait > max_wait >= 0:
            refused = wait
            break
        tail = end
        admitted += 1
    taken = 0.0
    if extra > 0 and refused < 0:
        there = math.floor((burst - tail) / token_time) if token_time > 0 else extra
        taken = float(max(0, min(there, extra)))
        tail += taken * token_time
    return Reserved((now, tail) if tail > base else None, base, admitted, refused, taken)


def give_back(state: State | None, slots: Sequence[tuple[State, State]]) -> tuple[State | None, int]:
    """Give reservations back, as long as each is the last one; return the new state, None if none was, and how many were.

    Args:
      state (State): what was kept.
      slots (list of end and start): which state each has left, and which it had found; the latest first.
    """
    count = 0
    for end, start in slots:
        if state != end:
            break
        state = start
        count += 1
    return (state if count else None), count


def settle(state: State | None, now: float, tokens: float, *, token_time: float) -> State:
    """Charge tokens that were used and not taken, or below 0 give back what was taken and not used."""
    return now, max(lead_at(state, now) + tokens * token_time, 0.0)


def pause(state: State | None, now: float, duration: float, *, burst: float) -> State:
    """Empty the bucket, and keep it so for `duration` microseconds."""
    return now, max(lead_at(state, now), duration + burst)
