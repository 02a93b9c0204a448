"""What policies that end a call with an earlier outcome have in common: how to tell of it in a note, and how to raise it."""

from __future__ import annotations

from typing import Final, NoReturn

LONGEST: Final = 200


def shown(value: object) -> str:
    """Return a value's repr for a note: never too long, and never an error, which would take the place of the real one."""
    try:
        text = repr(value)
    except Exception:
        return f"<{type(value).__name__}>"
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def name_of(fn: object) -> str:
    """Return what to call a function in a message."""
    return getattr(fn, "__qualname__", None) or shown(fn)


def raise_again(error: BaseException) -> NoReturn:
    """Raise an error that was caught before, with the context that it had."""
    context = error.__context__
    try:
        raise error
    finally:
        error.__context__ = context  # `raise` puts there what the caller is just handling
        del error, context  # its traceback holds this frame
