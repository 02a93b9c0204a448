"""How often something may be said: what keeps an outage from flooding a log. Pure."""

from __future__ import annotations

from typing import Final

MAX_NAMES: Final = 1_000
CROWD: Final = ""
"""The name of all that find no room of their own."""


class Limiter:
    """Lets so many records of one kind and one name through in each second, and counts the rest.

    Names beyond MAX_NAMES in one second have one share together, so that many names are no way around the limit.

    Args:
      most (int >= 1, or math.inf): how many in a second.
    """

    __slots__ = ("_most", "_recent")

    def __init__(self, most: float) -> None:
        self._most = most
        self._recent: dict[tuple[str, object], tuple[int, int, int]] = {}

    def __len__(self) -> int:
        return len(self._recent)

    def left_out(self, name: str, kind: object, second: int) -> int | None:
        """Return how many records like this were left out before it, None if it is left out itself."""
        key = (name, kind)
        if key not in self._recent and len(self._recent) >= MAX_NAMES:
            key = self._room(key, second)
        since, said, silent = self._recent.get(key, (second, 0, 0))
        if since != second:
            said = 0
        if said >= self._most:
            self._recent[key] = (second, said, silent + 1)
            return None
        self._recent[key] = (second, said + 1, 0)
        return silent

    def _room(self, key: tuple[str, object], second: int) -> tuple[str, object]:
        """Forget names that were not heard of in this second; if there are none, send the name to the crowd."""
        crowd = (CROWD, key[1])
        if self._recent.get(crowd, (None,))[0] == second:  # it was full before
            return crowd
        self._recent = {each: state for each, state in self._recent.items() if state[0] == second}
        return key if len(self._recent) < MAX_NAMES else crowd
