"""A token bucket as one instant, for a state that many processes reserve from.

The law:

- The state is the *theoretical arrival time*: the instant at which the bucket will be full again, and `seen`, when it was
  last looked at. Instants are microseconds of the server's clock.
- n tokens take it on by n times the time of one, from now at least. They may be used at `wait` after now: as soon as the bucket
  could hold what is still out then. So reservations get instants one after the other, in the order in which they were made.
- A reservation that would wait longer than is allowed changes nothing, and nor does any after it in the same step.
- `extra` tokens are taken beside as far as they are there at once, and never waited for.
- In every window the tokens whose instants lie in it are <= capacity + rate * window.
- A clock that is set back takes the state along, by as much as it is seen to go back: nobody waits for that hour again.
- Only the last reservation can be given back: the state is compared with where it led to. Moving it back from anywhere else
  would hand out what others have reserved already: 51 where 1 is allowed.

Source: the generic cell rate algorithm (ITU-T I.371), with reservations as in Go's x/time/rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

State: TypeAlias = tuple[float, float]
"""The theoretical arrival time, and when the state was last looked at; both in microseconds."""


class Reserved(NamedTuple):
    """What came of asking for several reservations."""

    state: State | None
    """The new state; None if nothing has changed."""
    base: float
    """The theoretical arrival time from which the first one went on."""
    admitted: int
    """How many of the reservations were made."""
    refused: float
    """How long the first that wasn't made would have waited, in microseconds; below 0 if all were."""
    extra: float
    """Tokens taken beside."""


def arrival(state: State | None, now: float) -> float:
    """Return the theoretical arrival time as of now, never in the past; a clock that was set back takes it along."""
    if state is None:
        return now
    tat, seen = state
    if now < seen:
        tat -= seen - now
    return max(tat, now)


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
    base = tail = arrival(state, now)
    refused = -1.0
    admitted = 0
    for size in sizes:
        end = tail + size * token_time
        wait = end - burst - now
        if wait > max_wait >= 0:
            refused = wait
            break
        tail = end
        admitted += 1
    taken = 0.0
    if extra > 0 and refused < 0:
        there = math.floor((burst - (tail - now)) / token_time) if token_time > 0 else extra
        taken = float(max(0, min(there, extra)))
        tail += taken * token_time
    return Reserved((tail, now) if tail > base else None, base, admitted, refused, taken)


def give_back(state: State | None, now: float, slots: Sequence[tuple[float, float]]) -> tuple[State | None, int]:
    """Give reservations back, as long as each is the last one; return the new state and how many that were.

    Args:
      state (State): what was kept.
      now (float, microseconds): the server's time.
      slots (list of end and start): where each took the state to, and from where; the latest first.
    """
    if state is None or now < state[1]:
        return None, 0
    tat = state[0]
    count = 0
    for end, start in slots:
        if tat != end:
            break
        tat = start
        count += 1
    return ((tat, now) if count else None), count


def settle(state: State | None, now: float, tokens: float, *, token_time: float) -> State:
    """Charge tokens that were used and not taken, or below 0 give back what was taken and not used."""
    return max(arrival(state, now) + tokens * token_time, now), now


def pause(state: State | None, now: float, duration: float, *, burst: float) -> State:
    """Empty the bucket, and keep it so for `duration` microseconds."""
    return max(arrival(state, now), now + duration + burst), now
