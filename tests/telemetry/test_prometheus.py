"""PrometheusInstrument: everything that was seen is there, under documented names, and counters never go back."""

from __future__ import annotations

import gc
import logging
import math
import re
import threading
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import trioresil
from tests.telemetry._y import SECRET, Mine, one_of_each
from trioresil import Bulkhead, CircuitBreaker, Pipeline, Retry, RetryBudget, Timeout, TokenBucket
from trioresil.telemetry import PrometheusInstrument
from trioresil.telemetry._facts import COUNTED
from trioresil.telemetry._figures import PULLED, SIMPLE

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "telemetry.md"


class Scraped:
    """A registry with an instrument, and what generate_latest says."""

    def __init__(self, **options: Any) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self.instrument = PrometheusInstrument(self.registry, **options)

    def text(self) -> str:
        return generate_latest(self.registry).decode()

    def values(self) -> dict[str, float]:
        found = {}
        for family in text_string_to_metric_families(self.text()):
            for sample in family.samples:
                labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
                key = f"{sample.name.removeprefix('trioresil_')}{{{labels}}}"
                assert key not in found
                found[key] = sample.value
        return found


@pytest.fixture
def scraped() -> Scraped:
    return Scraped()


async def nothing() -> None: ...


async def test_what_never_queued_and_never_opened_is_there(scraped: Scraped) -> None:
    pipeline = Pipeline(Retry(on=OSError), CircuitBreaker(name="circuit"), Bulkhead(3, name="hull"), name="all")
    with trioresil.instrument(scraped.instrument):
        await pipeline.call(nothing)
    values = scraped.values()
    assert values["bulkhead_limit{policy=hull}"] == 3
    assert values["bulkhead_waiting{policy=hull}"] == 0
    assert values["circuit_breaker_opened_total{policy=circuit}"] == 0
    assert values["circuit_breaker_state{policy=circuit,state=closed}"] == 1
    assert values["circuit_breaker_state{policy=circuit,state=open}"] == 0
    assert values["call_duration_seconds_count{outcome=success,policy=all}"] == 1
    assert values["policies{kind=Retry,policy=retry}"] == 1


def test_what_was_never_used_is_there_if_it_is_watched(scraped: Scraped) -> None:
    hull = Bulkhead(2, name="hull")
    scraped.instrument.watch(hull)
    assert scraped.values()["bulkhead_inside{policy=hull}"] == 0
    with pytest.raises(TypeError, match=r"statistics\(\) method; 5 has none"):
        scraped.instrument.watch(5)


async def test_gauges_are_read_when_it_is_scraped(scraped: Scraped) -> None:
    hull, bucket = Bulkhead(1, name="hull"), TokenBucket(rate=1, capacity=5, name="bucket")
    with trioresil.instrument(scraped.instrument):
        async with hull, bucket, trio.open_nursery() as nursery:
            nursery.start_soon(hull.call, nothing)
            await trio.testing.wait_all_tasks_blocked()
            values = scraped.values()
            nursery.cancel_scope.cancel()
    assert values["bulkhead_inside{policy=hull}"] == 1
    assert values["bulkhead_waiting{policy=hull}"] == 1
    assert values["token_bucket_granted_total{policy=bucket}"] == 1
    assert scraped.values()["bulkhead_inside{policy=hull}"] == 0


async def test_policies_of_one_name_are_added_up(autojump_clock: object, scraped: Scraped) -> None:
    one, two = Bulkhead(2, name="hull"), Bulkhead(5, name="hull")
    circuits = [CircuitBreaker(name="c") for _ in range(3)]
    scraped.instrument.watch(one, two, *circuits)
    circuits[0].open(5)
    circuits[1].open(20)
    async with one, two:
        values = scraped.values()
    assert values["bulkhead_limit{policy=hull}"] == 7
    assert values["bulkhead_inside{policy=hull}"] == 2
    assert values["policies{kind=Bulkhead,policy=hull}"] == 2
    assert values["circuit_breaker_state{policy=c,state=open}"] == 2
    assert values["circuit_breaker_state{policy=c,state=closed}"] == 1
    assert values["circuit_breaker_remaining_seconds{policy=c}"] == 20


