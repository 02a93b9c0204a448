"""Shutdown: which phase a program that is ending is in, and when the next begins.

The law of this file:

1. serving -> lead -> draining -> cancelled, and never back. Any of them may be the last: `end` is always possible.
2. Instants are planned from the request, not from when somebody woke up: whoever kills the program in the end counts from there.
3. What asks first decides; a later request changes nothing. Of signals the second cancels, in whatever phase. The first one
   after a request by the program itself doesn't: that is the usual order when such a program is then stopped from outside.
4. A hasty signal, somebody at a terminal, leaves no lead.

Rejected: counting the request of the program as a signal, which lets an ordinary SIGTERM after it cut off its work.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

Phase: TypeAlias = Literal["serving", "lead", "draining", "cancelled", "ended"]


class Course:
    """The course of one shutdown. It is told the time, and says the phase and when it is to be told again.

    Args:
      lead (float, seconds): from the request to the closing of admission.
      grace (float, seconds): from there to the cancellation.
    """

    __slots__ = ("cancel_reason", "closes_at", "due_at", "grace", "lead", "phase", "reason", "requested_at", "signals")

    def __init__(self, lead: float, grace: float) -> None:
        self.lead = lead
        self.grace = grace
        self.phase: Phase = "serving"
        self.reason: str | None = None
        self.cancel_reason: str | None = None
        self.requested_at = math.inf
        self.closes_at = math.inf
        self.due_at = math.inf
        self.signals = 0

    @property
    def cancels_at(self) -> float:
        """When what is left will be cancelled, as things stand."""
        return self.closes_at + self.grace

    def request(self, now: float, reason: str, lead: float | None = None) -> None:
        """Begin, if nobody has asked before."""
        if self.phase == "serving":
            self.reason = reason
            self.requested_at = now
            self._close_at(now, now + (self.lead if lead is None else lead))

    def signal(self, now: float, name: str, *, hasty: bool) -> None:
        """Begin because of a signal; cut the lead short if it is a hasty one; cancel if it is the second."""
        self.signals += 1
        if self.phase == "serving":
            self.request(now, name, 0 if hasty else None)
        elif self.signals > 1:
            self._cancel(now, f"{self.reason}, then {name}")
        elif self.phase == "lead" and hasty:
            self._close_at(now, now)

    def advance(self, now: float) -> None:
        """Go on to the next phase if it is due; one phase at a time, also for somebody who is very late."""
        if now < self.due_at:
            return
        if self.phase == "lead":
            self._drain()
        else:
            self._cancel(now, f"{self.reason}, and its grace of {self.grace:g} s is over")

    def end(self) -> None:
        """Nothing is left to be shut down."""
        self.phase = "ended"
        self.due_at = math.inf

    def _close_at(self, now: float, closes_at: float) -> None:
        self.phase = "lead"
        self.due_at = self.closes_at = closes_at
        if closes_at <= now:
            self._drain()

    def _drain(self) -> None:
        self.phase = "draining"
        self.due_at = self.cancels_at

    def _cancel(self, now: float, reason: str) -> None:
        if self.phase in ("lead", "draining"):
            self.phase = "cancelled"
            self.cancel_reason = reason
            self.closes_at = min(self.closes_at, now)
            self.due_at = math.inf
