"""What the cards of the live page say, in a real browser: one for each kind of policy and service, in several conditions."""

from __future__ import annotations

import gc
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any

import attrs
import pytest

import trioresil
from tests.web._browser import in_browser
from tests.web._dashboard import succeed
from tests.web._looks import check_looks
from trioresil._http._client_tls import ClientTLSStatistics
from trioresil._http._origin_policies import OriginStatistics
from trioresil._http._pool_statistics import PoolOriginStatistics, PoolTransportStatistics
from trioresil._http._resilient import ResilientTransportStatistics
from trioresil.abc import TripGauge
from trioresil.dashboard import open_dashboard

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("needs_chromium")]

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
CHECK = made(
    trioresil.HealthStatus,
    "db",
    True,
    trioresil.HealthState.HEALTHY,
    0.01,
    0.0123,
    1.5,
    1.0,
    None,
    1.0,
    3,
    None,
    True,
    None,
)
SICK = attrs.evolve(CHECK, name="search", healthy=False, state=trioresil.HealthState.UNHEALTHY, latency=None, error=ERROR,
                    critical=False, group="upstreams")  # fmt: skip
HEALTH = made(trioresil.HealthMonitorStatistics, "health", False, False, True, {"db": CHECK, "search": SICK}, 0, 0)
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
    (HEALTH, "unhealthy", ["db critical ● healthy 10 ms 12 ms 1.5 s",
                                    "search upstreams ■ unhealthy – 12 ms 1.5 s ✕ ConnectionError"]),
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
    budget = trioresil.RetryBudget(ratio=0.1, min_per_second=3)
    retry = trioresil.Retry(on=OSError, max_attempts=4, budget=budget, name="retry with budget")
    endless = trioresil.Retry(on=OSError, max_attempts=inf, name="retry without")
    pipeline = trioresil.Pipeline(trioresil.Timeout(9, name="allowance"), retry, trioresil.Bulkhead(2), name="pipeline")
    broken = Told(changed(POOL, "pool broken"))
    broken._statistics = RuntimeError("no figures")
    async with open_dashboard(port=0) as dashboard:
        dashboard.show(*told, broken, retry, endless)
        for _ in range(2):
            await pipeline.call(succeed)

        def visit(page: Any) -> dict[str, tuple[str, str]]:
            page.goto(dashboard.url)
            page.locator("#foot", has_text=f"{len(told) + 6} policies").wait_for()
            page.wait_for_timeout(2_200)  # until there are charts
            page.set_viewport_size({"width": 1400, "height": 12_000})  # so that all are in view, and drawn
            page.wait_for_timeout(500)
            found = {}
            for card in page.locator("article.card").all():
                name, state = card.locator("h3").inner_text(), card.locator(".state .word").inner_text()
                found[name] = (state, " ".join(card.inner_text().split()))
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
            check_looks(page)
            return found

        found = await in_browser(visit)
    real = {"retry with budget", "retry without", "pipeline", "allowance"}
    assert found.keys() == {each.name for each in told} | {"pool broken", "bulkhead"} | real
    assert "budget left 30 retries retries 0 gave up 0 max attempts 4 refused 0" in found["retry with budget"][1]
    assert "No budget: its retries are not limited in their sum." in found["retry without"][1]
    assert "max attempts ∞" in found["retry without"][1]
    assert "allowance retry with budget bulkhead" in found["pipeline"][1]
    assert "calls 2 bad / s 0" in found["pipeline"][1]
    for statistics, state, words in CASES:
        assert found[statistics.name][0] == state, statistics.name
        assert [each for each in words if each not in found[statistics.name][1]] == [], found[statistics.name]
    assert "no figures" in found["pool broken"][1]


