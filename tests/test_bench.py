"""The benchmark runs: smallest rounds, no times asserted."""

from __future__ import annotations

import json
import warnings

import pytest

from tests.bench import _rivals
from tests.bench.__main__ import SECTIONS, run
from tests.bench._measure import Plan

TINY = Plan(rounds=1, batch_seconds=1e-6, waiters=(2,), drain_seconds=0.01, grants=5)


@pytest.fixture(autouse=True)
def others_may_warn() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # what other libraries do is theirs
        yield


def test_every_section_has_its_numbers_in_one_json_document(capsys: pytest.CaptureFixture[str]) -> None:
    run(TINY, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert list(document["results"]) == list(SECTIONS)
    assert all(document["results"].values())
    assert {"name", "target", "measured", "met"} == set(document["targets"][0])


def test_the_tables_show_the_targets(capsys: pytest.CaptureFixture[str]) -> None:
    run(TINY, ["calls", "grants"])
    out = capsys.readouterr().out
    assert "Targets" in out
    assert "five policies / by hand" in out


def test_rivals_that_are_not_installed_are_named_and_left_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_rivals, "missing", lambda: list(_rivals.NAMES))
    document = run(TINY, ["calls", "failure", "drain"])
    assert f"rivals not installed: {', '.join(_rivals.NAMES)}" in capsys.readouterr().out
    measured = json.dumps(document["results"])
    assert not any(name in measured for name in _rivals.NAMES)
