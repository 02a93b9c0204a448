"""The circuit: a state machine that says who may pass and what their outcomes mean.

The law:

- TRANSITIONS is the whole machine. A signal that has no entry for the current state changes nothing.
- Every transition begins a new *generation*. Each ticket carries the generation that it was issued in, and a verdict of an
  earlier generation is dropped: a call begun before the trip can't close, or re-open, the circuit that it left.
- At most `probes` tickets are out in HALF_OPEN. A probe's slot comes back with its verdict, with no verdict, or when its lease
  ends; from then on its verdict is stale.
- No verdict (None) returns the slot and counts as nothing. It is what a cancelled call gives.
- Isolation lies over the machine and is asked only at admission; what is underneath goes on.
- Open times grow by one level for each re-opening from HALF_OPEN, and shrink by one for each length of the last open time that
  the circuit has then stayed closed. That is computed at the next trip: no timer runs.

Sources: M. Nygard, "Release It!" (the pattern); Polly and resilience4j (vocabulary); cockatiel (generation stamps); Envoy's
outlier detection (growth and decay of the open time). Rejected: counting a cancelled probe as either outcome, which closes a
sick circuit or never opens a well one; letting an unbounded number through in HALF_OPEN; a background task that moves the state.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Final

import attrs

from .instants import remaining
from .trip_rules import TripCounter


class CircuitState(enum.Enum):
    """What a circuit does with calls: CLOSED lets all pass, OPEN none, HALF_OPEN only probes; ISOLATED is OPEN by hand."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"
    ISOLATED = "isolated"


class Signal(enum.Enum):
    """What can happen to a circuit."""

    TRIPPED = "a trip rule tripped"
    OPENED = "opened by hand"
    TIME_OVER = "the open time is over and a call arrived"
    PROBE_FAILED = "a probe failed"
    PROBES_PASSED = "enough probes succeeded"
    RESET = "reset by hand"


TRANSITIONS: Final[Mapping[tuple[CircuitState, Signal], CircuitState]] = {
    (CircuitState.CLOSED, Signal.TRIPPED): CircuitState.OPEN,
    (CircuitState.CLOSED, Signal.OPENED): CircuitState.OPEN,
    (CircuitState.CLOSED, Signal.RESET): CircuitState.CLOSED,
    (CircuitState.OPEN, Signal.OPENED): CircuitState.OPEN,
    (CircuitState.OPEN, Signal.TIME_OVER): CircuitState.HALF_OPEN,
    (CircuitState.OPEN, Signal.RESET): CircuitState.CLOSED,
    (CircuitState.HALF_OPEN, Signal.OPENED): CircuitState.OPEN,
    (CircuitState.HALF_OPEN, Signal.PROBE_FAILED): CircuitState.OPEN,
    (CircuitState.HALF_OPEN, Signal.PROBES_PASSED): CircuitState.CLOSED,
    (CircuitState.HALF_OPEN, Signal.RESET): CircuitState.CLOSED,
}


class Ticket:
    """One admission: what its verdict will be measured by."""

    __slots__ = ("admitted_at", "counts", "generation")

    def __init__(self, generation: int, admitted_at: float, *, counts: bool = True) -> None:
        self.generation = generation
        self.admitted_at = admitted_at
        self.counts = counts


@attrs.frozen
class Refusal:
    """Why a call may not pass."""

    state: CircuitState
    """OPEN, HALF_OPEN (its probes are out) or ISOLATED."""
    retry_after: float | None
    """Seconds until the open time is over; None where an outcome or a person decides."""


