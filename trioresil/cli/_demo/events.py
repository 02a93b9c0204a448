"""What the policies report, counted; as it would be done for a metrics system."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Final

import trioresil

KEPT_LINES: Final = 50


class EventCounter:
    """An instrument that counts events by kind, and keeps a line about each change of the circuit.

    Args:
      clock (() -> seconds): time since the start.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._counts: Counter[type[trioresil.Event]] = Counter()
        self._open = False
        self._opening = ""
        self.circuit_opened = 0
        self.circuit_log: deque[tuple[float, str]] = deque(maxlen=KEPT_LINES)
        self.circuit_states: list[tuple[float, str]] = [(0.0, "closed")]
        """Each state with the time at which it began. As an opening lasts half a second at least, there are never many."""

    def record(self, event: trioresil.Event) -> None:
        """Count an event."""
        self._counts[type(event)] += 1
        if isinstance(event, trioresil.CircuitOpened):
            self._note_opening(event)
            self._note_state("open")
        elif isinstance(event, trioresil.CircuitHalfOpened):
            self._open = False
            self._note_state("half-open")
        elif isinstance(event, trioresil.CircuitClosed):
            self._open = False
            self._note_state("closed")
            self.circuit_log.append((self._clock(), "circuit closed: a probe succeeded"))

    def _note_opening(self, event: trioresil.CircuitOpened) -> None:
        if self._open:  # another Retry-After has only made the open time longer
            at, _ = self.circuit_log[-1]
            self.circuit_log[-1] = at, f"{self._opening}, then {event.open_for:.2g} s by Retry-After"
            return
        self._open = True
        self.circuit_opened += 1
        why = "by Retry-After" if event.by_hand else "a probe failed" if event.level else "too many failures"
        self._opening = f"circuit opened for {event.open_for:.2g} s: {why}"
        self.circuit_log.append((self._clock(), self._opening))

    def _note_state(self, state: str) -> None:
        if state != self.circuit_states[-1][1]:
            self.circuit_states.append((self._clock(), state))

    def of(self, kind: type[trioresil.Event]) -> int:
        """Return how many events of this class there were."""
        return self._counts[kind]
