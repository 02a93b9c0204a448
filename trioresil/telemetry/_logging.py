"""LoggingInstrument and StructlogInstrument: events as records of a log."""

from __future__ import annotations

import logging
import math
from typing import Any, Final

from .._checks import count
from .._events import Event
from .._floods import Limiter
from ._extras import needed
from ._phrases import called, fields_of, level_of, second

MAX_PER_SECOND: Final = 10


class LoggingInstrument:
    """Writes events to a logger of the standard library.

    Without an instrument trioresil warns of a few things by itself; with this it tells all, at levels that fit: a retry is a
    warning, giving up an error; a circuit that opens is an error, one that half-opens a warning, one that closes an info; each
    call is a debug record. An outage can't flood the log: of one kind of event of one policy so many records are written in each
    second, and the next one says how many were left out.

    Synopsis::

        with trioresil.instrument(trioresil.telemetry.LoggingInstrument()):
            ...

    The record's attribute `trioresil` is a dict of the event's fields, for formatters that write JSON. Results are never logged;
    of errors a shortened text, without credentials, query strings and the values of headers that hold secrets.

    Args:
      logger (logging.Logger): where to. Default: the logger "trioresil".
      max_per_second (int >= 1, or math.inf): how many records of one kind and one policy are written in a second. Default: 10.
    """

    def __init__(self, logger: logging.Logger | None = None, *, max_per_second: float = MAX_PER_SECOND) -> None:
        if logger is not None and not isinstance(logger, (logging.Logger, logging.LoggerAdapter)):
            raise TypeError(f"logger must be a logging.Logger, not {logger!r}")
        self._logger = logging.getLogger("trioresil") if logger is None else logger
        self._limiter = Limiter(count("max_per_second", max_per_second, infinite=True))

    def record(self, event: Event, /) -> None:
        """Write a record, if the logger wants its level and there are not too many of its kind."""
        level = level_of(event)
        if level is None or not self._logger.isEnabledFor(level):
            return
        left_out = self._limiter.left_out(str(getattr(event.policy, "name", "")), type(event), second())
        if left_out is None:
            return
        fields = fields_of(event)
        if left_out:
            fields["left_out"] = left_out
        text = " ".join(f"{key}={_quoted(value)}" for key, value in fields.items() if key != "policy")
        self._logger.log(
            level, "%s: %s%s", fields["policy"], called(event), f" {text}" if text else "", extra={"trioresil": fields}
        )

    def __repr__(self) -> str:
        return f"<trioresil.telemetry.LoggingInstrument {getattr(self._logger, 'name', '')!r}>"


class StructlogInstrument:
    """Writes events to a structlog logger: the event's name, and its fields as key-value pairs.

    Levels, the limit against floods and what is left out for secrecy are those of LoggingInstrument. Needs the extra `structlog`.

    Synopsis::

        with trioresil.instrument(trioresil.telemetry.StructlogInstrument()):
            ...

    Args:
      logger (structlog logger): where to. Default: structlog.get_logger("trioresil").
      max_per_second (int >= 1, or math.inf): how many records of one kind and one policy are written in a second. Default: 10.

    Raises:
      ImportError: structlog isn't installed.
    """

    def __init__(self, logger: Any = None, *, max_per_second: float = MAX_PER_SECOND) -> None:
        structlog = needed("structlog", "structlog", "StructlogInstrument")
        if logger is not None and not callable(getattr(logger, "warning", None)):
            raise TypeError(f"logger must be a structlog logger, not {logger!r}")
        self._logger: Any = structlog.get_logger("trioresil") if logger is None else logger
        self._limiter = Limiter(count("max_per_second", max_per_second, infinite=True))

    def record(self, event: Event, /) -> None:
        """Write a record, if there are not too many of its kind."""
        level = level_of(event)
        if level is None or not self._wants(level):
            return
        left_out = self._limiter.left_out(str(getattr(event.policy, "name", "")), type(event), second())
        if left_out is None:
            return
        fields = fields_of(event)
        if left_out:
            fields["left_out"] = left_out
        getattr(self._logger, logging.getLevelName(level).lower())(called(event), **fields)

    def _wants(self, level: int) -> bool:
        """Ask a logger that can tell; one that can't is given everything."""
        ask = getattr(self._logger, "is_enabled_for", None) or getattr(self._logger, "isEnabledFor", None)
        return ask is None or bool(ask(level))

    def __repr__(self) -> str:
        return "<trioresil.telemetry.StructlogInstrument>"


def _quoted(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    text = str(value)
    return repr(text) if " " in text or not text else text
