"""What the cards of the live page say, in a real browser: one for each kind of policy and service, in several conditions."""

from __future__ import annotations

import gc
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any

import attrs
import pytest
import trio

import trioresil
from tests.web._browser import in_browser
from trioresil._http._client_tls import ClientTLSStatistics
from trioresil._http._origin_policies import OriginStatistics
from trioresil._http._pool_statistics import PoolOriginStatistics, PoolTransportStatistics
from trioresil._http._resilient import ResilientTransportStatistics
from trioresil.abc import TripGauge
from trioresil.dashboard import open_dashboard

pytestmark = pytest.mark.slow

ERROR = ConnectionError("it is down")


def made(kind: Any, *values: Any) -> Any:
    """Make statistics of values in the order of their fields."""
    return kind(**dict(zip((each.name for each in attrs.fields(kind)), values, strict=True)))


CIRCUIT = made(trioresil.CircuitBreakerStatistics,
    "circuit", trioresil.CircuitState.OPEN, True, 0, 12.0, 2, 0, 3, 4, 5, "", (TripGauge("failure ratio", 0.25, 0.5, 8, 20),)
)  # fmt: skip
POOL = made(trioresil.PoolStatistics, "pool", 10, 4, 3, 1, 0, 2, 77, 1_234, 6, 0, ERROR, False)
STREAM = made(trioresil.StreamStatistics, "stream", "connected", 3, 500, 480, 12, 8, 0, "sesame", ERROR)
MAP = made(trioresil.ConcurrentMapStatistics, "map", 8, 5, 40, 30, 2, 8, 1, 31, ERROR)
WORKERS = made(trioresil.WorkersStatistics, "workers", 4, 3, 0, 7, 0, 100, 80, 9, 10, 0, 1, ERROR, False)
BULKHEAD = made(trioresil.BulkheadStatistics, "slots", 5, 2, 4, 0, 11, False)
BUCKET = made(trioresil.TokenBucketStatistics, "bucket", 3.25, 20, 12, 0, 0, 0.0, 900, 13)
CERTIFICATE = made(ClientTLSStatistics, "certificate", 2, datetime.now(UTC) + timedelta(days=90, hours=1), 1, None)
SHUTDOWN = made(trioresil.ShutdownStatistics, "shutdown", "draining", "SIGTERM", 1, 3, 2, inf, inf)
ORIGINS = {
    "https://a.example": made(PoolOriginStatistics, 2, 1, 1, 0, 5, 300, 4, 2, 1, 0, ERROR),
    "https://b.example": made(PoolOriginStatistics, 0, 0, 0, 0, 0, 7, 1, 1, 0, 0, None),
}
HTTP_POOL = made(PoolTransportStatistics, "http pool", 100, 2, 1, 1, 0, 5, 307, False, ORIGINS)
HTTP = made(
    ResilientTransportStatistics,
    "http",
    2,
    90,
    14,
    False,
    (made(OriginStatistics, "https://a.example", CIRCUIT, BULKHEAD, BUCKET, 1, 0.0),),
)
CHILD = made(trioresil.ChildStatistics, "writer", "on failure", "waiting", 0.0, 1, ERROR, ())
INNER = made(trioresil.SupervisorStatistics, "inner", "one_for_one", (CHILD,), 1, 0, None, False)
OUTER = made(trioresil.ChildStatistics, "ingest", "always", "running", 3_700.0, 0, None, (INNER,))
SUPERVISOR = made(trioresil.SupervisorStatistics, "app", "one_for_one", (OUTER,), 1, 2, None, False)


class Told:
    """A policy that says what a test wants."""

    def __init__(self, statistics: Any) -> None:
        self.name: str = statistics.name
        self._statistics = statistics

    def statistics(self) -> Any:
        if isinstance(self._statistics, Exception):
            raise self._statistics
        return self._statistics


def changed(statistics: Any, name: str, **changes: Any) -> Any:
    return attrs.evolve(statistics, name=name, **changes)