async def test_counters_never_go_back_when_a_policy_is_gone(scraped: Scraped) -> None:
    key = "circuit_breaker_opened_total{policy=c}"
    for round_ in range(1, 4):
        breaker = CircuitBreaker(name="c")
        scraped.instrument.watch(breaker)
        breaker.open(1)
        assert scraped.values()[key] == round_
        assert scraped.values()[key] == round_
        del breaker
        gc.collect()
        values = scraped.values()
        assert values[key] == round_
        assert "circuit_breaker_inside{policy=c}" not in values
    assert "0 policies" in repr(scraped.instrument)


def test_counters_never_go_back_when_an_object_counts_afresh(scraped: Scraped) -> None:
    class Counting:
        name = "pool"
        opened = 0

        def statistics(self) -> trioresil.PoolStatistics:
            numbers = dict.fromkeys(
                ("leased", "idle", "connecting", "closing", "waiting", "reused", "connect_failed", "rejected"), 0
            )
            facts: dict[str, Any] = {**numbers, "max_size": math.inf, "last_error": None, "closed": False}
            return trioresil.PoolStatistics(name=self.name, opened=self.opened, **facts)

    counting, seen = Counting(), []
    scraped.instrument.watch(counting)
    for counting.opened in (3, 5, 1, 1, 4):
        seen.append(scraped.values()["pool_opened_total{policy=pool}"])
    assert seen == [3, 5, 6, 6, 9]


async def test_a_shared_budget_is_counted_once_under_a_name(scraped: Scraped) -> None:
    budget = RetryBudget()
    retries = [Retry(on=OSError, budget=budget, name=name, backoff=[0]) for name in ("a", "a", "b")]
    scraped.instrument.watch(*retries)
    assert budget.withdraw()
    for _ in range(2):
        values = scraped.values()
        assert values["retry_budget_withdrawn_total{policy=a}"] == 1
        assert values["retry_budget_withdrawn_total{policy=b}"] == 1
        assert values["retry_budget_available{policy=a}"] == budget.statistics().available


async def test_names_beyond_the_limit_are_added_up_under_other() -> None:
    scraped = Scraped(max_names=3)
    bulkheads = [Bulkhead(1, name=f"customer {number}") for number in range(10)]
    scraped.instrument.watch(*bulkheads)
    with trioresil.instrument(scraped.instrument):
        for each in bulkheads:
            await Pipeline(each, name=each.name).call(nothing)
    limits = {key: value for key, value in scraped.values().items() if key.startswith("bulkhead_limit")}
    assert len(limits) == 4
    assert limits["bulkhead_limit{policy=other}"] == 7
    assert scraped.values()["call_duration_seconds_count{outcome=success,policy=other}"] == 7


