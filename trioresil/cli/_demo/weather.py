"""What the flaky service does to each request: a pure function of the seed, the time, and nothing else.

The law:

- A fate depends on the seed, on the slot of time in which the request arrives, and on how many came before it in that slot.
  So two services with the same seed treat the n-th request of a slot alike, whoever sends it.
- The outage takes a fifth of the time, in the middle. It ends as outages do: the service is up again, but asks for patience.
- What hangs in the outage is cut off when the service is restarted. No request hangs for longer.
"""

from __future__ import annotations

import math
from random import Random
from typing import Final, Literal

import attrs

Kind = Literal["fair", "outage", "restarting"]
Action = Literal["answer", "unavailable", "reset"]

SLOT_SECONDS: Final = 0.1
OUTAGE: Final = (0.40, 0.55)
"""Share of the time at which the outage begins and ends; every request then hangs or is reset."""
RESTARTED: Final = 0.60
"""Share of the time until which every request is then answered by 503 with Retry-After."""

RESET_RATIO: Final = 0.06
UNAVAILABLE_RATIO: Final = 0.06
SLOW_RATIO: Final = 0.04
USUAL_DELAY: Final = 0.025  # the median
SPREAD: Final = 0.6  # of its logarithm: one in a hundred takes four times the median
SLOW_DELAY: Final = (1.0, 2.5)
HANG_RATIO: Final = 0.5  # in the outage; the others are reset


@attrs.frozen
class Fate:
    """What becomes of one request."""

    action: Action
    """answer: 200; unavailable: 503; reset: the connection is cut without an answer."""
    delay: float
    """Seconds until then."""
    retry_after: int | None = None
    """What a 503 says, in seconds, if it says anything."""


@attrs.frozen
class Phase:
    """A stretch of one kind of weather, in seconds since the start."""

    kind: Kind
    begins: float
    ends: float


@attrs.frozen
class Weather:
    """The weather over a service, from the first second to the last."""

    seed: int
    seconds: float

    def phases(self) -> tuple[Phase, ...]:
        """Return the stretches, in order; the last never ends."""
        begins, ends, restarted = (share * self.seconds for share in (*OUTAGE, RESTARTED))
        return (
            Phase("fair", 0.0, begins),
            Phase("outage", begins, ends),
            Phase("restarting", ends, restarted),
            Phase("fair", restarted, math.inf),
        )

    def phase(self, at: float) -> Phase:
        """Return the stretch that an instant lies in."""
        return next(phase for phase in self.phases() if at < phase.ends)

    def fate(self, at: float, number: int) -> Fate:
        """Return what becomes of a request.

        Args:
          at (float, seconds, >= 0): when it arrives, since the start.
          number (int, >= 0): how many arrived before it in the same slot of time.
        """
        chance = Random(f"{self.seed}/{slot(at)}/{number}")
        phase = self.phase(at)
        if phase.kind == "outage":
            return Fate("reset", phase.ends - at if chance.random() < HANG_RATIO else 0.002)
        if phase.kind == "restarting":
            return Fate("unavailable", 0.002, retry_after=max(1, math.ceil(phase.ends - at)))
        return _in_fair_weather(chance)


def slot(at: float) -> int:
    """Return the slot of time that an instant lies in."""
    return int(at / SLOT_SECONDS)


def _in_fair_weather(chance: Random) -> Fate:
    drawn = chance.random()
    if drawn < RESET_RATIO:
        return Fate("reset", 0.005)
    if drawn < RESET_RATIO + UNAVAILABLE_RATIO:
        return Fate("unavailable", 0.005)
    if drawn < RESET_RATIO + UNAVAILABLE_RATIO + SLOW_RATIO:
        return Fate("answer", chance.uniform(*SLOW_DELAY))
    return Fate("answer", USUAL_DELAY * math.exp(SPREAD * chance.gauss(0, 1)))