CASES: list[tuple[Any, str, list[str]]] = [
    # what it says, its state, what its card says
    (CIRCUIT, "open", ["12 s to the next probe", "failure ratio 25 %, opens at 50 %", "8 of the 20 calls it needs",
                       "inside 3", "opened 4", "rejected 5", "level 2"]),
    (changed(CIRCUIT, "circuit held", state=trioresil.CircuitState.ISOLATED, remaining=0.0, gauges=(), trip="own words",
             enforced=False), "isolated", ["own words", "Not enforced: it reports and rejects nothing."]),
    (changed(CIRCUIT, "circuit counts", state=trioresil.CircuitState.CLOSED, remaining=0.0, level=0,
             gauges=(TripGauge("consecutive failures", 3, 5), TripGauge("slow ratio", 0.6, 0.5, 40, 20))),
     "closed", ["consecutive failures 3, opens at 5", "slow ratio 60 %, opens at 50 %", "40 calls"]),
    (POOL, "free", ["lent 4 of 10", "idle 3", "connecting 1", "waiting 2", "opened 77", "reused 1234", "failed 6",
                    "Last error: ConnectionError: it is down"]),
    (changed(POOL, "pool full", leased=10), "full", ["lent 10 of 10"]),
    (changed(POOL, "pool closed", closed=True), "closed to new work", []),
    (changed(POOL, "pool endless", max_size=inf), "free", ["lent 4 of ∞"]),
    (STREAM, "connected", ["session 3", "buffered 8", "delivered 480", "dropped 12", "items a second"]),
    (changed(STREAM, "stream waits", state="waiting"), "waiting", ["Last error: ConnectionError: it is down"]),
    (MAP, "working", ["busy 5 of 8", "taken 40", "succeeded 30", "failed 2", "read 31", "it is down"]),
    (changed(MAP, "map idle", busy=0, last_error=None), "quiet", ["busy 0 of 8"]),
    (WORKERS, "working", ["busy 3 of 4", "queued 7", "succeeded 80", "failed 9", "unfinished 10", "rejected 1"]),
    (changed(WORKERS, "workers behind", queued=17), "behind", ["queued 17"]),
    (BULKHEAD, "free", ["in use 4 of 5", "waiting 0", "rejected 11"]),
    (changed(BULKHEAD, "slots full", borrowed=5, waiting=12), "full", ["in use 5 of 5", "waiting 12"]),
    (BUCKET, "free", ["tokens 3.3 of 20", "refill 12 / s", "granted 900", "rejected 13"]),
    (changed(BUCKET, "bucket empty", tokens=-2.0), "empty", ["tokens -2 of 20"]),
    (changed(BUCKET, "bucket paused", paused_for=90.0), "paused", []),
    (CERTIFICATE, "valid", ["read 2", "failures 1"]),
    (changed(CERTIFICATE, "certificate ends", valid_until=datetime.now(UTC) + timedelta(days=3, hours=1)),
     "expires soon", []),
    (changed(CERTIFICATE, "certificate ended", valid_until=datetime.now(UTC) - timedelta(days=1)), "expired", []),
    (changed(CERTIFICATE, "certificate spoilt", last_error=ERROR), "failing", ["it is down"]),
    (SHUTDOWN, "draining", ["registered 3", "still draining 2", "signals 1"]),
    (HTTP_POOL, "full", ["open 2 of 100", "https://a.example 1 1 5 300", "✕ ConnectionError: it is down",
                         "https://b.example 0 0 0 7"]),
    (HTTP, "failing", ["https://a.example ■ open 2 3.3 1", "requests 90", "retries 14", "under way 2"]),
    (changed(HTTP, "http calm", origins=(), inside=0), "quiet", []),
    (SUPERVISOR, "running", ["one_for_one · 1 restart · 2 ended", "● running ingest up 1 h 1 min", "inner (one_for_one)",
                             "▲ waiting writer 1 restart", "it is down"]),
    (changed(SUPERVISOR, "app in trouble", children=(CHILD,)), "waiting", []),
    (changed(CIRCUIT, "circuit soon", remaining=0.0), "open", ["0 s to the next probe"]),
    (changed(CIRCUIT, "circuit late", remaining=125.4), "open", ["2 min 5 s to the next probe"]),
    (changed(CIRCUIT, "circuit never", remaining=inf), "open", ["∞ to the next probe"]),
    (changed(BULKHEAD, "slots counted", rejected=9_999), "free", ["rejected 9999"]),
    (changed(BULKHEAD, "slots countless", rejected=12_345), "free", ["rejected 12.3 k"]),
    (made(trioresil.FallbackStatistics, "fallback", ("cache", "mirror"), True), "quiet", ["cache", "mirror", "default"]),
    (made(trioresil.KeyedStatistics, "keyed", 12, 40), "quiet", ["12 keys held", "made 40"]),
    (made(trioresil.TimeoutStatistics, "timeout", 0.25), "quiet", ["250 ms allowed"]),
]  # fmt: skip


