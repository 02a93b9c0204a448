"""Permits that many processes share: who holds one, who waits for one, and until when each of them is believed.

The law:

- Whoever waits or holds has an id, with one expiry for both: its process renews it, and who isn't heard of until then is gone.
  So a permit that is granted to a waiter is not a new promise: it lasts as long as the waiter's word did.
- At most `limit` ids hold at once. Who comes while others wait waits behind them.
- A permit that comes free goes to the first in the queue in the same step, or nobody would know when to ask.
- Every hold has a number, its *fence*, larger than that of each one before: also after the state was lost, as it is no smaller
  than the server's time in microseconds.
- A clock that is set back takes all expiries along: nobody is believed an hour longer for it.
- A holder whom the server has forgotten, because it lost its memory, takes its permit again if one is free; else it is lost.

Sources: C. Gray, D. Cheriton, "Leases" (1989); M. Burrows, "The Chubby lock service" (2006), for the numbers.
Rejected: waking all who wait when a permit comes free (74 % of the possible holds a second at five milliseconds each), and asking
again and again (29 %).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import attrs

LOST: Final = -1
"""Stands for the fence of somebody who has lost its permit."""
WAITING: Final = 0
"""Stands for the fence of somebody who has none yet."""


@attrs.define
class Permits:
    """The state of one semaphore. Instants are whole microseconds of the server's clock."""

    seen: int = 0
    """When it was last looked at."""
    last: int = 0
    """The latest fence."""
    expiries: dict[str, int] = attrs.Factory(dict)
    """Until when each id is believed."""
    fences: dict[str, int] = attrs.Factory(dict)
    """The ids that hold a permit."""
    queue: dict[str, None] = attrs.Factory(dict)
    """The ids that wait, in their order."""

    def look(self, now: int) -> None:
        """Drop those who were not heard of in time."""
        if now < self.seen:
            for each in self.expiries:
                self.expiries[each] -= self.seen - now
        self.seen = now
        for each in [each for each, expiry in self.expiries.items() if expiry <= now]:
            self._drop(each)

    def acquire(self, who: str, limit: int, lease: int, most_waiting: int) -> int | None:
        """Take a permit or a place in the queue; return the fence, or WAITING, or None if neither was to be had."""
        if len(self.fences) < limit and not self.queue:
            self._grant(who)
        elif len(self.queue) < most_waiting:
            self.queue[who] = None
        else:
            return None
        self.expiries[who] = self.seen + lease
        return self.fences.get(who, WAITING)

    def release(self, ids: Iterable[str]) -> None:
        """Take permits, and places in the queue, back."""
        for each in ids:
            self._drop(each)

    def renew(self, who: str, fence: int, limit: int, lease: int) -> None:
        """Believe somebody for longer, who holds this fence or WAITs."""
        if who not in self.fences and who not in self.queue:
            if fence == WAITING:
                self.queue[who] = None
            elif len(self.fences) < limit:
                self.fences[who] = fence
                self.last = max(self.last, fence)
            else:
                return
        self.expiries[who] = self.seen + lease

    def serve(self, limit: int) -> list[tuple[str, int]]:
        """Grant what is free to those who wait; return whom, and their fences."""
        granted = []
        while self.queue and len(self.fences) < limit:
            who = next(iter(self.queue))
            del self.queue[who]
            granted.append((who, self._grant(who)))
        return granted

    def standing(self, ids: Sequence[tuple[str, int]]) -> list[int]:
        """Return the fence of each id, WAITING, or LOST."""
        return [self.fences.get(who, LOST if fence else WAITING) for who, fence in ids]

    def next_expiry(self) -> int:
        """Return in how many microseconds somebody will be gone, if not heard of; -1 if nobody is here."""
        return min(self.expiries.values()) - self.seen if self.expiries else -1

    def _grant(self, who: str) -> int:
        self.last = self.fences[who] = max(self.last + 1, self.seen)
        return self.last

    def _drop(self, who: str) -> None:
        self.expiries.pop(who, None)
        self.fences.pop(who, None)
        self.queue.pop(who, None)
