"""What a policy does while the server of its shared state is away."""

from __future__ import annotations

from typing import TypeAlias

import attrs

from .._checks import number


@attrs.frozen
class FailOpen:
    """Let calls pass as if there were no limit, while the server is away."""


@attrs.frozen
class FailClosed:
    """Refuse calls with a SharedStateUnavailableError, while the server is away. What they guard is not started."""


@attrs.frozen
class FailLocal:
    """Decide by this process's own state, while the server is away.

    Args:
      share (float, > 0, <= 1): how much of a shared limit this process may use then, as 0.25 if four processes share it evenly.
        A breaker has nothing to share out and ignores it. Default: 0.25.
    """

    share: float = attrs.field(default=0.25)

    @share.validator
    def _check(self, attribute: object, value: float) -> None:
        number("share", value, above=0, most=1)


OnUnavailable: TypeAlias = FailOpen | FailClosed | FailLocal


def check_on_unavailable(choice: object) -> OnUnavailable:
    """Return the choice, or say that one has to be made."""
    if isinstance(choice, FailOpen | FailClosed | FailLocal):
        return choice
    raise TypeError(f"on_unavailable must be FailOpen(), FailClosed() or FailLocal(share=...), not {choice!r}")