class Circuit:
    """The state of one circuit. Every method that needs the time takes it as `now`.

    Args:
      counter: the trip rule's counter.
      open_time: gives the open time in seconds for a level, from 0.
      peak: the level above which open times grow no more, so that the level stays there.
      probes: how many calls may be out in HALF_OPEN.
      successes_to_close: how many of them must succeed.
      probe_lease: seconds after which a probe's slot is given away.
      on_change: called after each transition, with its signal and the state before.
    """

    def __init__(
        self,
        counter: TripCounter,
        *,
        open_time: Callable[[int], float],
        peak: float,
        probes: int,
        successes_to_close: int,
        probe_lease: float,
        on_change: Callable[[Signal, CircuitState], object],
    ) -> None:
        self._open_time = open_time
        self._peak = peak
        self._max_probes = probes
        self._needed = successes_to_close
        self._probe_lease = probe_lease
        self._on_change = on_change
        self.counter = counter
        self.state = CircuitState.CLOSED
        self.generation = 0
        self.level = 0
        self.open_until = 0.0
        self.open_for = 0.0
        self.closed_at = 0.0
        self.isolations = 0
        self.passing = True  # CLOSED and not isolated: what the hot path asks
        self._probes: dict[Ticket, None] = {}
        self._successes = 0

    def state_at(self, now: float) -> CircuitState:
        """Return the state that an admission at `now` would meet."""
        if self.isolations:
            return CircuitState.ISOLATED
        if self.state is CircuitState.OPEN and now >= self.open_until:
            return CircuitState.HALF_OPEN
        return self.state

    def admit(self, now: float) -> Ticket | Refusal:
        """Let one call in, or say why not."""
        if self.isolations:
            return Refusal(CircuitState.ISOLATED, None)
        if self.state is CircuitState.OPEN:
            if now < self.open_until:
                return Refusal(CircuitState.OPEN, remaining(now, self.open_until))
            self._go(Signal.TIME_OVER)
            return self.admit(now)  # asked anew, because whoever was told may have changed the state by hand
        ticket = Ticket(self.generation, now)
        if self.state is CircuitState.HALF_OPEN:
            self._drop_expired(now)
            if len(self._probes) >= self._max_probes:
                return Refusal(CircuitState.HALF_OPEN, None)
            self._probes[ticket] = None
        return ticket

    def report(self, ticket: Ticket, now: float, failed: bool | None) -> bool:
        """Take the verdict on an admission: True failed, False succeeded, None no verdict. Tell whether a slot came back."""
        held_slot = ticket in self._probes
        if held_slot:
            del self._probes[ticket]
        if failed is None or not ticket.counts or ticket.generation != self.generation:
            return held_slot
        if self.state is CircuitState.CLOSED:
            if self.counter.record(now, failed, now - ticket.admitted_at):
                self.trip(now)
        elif held_slot and not self._expired(ticket, now):
            self._judge_probe(now, failed)
        return held_slot

    def _judge_probe(self, now: float, failed: bool) -> None:
        if failed:
            self.level += 1
            self._open(now, Signal.PROBE_FAILED)
            return
        self._successes += 1
        if self._successes >= self._needed:
            self.closed_at = now
            self._go(Signal.PROBES_PASSED)

    def trip(self, now: float) -> None:
        """Open, because the trip rule said so."""
        if (self.state, Signal.TRIPPED) not in TRANSITIONS:
            return  # whoever judged the call has opened the circuit by hand meanwhile
        if self.open_for > 0:
            healthy_periods = (now - self.closed_at) / self.open_for
            self.level -= int(min(healthy_periods, self.level))
        else:
            self.level = 0
        self._open(now, Signal.TRIPPED)

    def open(self, now: float, seconds: float) -> None:
        """Open by hand for so long. Nothing happens if it is open for as long anyway."""
        until = now + seconds
        if self.state is CircuitState.OPEN and until <= self.open_until:
            return
        self.open_until = until
        self._go(Signal.OPENED)

    def reset(self, now: float) -> None:
        """Close by hand and forget everything but isolations."""
        self.level = 0
        self.open_for = 0.0
        self.closed_at = now
        self._go(Signal.RESET)

    def isolate(self, change: int) -> None:
        """Add (+1) or take away (-1) one isolation."""
        self.isolations += change
        self.passing = self.state is CircuitState.CLOSED and not self.isolations

    def admittable_at(self, now: float) -> float:
        """Return the earliest instant at which a call could be let in as things stand: now, later, or inf if it depends."""
        if self.isolations:
            return float("inf")
        if self.state is CircuitState.OPEN:
            return max(now, self.open_until)
        if self.state is CircuitState.CLOSED or self.probes_out(now) < self._max_probes:
            return now
        return min(probe.admitted_at for probe in self._probes) + self._probe_lease

    def probes_out(self, now: float) -> int:
        """Return how many probes hold a slot."""
        return sum(not self._expired(probe, now) for probe in self._probes)

    def ages(self, now: float) -> dict[str, float]:
        """Return what `restore` needs, as ages and remainders: no instant of one clock means anything to another."""
        closed = self.state is CircuitState.CLOSED
        return {
            "level": self.level,
            "open_for": self.open_for,
            "remaining": 0.0 if closed else remaining(now, self.open_until),
            "closed_for": max(0.0, now - self.closed_at) if closed else 0.0,
        }

    def restore(self, state: CircuitState, now: float, ages: Mapping[str, float]) -> None:
        """Become what `ages` told of; HALF_OPEN comes back as OPEN with no time left, its probes being gone."""
        self.level = int(ages["level"])
        self.open_for = ages["open_for"]
        self.open_until = now + ages["remaining"]
        self.closed_at = now - ages["closed_for"]
        self.state = CircuitState.CLOSED if state is CircuitState.CLOSED else CircuitState.OPEN
        self.passing = self.state is CircuitState.CLOSED

    def shift(self, seconds: float) -> None:
        """Move every instant onto another clock. Its run is another, and the probes of the one before are gone with it."""
        self.open_until += seconds
        self.closed_at += seconds
        self._probes.clear()
        self.counter.shift(seconds)

    def _expired(self, probe: Ticket, now: float) -> bool:
        return now >= probe.admitted_at + self._probe_lease

    def _drop_expired(self, now: float) -> None:
        for probe in [probe for probe in self._probes if self._expired(probe, now)]:
            del self._probes[probe]

    def _open(self, now: float, signal: Signal) -> None:
        self.level = int(min(self.level, self._peak))
        self.open_for = self._open_time(self.level)
        self.open_until = now + self.open_for
        self._go(signal)

    def _go(self, signal: Signal) -> None:
        before = self.state
        self.state = TRANSITIONS[before, signal]
        self.generation += 1
        self.passing = self.state is CircuitState.CLOSED and not self.isolations
        self.counter.clear()
        self._probes.clear()
        self._successes = 0
        self._on_change(signal, before)
