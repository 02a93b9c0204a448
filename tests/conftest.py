"""What all tests share. pytest-trio provides `autojump_clock`, `mock_clock` and `nursery`."""

from __future__ import annotations

import gc
import random

import pytest


def pytest_collection_finish() -> None:
    """Take what was collected out of the sight of the garbage collector: tests that collect would walk it each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def rng() -> random.Random:
    """A seeded source of chance, so that a test with jitter is the same each time."""
    return random.Random(20)
