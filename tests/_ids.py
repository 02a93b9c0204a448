"""Names for the rows of a parametrized test that are the same in each process."""

from __future__ import annotations

import re


def shown(value: object) -> str:
    """Return the repr of a value without the addresses in it: processes that share the suite must agree on the names."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
