"""The benchmark runs: smallest rounds, no times asserted."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import pytest

from tests.bench import _http_server, _rivals
from tests.bench.__main__ import SECTIONS, run
from tests.bench._measure import HttpPlan, Plan

HTTP = HttpPlan(rounds=1, cells=((2, 1),), schemes=("http",), contenders=("trioresil, open_client",), window=0.01)
TINY = Plan(
    rounds=1,
    batch_seconds=1e-6,
    waiters=(2,),
    drain_seconds=0.01,
    grants=5,
    worker_items=30,
    memory_items=(20, 40),
    shared_rounds=1,
    shared_seconds=0.05,
    shared_processes=(1,),
    shared_tasks=(1,),
    shared_contenders=("trioresil, Exact()",),
    http=HTTP,
)


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


@pytest.mark.slow
@pytest.mark.skipif(_http_server.installed() is None, reason="nginx is not installed")
def test_a_client_is_measured_in_a_process_of_its_own_over_tls(capfd: pytest.CaptureFixture[str]) -> None:
    document = run(replace(TINY, http=replace(HTTP, schemes=("https",))), ["http"])
    measured = document["results"]["http"]["https"]["2/1"]["trioresil, open_client"]
    assert measured["whole"]
    assert not measured["errors"]
    assert measured["most"] >= 1
    assert "HTTPS, 2 tasks on at most 1 connections" in capfd.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(_http_server.installed() is None, reason="nginx is not installed")
def test_a_client_that_is_not_ready_when_time_is_up_is_said_to_be_so(capfd: pytest.CaptureFixture[str]) -> None:
    document = run(replace(TINY, http=replace(HTTP, box=0.001)), ["http"])
    assert not document["results"]["http"]["http"]["2/1"]["trioresil, open_client"]["whole"]
    assert "none" in capfd.readouterr().out