TONES = """(name) => [...[...document.querySelectorAll("article.card")].find(
  (card) => card.querySelector("h3").textContent === name).querySelectorAll(".bar i")].map((bar) => bar.className)"""


async def test_each_card_says_what_its_statistics_say() -> None:
    told = [Told(statistics) for statistics, _, _ in CASES]
    broken = Told(changed(POOL, "pool broken"))
    broken._statistics = RuntimeError("no figures")
    async with open_dashboard(port=0) as dashboard:
        dashboard.show(*told, broken)

        def visit(page: Any) -> dict[str, tuple[str, str]]:
            page.goto(dashboard.url)
            page.locator("#foot", has_text=f"{len(told) + 1} policies").wait_for()
            page.wait_for_timeout(2_200)  # until there are charts
            page.set_viewport_size({"width": 1400, "height": 12_000})  # so that all are in view, and drawn
            page.wait_for_timeout(500)
            found = {}
            for card in page.locator("article.card").all():
                name, state = card.locator("h3").inner_text(), card.locator(".state .word").inner_text()
                found[name] = (state, " ".join(card.inner_text().split()))
            assert page.mishaps == []
            attention = page.locator("#attention a").all_inner_texts()
            assert [" ".join(each.split()) for each in attention[:2]] == [
                "■ circuit open, next probe in 12 s",
                "■ certificate ended expired",
            ]
            assert "sesame" not in page.content()
            tones = {
                name: page.evaluate(TONES, name)
                for name in ("circuit counts", "pool", "pool full", "slots", "bucket empty")
            }
            assert tones == {
                "circuit counts": ["", "bad"], "pool": [""], "pool full": ["bad"], "slots": ["warn"], "bucket empty": ["warn"]
            }  # fmt: skip
            return found

        found = await in_browser(visit)
    assert found.keys() == {each.name for each in told} | {"pool broken"}
    for statistics, state, words in CASES:
        assert found[statistics.name][0] == state, statistics.name
        assert [each for each in words if each not in found[statistics.name][1]] == [], found[statistics.name]
    assert "no figures" in found["pool broken"][1]


NOTE_WORDS = """() => { window.words = [];
new MutationObserver(() => words.push(document.querySelector("#link .word").textContent))
  .observe(document.getElementById("link"), {childList: true, subtree: true, characterData: true}); }"""


async def test_a_page_without_a_stream_asks_and_goes_back_to_the_stream_when_there_is_room() -> None:
    breaker = trioresil.CircuitBreaker(name="search")
    async with open_dashboard(port=0, max_readers=1) as dashboard:
        gone = [trioresil.Timeout(1, name="gone")]
        dashboard.show(breaker, *gone)
        readers = dashboard._app.readers

        def visit(page: Any) -> None:
            taken = trio.from_thread.run_sync(lambda: readers.open())
            trio.from_thread.run_sync(taken.__enter__)
            page.clock.install()
            page.goto(dashboard.url)
            page.clock.run_for(1_500)
            link = page.locator("#link .word")
            link.get_by_text("asking every 5 s").wait_for()
            page.locator("article.card", has_text="gone").wait_for()
            word = page.locator("article.card", has_text="search").locator(".state .word")
            word.get_by_text("closed").wait_for()
            isolation = trio.from_thread.run_sync(breaker.isolate)
            page.wait_for_timeout(1_200)  # the program looks each second
            page.clock.run_for(6_000)
            word.get_by_text("isolated").wait_for()
            trio.from_thread.run_sync(isolation.release)
            page.evaluate(NOTE_WORDS)
            gone.clear()
            gc.collect()
            page.wait_for_timeout(1_200)
            for _ in range(9):  # refused a stream, it still asks; each sixth time it tries to get one
                page.clock.run_for(11_000)
                page.wait_for_timeout(200)
                assert link.inner_text() == "asking every 5 s"
            assert set(page.evaluate("words")) <= {"asking every 5 s"}
            assert page.locator("article.card").count() == 1
            trio.from_thread.run_sync(taken.__exit__, None, None, None)
            for _ in range(12):
                page.clock.run_for(5_000)
                page.wait_for_timeout(100)
                if link.inner_text() == "live":
                    break
            link.get_by_text("live").wait_for()
            word.get_by_text("closed").wait_for()

        await in_browser(visit)
