"""The check of a shared rate: in every window the grants are no more than it allows."""

from __future__ import annotations

from collections.abc import Iterable


def excess(grants: Iterable[tuple[float, float]], *, rate: float, burst: float) -> float:
    """Return by how many tokens the worst window exceeds burst + rate * window; not above 0 if none does.

    Args:
      grants (list of instant and tokens): in seconds.
      rate (float, tokens a second): what may be granted.
      burst (float, tokens): and at once.
    """
    worst = -burst
    level = 0.0  # the largest sum of a window that ends here, less what the rate allows in it
    last = None
    for at, tokens in sorted(grants):
        level = tokens if last is None else max(0.0, level - rate * (at - last)) + tokens
        last = at
        worst = max(worst, level - burst)
    return worst
