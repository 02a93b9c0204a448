"""Recorder: an instrument that keeps what it hears."""

from __future__ import annotations

from typing import TypeVar

from .._events import Event

E = TypeVar("E", bound=Event)


class Recorder:
    """An instrument that keeps every event, for tests to look at.

    Synopsis::

        recorder = trioresil.testing.Recorder()
        with trioresil.instrument(recorder):
            await pipeline.call(fetch, url)
        assert [event.attempt for event in recorder.of(trioresil.RetryScheduled)] == [1, 2]

    Attributes:
      events (list of Event): all of them, oldest first.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []

    def record(self, event: Event, /) -> None:
        """Keep an event."""
        self.events.append(event)

    def of(self, kind: type[E]) -> list[E]:
        """Return the events of one class, oldest first."""
        return [event for event in self.events if isinstance(event, kind)]

    def clear(self) -> None:
        """Forget all events."""
        self.events.clear()

    def __repr__(self) -> str:
        return f"<trioresil.testing.Recorder of {len(self.events)} events>"