def test_each_event_adds_to_what_it_is_documented_to(scraped: Scraped) -> None:
    mine = Mine()
    for event in one_of_each(mine):
        scraped.instrument.record(event)
        scraped.instrument.record(event)
    values = scraped.values()
    for key, value in {
        "call_duration_seconds_sum{outcome=failure,policy=mine}": 3,
        "rejections_total{enforced=true,error=RateLimitedError,policy=mine}": 2,
        "retries_total{policy=mine}": 2,
        "retry_wait_seconds_total{policy=mine}": 1,
        "retry_gave_up_total{policy=mine,reason=attempts}": 2,
        "timeouts_total{policy=mine,started=true}": 2,
        "circuit_breaker_transitions_total{policy=mine,state=open}": 2,
        "circuit_breaker_transitions_total{policy=mine,state=half-open}": 2,
        "circuit_breaker_transitions_total{policy=mine,state=closed}": 2,
        "fallbacks_total{alternative=cached,policy=mine}": 2,
        "connection_open_duration_seconds_sum{policy=mine}": 0.5,
        "connections_closed_total{policy=mine,reason=idle}": 2,
        "connect_failures_total{error=OSError,policy=mine}": 2,
        "certificate_reloads_total{outcome=success,policy=mine}": 2,
        "certificate_reloads_total{outcome=failure,policy=mine}": 2,
        "health_changes_total{check=db,policy=mine,state=unhealthy}": 2,
        "supervisor_children_failed_total{outcome=restarts,policy=mine}": 2,
        "supervisor_children_restarted_total{policy=mine,reason=failed}": 2,
        "stream_connect_duration_seconds_count{policy=mine}": 2,
        "stream_breaks_total{policy=mine,reason=failed}": 2,
        "stream_gave_up_total{policy=mine,reason=error}": 2,
        "shutdown_cancelled_total{policy=mine}": 2,
        "shared_state_losses_total{policy=mine}": 2,
        "shared_state_away_duration_seconds_sum{policy=mine}": 6,
    }.items():
        assert values[key] == value, key
    assert SECRET not in scraped.text()


def test_events_of_somebody_else_are_counted_nowhere(scraped: Scraped) -> None:
    class Own(trioresil.Event):
        pass

    mine = Mine()
    scraped.instrument.record(Own(policy=mine))
    assert list(scraped.values()) == ["policies{kind=Mine,policy=mine}"]


def test_a_name_with_a_secret_in_it_is_shown_without(scraped: Scraped) -> None:
    hull = Bulkhead(1, name=f"redis://:{SECRET}@a.example/0?x={SECRET}")
    scraped.instrument.watch(hull)
    assert "bulkhead_inside{policy=redis://a.example/0}" in scraped.values()
    assert SECRET not in scraped.text()


def test_statistics_that_raise_are_left_out_and_logged_once(scraped: Scraped, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Mine):
        def statistics(self) -> None:
            raise ValueError("broken")

    broken, hull = Broken(), Bulkhead(1, name="hull")
    scraped.instrument.watch(broken, hull)
    with caplog.at_level(logging.ERROR):
        assert scraped.values()["bulkhead_inside{policy=hull}"] == 0
        scraped.text()
    assert len(caplog.records) == 1


async def test_a_scrape_from_another_thread_reads_the_same(scraped: Scraped) -> None:
    hull = Bulkhead(1, name="hull")
    scraped.instrument.watch(hull, TokenBucket(rate=1), CircuitBreaker())
    async with hull:
        found: list[dict[str, float]] = []
        thread = threading.Thread(target=lambda: found.append(scraped.values()))
        thread.start()
        await trio.to_thread.run_sync(thread.join)
    assert found[0]["bulkhead_inside{policy=hull}"] == 1


async def test_services_show_their_figures(autojump_clock: object, scraped: Scraped) -> None:
    async def check() -> None: ...

    async def session(link: trioresil.StreamLink[str]) -> None:
        await link.send_item("x")
        await trio.sleep_forever()

    async def nested() -> None:
        async with trioresil.open_supervisor(name="inner"):
            await trio.sleep_forever()

    async def connect() -> Any:
        return trio.testing.memory_stream_pair()[0]

    with trioresil.instrument(scraped.instrument):
        async with (
            trioresil.open_shutdown(signals=(), name="end"),
            trioresil.open_health_monitor(name="health") as health,
            trioresil.open_supervisor(name="outer") as supervisor,
            trioresil.open_stream(session, on=OSError, name="feed") as stream,
            trioresil.open_workers(trio.sleep, workers=2, name="crew"),
            trioresil.open_pool(connect, name="db") as pool,
        ):
            health.watch("disk", check)
            supervisor.start_soon(nested, name="holder")
            assert await anext(stream) == "x"
            async with pool.connection():
                await health.wait_healthy()
                await trio.testing.wait_all_tasks_blocked()
                values = scraped.values()
            supervisor_statistics = supervisor.statistics()
            assert supervisor_statistics.children[0].supervisors
            await supervisor.stop("holder")
    assert values["shutdown_phase{phase=serving,policy=end}"] == 1
    assert values["health_healthy{policy=health}"] == 1
    assert values["health_check_state{check=disk,policy=health,state=healthy}"] == 1
    assert "health_check_latency_seconds{check=disk,policy=health}" in values
    assert values["supervisor_children{policy=outer,state=running}"] == 1
    assert values["supervisor_nested{child=holder,policy=outer,supervisor=inner}"] == 1
    assert values["supervisor_child_restarts_total{child=holder,policy=outer}"] == 0
    assert values["stream_state{policy=feed,state=connected}"] == 1
    assert values["stream_received_total{policy=feed}"] == 1
    assert values["workers_limit{policy=crew}"] == 2
    assert values["pool_leased{policy=db}"] == 1


