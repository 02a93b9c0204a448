"""Names for the rows of a parametrized test that are the same in each run."""

from __future__ import annotations

import re


def shown(value: object) -> str:
    """Return the repr of a value without the addresses in it, so that a test that failed can be run again by its name."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