ROW = {"name": "a", "state": "healthy"}
WELL = {"running": True, "draining": False, "healthy": True, "rows": [ROW]}
STATES: list[tuple[str, dict[str, Any], str, str]] = [
    # kind, figures, the state, its details
    ("pipeline", {"rate": 0, "bad_rate": 0}, "quiet", ""),
    ("pipeline", {"rate": 10, "bad_rate": 0}, "working", ""),
    ("pipeline", {"rate": 100, "bad_rate": 5}, "working", ""),
    ("pipeline", {"rate": 100, "bad_rate": 6}, "some fail", "6 of 100 calls a second"),
    ("pipeline", {"rate": 100, "bad_rate": 50}, "failing", "50 of 100 calls a second"),
    ("retry", {"rate": 0, "budget": {"available": 0}}, "quiet", ""),
    ("retry", {"rate": 2, "budget": {"available": 0.9}}, "budget spent", "retries are refused"),
    ("retry", {"rate": 2, "budget": {"available": 1}}, "retrying", "2 a second"),
    ("retry", {"rate": 2, "budget": None}, "retrying", "2 a second"),
    ("timeout", {"rate": 1}, "timing out", "1 a second"),
    ("fallback", {"rate": 1}, "falling back", "1 a second"),
    ("circuit", {"state": "open", "remaining": 0}, "open", "a probe may pass"),
    ("circuit", {"state": "half-open", "probes_out": 1}, "half-open", "1 probe out"),
    ("circuit", {"state": "isolated"}, "isolated", "held open by hand"),
    ("limit", {"closed": False, "limit": 2, "borrowed": 2, "waiting": 0}, "full", "nobody waits"),
    ("limit", {"closed": False, "limit": "inf", "borrowed": 2, "waiting": 0}, "free", ""),
    ("limit", {"closed": True, "limit": 2, "borrowed": 2, "waiting": 0}, "closed to new work", ""),
    ("bucket", {"paused_for": 0, "tokens": 0.99, "waiting": 0}, "empty", "0 waiting"),
    ("bucket", {"paused_for": 0, "tokens": 1, "waiting": 0}, "free", ""),
    ("bucket", {"paused_for": 0, "tokens": 5, "waiting": 1}, "empty", "1 waiting"),
    ("http", {"closed": True, "rows": [], "inside": 0}, "closed to new work", ""),
    ("http", {"closed": False, "rows": [], "inside": 1}, "working", ""),
    ("workers", {"closed": False, "sending": 1, "queued": 0, "workers": 1, "busy": 1}, "behind", "0 queued"),
    ("health", WELL, "healthy", ""),
    ("health", WELL | {"running": False}, "not running", ""),
    ("health", WELL | {"draining": True}, "draining", ""),
    ("health", WELL | {"healthy": False, "rows": [ROW | {"state": "unknown"}]}, "unknown", ""),
    ("health", WELL | {"healthy": False, "rows": [ROW, ROW | {"state": "unhealthy", "name": "b"}]}, "unhealthy", "b"),
    ("health", WELL | {"rows": [ROW, ROW | {"state": "degraded", "name": "b"}]}, "degraded", "b"),
    ("supervisor", {"children": [], "closed": True}, "ended", ""),
    ("supervisor", {"children": [ROW | {"state": "stopping"}], "closed": False}, "stopping", "a"),
    ("shutdown", {"phase": "serving", "reason": None}, "serving", ""),
    ("shutdown", {"phase": "lead", "reason": "SIGTERM"}, "lead", "SIGTERM"),
    ("stream", {"state": "waiting", "last_error": "down"}, "waiting", "down"),
    ("unheard of", {"told": "anything"}, "can't be read", "anything"),
    ("other", {"told": "anything"}, "quiet", ""),
    ("other", {"told": "statistics() raised OSError"}, "can't be read", "statistics() raised OSError"),
]
WORDS = [
    ("count(null)", "–"), ("count('inf')", "∞"), ("count(9999)", "9999"), ("count(10000)", "10.0 k"),
    ("count(1e6)", "1.0 M"), ("count(-12345)", "-12.3 k"), ("count(0.04)", "0.0"), ("count(12.6)", "13"), ("count(0)", "0"),
    ("seconds(null)", "–"), ("seconds('inf')", "for ever"), ("seconds(0)", "0 s"), ("seconds(0.0004)", "400 µs"),
    ("seconds(0.0054)", "5.4 ms"), ("seconds(0.01)", "10 ms"), ("seconds(1)", "1.0 s"), ("seconds(59)", "59 s"),
    ("seconds(60)", "1 min"), ("seconds(3599)", "59 min 59 s"), ("seconds(3600)", "1 h 0 min"), ("seconds(86400)", "1 d"),
    ("percent(0)", "0 %"), ("percent(0.012)", "1.2 %"), ("percent(0.1)", "10 %"), ("percent(1)", "100 %"),
    ("plural(1, 'policy', 'policies')", "1 policy"), ("plural(0, 'policy', 'policies')", "0 policies"),
    ("plural(2, 'call')", "2 calls"),
]  # fmt: skip


async def test_each_state_has_a_mark_and_each_number_its_unit() -> None:
    async with open_dashboard(port=0) as dashboard:

        def visit(page: Any) -> None:
            page.goto(dashboard.url)
            script = "(cases) => cases.map(([kind, f]) => stateOf({ kind, f }))"
            assert page.evaluate(script, [[kind, f] for kind, f, _, _ in STATES]) == [[a, b] for _, _, a, b in STATES]
            assert [page.evaluate(script) for script, _ in WORDS] == [words for _, words in WORDS]
            unmarked = page.evaluate(
                "(words) => words.filter((each) => !STATES[each])", [state for _, _, state, _ in STATES]
            )
            assert unmarked == []
            marks = page.evaluate("Object.values(STATES)")  # a mark by itself tells what is well from what is not
            for well, others in (("ok", {"warn", "bad", "held"}), ("bad", {"ok", "warn", "held"})):
                own = {mark for kind, mark in marks if kind == well}
                assert own.isdisjoint(mark for kind, mark in marks if kind in others)

        await in_browser(visit)


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
            taken = page.run_sync(lambda: readers.open())
            page.run_sync(taken.__enter__)
            page.clock.install()
            page.goto(dashboard.url)
            page.clock.run_for(1_500)
            link = page.locator("#link .word")
            link.get_by_text("asking every 5 s").wait_for()
            page.locator("article.card", has_text="gone").wait_for()
            word = page.locator("article.card", has_text="search").locator(".state .word")
            word.get_by_text("closed").wait_for()
            isolation = page.run_sync(breaker.isolate)
            page.wait_for_timeout(1_200)  # the program looks each second
            page.clock.run_for(6_000)
            word.get_by_text("isolated").wait_for()
            page.run_sync(isolation.release)
            page.evaluate(NOTE_WORDS)
            gone.clear()
            gc.collect()
            page.wait_for_timeout(1_100)
            for _ in range(9):  # refused a stream, it still asks; each sixth time it tries to get one
                page.clock.run_for(11_000)
                page.wait_for_timeout(80)
                assert link.inner_text() == "asking every 5 s"
            assert set(page.evaluate("words")) <= {"asking every 5 s"}
            assert page.locator("article.card").count() == 1
            page.run_sync(taken.__exit__, None, None, None)
            for _ in range(12):
                page.clock.run_for(5_000)
                page.wait_for_timeout(100)
                if link.inner_text() == "live":
                    break
            link.get_by_text("live").wait_for()
            word.get_by_text("closed").wait_for()

        await in_browser(visit, expected="503")