# --- names, registries, arguments ------------------------------------------------------------------------------------


def test_names_are_unique_and_as_prometheus_wants_them() -> None:
    measures = [*COUNTED, *PULLED]
    shown = [each.shown for each in measures]
    assert len(shown) == len(set(shown))
    assert len({each.otel for each in measures}) == len(measures)
    for each in measures:
        assert re.fullmatch(r"trioresil(_[a-z]+)+", each.shown)
        assert each.shown.endswith("_total") == (each.kind == "counter")
        assert ("_seconds" in each.shown) == (each.unit == "s")
        assert each.text.endswith(".")


def test_every_name_and_label_is_documented() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for each in (*COUNTED, *PULLED):
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{each.shown}`")]
        assert f"`{each.otel}`" in row
        for label in each.labels:
            assert f"`{label}`" in row


def test_every_simple_figure_names_a_field_that_exists() -> None:
    import trioresil.httpx as face
    import trioresil.redis
    from trioresil._http import _client_tls

    homes = (trioresil, face, _client_tls, trioresil.redis)
    for name, pairs in SIMPLE.items():
        kind = next(getattr(home, name) for home in homes if hasattr(home, name))
        assert {field for field, _ in pairs} <= {each.name for each in kind.__attrs_attrs__}


def test_a_second_instrument_on_one_registry_is_refused_until_the_first_is_closed() -> None:
    registry = CollectorRegistry(auto_describe=True)
    first = PrometheusInstrument(registry)
    with pytest.raises(ValueError, match=r"registry has a PrometheusInstrument already"):
        PrometheusInstrument(registry)
    first.close()
    PrometheusInstrument(registry).close()


def test_the_default_registry_is_prometheus_own() -> None:
    instrument = PrometheusInstrument()
    hull = Bulkhead(1, name="on the default registry")
    instrument.watch(hull)
    try:
        assert "on the default registry" in prometheus_client.generate_latest().decode()
    finally:
        instrument.close()
    assert "on the default registry" not in prometheus_client.generate_latest().decode()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"registry": 5}, TypeError, "registry must be a prometheus_client.CollectorRegistry, not 5"),
        ({"buckets": []}, ValueError, "buckets must be increasing"),
        ({"buckets": [2, 1]}, ValueError, "buckets must be increasing"),
        ({"buckets": [1, 1]}, ValueError, "buckets must be increasing"),
        ({"buckets": [0, 1]}, ValueError, "buckets must be a number > 0"),
        ({"max_names": 0}, ValueError, "max_names must be a whole number >= 1, not 0"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        PrometheusInstrument(**{"registry": CollectorRegistry(), **arguments})


async def test_buckets_bound_the_histogram(autojump_clock: object) -> None:
    scraped = Scraped(buckets=[1, 2])
    with trioresil.instrument(scraped.instrument):
        await Pipeline(Timeout(9), name="p").call(trio.sleep, 1.5)
    values = scraped.values()
    assert values["call_duration_seconds_bucket{le=1.0,outcome=success,policy=p}"] == 0
    assert values["call_duration_seconds_bucket{le=2.0,outcome=success,policy=p}"] == 1
