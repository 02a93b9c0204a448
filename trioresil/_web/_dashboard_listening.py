"""An instrument for every task of a run, for as long as a block lasts."""

from __future__ import annotations

from types import TracebackType

from .. import _instruments
from ..abc import Instrument


class Listening:
    """As instrument_run, but it ends with the block: what is opened in one task hears the others, and stops when it is closed."""

    def __init__(self, *instruments: Instrument) -> None:
        self._instruments = instruments
        self._listeners: tuple[_instruments._Listener, ...] = ()

    def __enter__(self) -> None:
        self._listeners = tuple(_instruments._Listener(each) for each in self._instruments)
        _instruments._in_run.set(_instruments._in_run.get() + self._listeners)
        _instruments._count(1, self._listeners, for_run=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _instruments._remove(self._listeners, for_run=True)
        heard = (each for each in _instruments._in_run.get() if each not in self._listeners)
        _instruments._in_run.set(tuple(heard))
