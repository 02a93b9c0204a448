"""How long until an instant, in floats.

The law: `now + remaining(now, until) >= until`, always: whoever sleeps that long is never early, not even by one unit
in the last place. The answer is the plain difference, and the next float above it only where the difference, added
back, would fall short; so round numbers stay round (100.0 to 130.0 is 30.0).

Rejected: a fixed slack such as a nanosecond, which is wrong for both very small and very large clock readings; and the
least float that rounds up to `until`, which would turn that 30.0 into 29.999999999999986.
"""

from __future__ import annotations

import math


def remaining(now: float, until: float) -> float:
    """Return the seconds from now until an instant; 0.0 if it has come, math.inf if it never does. `now` is finite."""
    if until <= now:
        return 0.0
    difference = until - now
    # The difference is the float nearest to the true one, so the next float is never less than the true one.
    return difference if now + difference >= until else math.nextafter(difference, math.inf)
