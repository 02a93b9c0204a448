"""What all tests share. pytest-trio provides `autojump_clock`, `mock_clock` and `nursery`."""

from __future__ import annotations

import random

import pytest


@pytest.fixture
def rng() -> random.Random:
    """A seeded source of chance, so that a test with jitter is the same each time."""
    return random.Random(20)
