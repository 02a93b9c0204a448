"""The live page's server: what it tells and to whom, what it refuses, and that it harms nobody."""

from __future__ import annotations

import gc
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import httpx
import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import trioresil
from tests.http._servers import start_hypercorn
from tests.web._dashboard import QUICK, TOKEN, events_of, fail, fail_through, opened, state_of, succeed
from trioresil import Bulkhead, CircuitBreaker, CircuitState, ConsecutiveFailures, _instruments
from trioresil._web import _dashboard_streams
from trioresil.dashboard import Dashboard, open_dashboard, serve_dashboard
from trioresil.redis import FailClosed, MemoryEngine, SharedCircuitBreaker

PATHS = ["/", "/style.css", "/page.js", "/cards.js", "/icon.svg", "/api/state", "/metrics"]


async def act(client: httpx.AsyncClient, token: str | None, body: Any, **headers: str) -> httpx.Response:
    if token is not None:
        headers["x-trioresil-control"] = token
    return await client.post("/api/control", json=body, headers=headers)


# --- what is told -------------------------------------------------------------------------------------------------------


async def test_policies_that_never_did_anything_are_on_the_page_and_in_the_metrics() -> None:
    bulkhead, breaker = Bulkhead(7, name="slots"), CircuitBreaker(name="search")
    async with opened() as (_, client):
        async with bulkhead:
            pass
        await breaker.call(succeed)
        assert (await state_of(client, "slots"))["f"]["limit"] == 7
        assert (await state_of(client, "search"))["f"]["state"] == "closed"
        metrics = (await client.get("/metrics")).raise_for_status()
        assert metrics.headers["content-type"].startswith("text/plain")
        assert 'policy="slots"' in metrics.text
        assert 'policy="search"' in metrics.text


@pytest.mark.slow
async def test_a_page_in_the_lifespan_of_an_asgi_server_hears_its_requests(nursery: trio.Nursery) -> None:
    pages: list[Dashboard] = []
    retry = trioresil.Retry(on=ConnectionError, max_attempts=3, backoff=[0])
    pipeline = trioresil.Pipeline(retry, CircuitBreaker(name="search"), Bulkhead(7, name="slots"), name="call")

    async def handler(request: Request) -> PlainTextResponse:
        with suppress(ConnectionError):
            await pipeline.call(fail)
        return PlainTextResponse("done")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with open_dashboard(port=0) as dashboard:
            pages.append(dashboard)
            yield

    app = Starlette(routes=[Route("/", handler)], lifespan=lifespan)
    url = await start_hypercorn(app, nursery)
    async with httpx.AsyncClient(base_url=url) as client:
        assert (await client.get("/")).text == "done"
    async with httpx.AsyncClient(base_url=pages[0].url) as client:
        counts = {name: (await state_of(client, name))["f"]["counts"] for name in ("call", "retry", "search", "slots")}
        metrics = (await client.get("/metrics")).text
    assert counts == {
        "call": {"CallFinished": 1},
        "retry": {"RetryScheduled": 2, "RetryGaveUp": 1},
        "search": {},
        "slots": {},
    }
    assert 'trioresil_bulkhead_waiting{policy="slots"} 0.0' in metrics
    assert 'trioresil_circuit_breaker_state{policy="search",state="closed"} 1.0' in metrics
    nursery.cancel_scope.cancel()


async def test_what_was_used_before_can_be_put_on_the_page_by_hand() -> None:
    bulkhead = Bulkhead(7, name="slots")
    async with opened() as (dashboard, client):
        dashboard.show(bulkhead)
        assert (await state_of(client, "slots"))["kind"] == "limit"
        with pytest.raises(TypeError, match=r"must have a method statistics\(\), and 5 has none"):
            dashboard.show(bulkhead, 5)


async def test_tasks_that_are_no_children_of_the_one_that_opened_it_are_heard_and_only_while_it_is_open() -> None:
    before = _instruments.installed, _instruments.installed_for_runs
    breaker = CircuitBreaker(name="search")
    ask = trio.Event()

    async def elsewhere() -> None:
        await ask.wait()
        await fail_through(breaker)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(elsewhere)
        async with opened() as (_, client):
            ask.set()
            await state_of(client, "search")
        assert (_instruments.installed, _instruments.installed_for_runs) == before
        assert _instruments.listeners() == []


@pytest.mark.slow
async def test_an_opening_is_told_at_once() -> None:
    breaker = CircuitBreaker(trip=ConsecutiveFailures(2), name="search")
    async with opened() as (dashboard, _):
        await breaker.call(succeed)
        async with events_of(dashboard) as events:
            lines = state = None
            began_at = None
            with trio.fail_after(20):
                async for name, data in events:
                    if name == "tick" and began_at is None:
                        began_at = trio.current_time()
                        await fail_through(breaker)
                        await fail_through(breaker)
                    if name == "change":
                        state = next((each["f"]["state"] for each in data if "state" in each["f"]), state)
                    if name == "lines":
                        lines = data
                    if lines and state == "open":
                        break
            assert began_at is not None
            assert trio.current_time() - began_at < 10 * QUICK
            assert lines is not None
            assert lines[-1]["text"] == "the circuit opened for 30 s: ConnectionError: down"


@pytest.mark.slow
async def test_a_stream_tells_all_first_and_then_each_second_and_what_is_gone() -> None:
    bulkhead = Bulkhead(3, name="slots")
    async with opened(title="shop", history=60) as (dashboard, client):
        dashboard.show(bulkhead)
        await state_of(client, "slots")
        names = []
        async with events_of(dashboard) as events:
            with trio.fail_after(20):
                async for name, data in events:
                    names.append(name)
                    if name == "hello":
                        assert (data["title"], data["history"], data["control"]) == ("shop", 60, None)
                    if name == "whole":
                        [told] = data
                        assert (told["name"], told["s"].keys()) == ("slots", {"inside", "waiting"})
                        del bulkhead
                        gc.collect()
                    if name == "tick" and data["gone"]:
                        assert data["gone"] == [told["id"]]
                        break
        assert names[:3] == ["hello", "whole", "ready"]


async def test_what_is_told_holds_no_secret() -> None:
    secret = ConnectionError("https://me:hunter2@host/path?key=sesame, Authorization: Bearer hunter2hunter2")

    async def fail_secretly() -> None:
        raise secret

    breaker = CircuitBreaker(trip=ConsecutiveFailures(1), name="https://me:hunter2@host/?key=sesame")
    async with opened() as (_, client):
        with pytest.raises(ConnectionError):
            await breaker.call(fail_secretly)
        await state_of(client, "https://host/")
        for path in ("/api/state", "/metrics"):
            text = (await client.get(path)).text
            assert "https://host" in text
            assert "hunter2" not in text
            assert "sesame" not in text


async def test_health_is_served_where_a_monitor_is_given_and_nowhere_else() -> None:
    async with trioresil.open_health_monitor(interval=100) as health:
        async with opened(health=health) as (_, client):
            statuses = [(await client.get(path)).status_code for path in ("/healthz", "/readyz", "/livez")]
            assert statuses == [200, 200, 200]
    async with opened() as (_, client):
        assert (await client.get("/healthz")).status_code == 404


async def test_a_probe_needs_no_token_and_learns_nothing_but_the_verdict() -> None:
    well = True

    async def check() -> None:
        if not well:
            raise ConnectionError("refused by db.internal")

    async with trioresil.open_health_monitor(interval=0.05) as health:
        health.watch("database", check, critical=True, rise=1, fall=1)
        async with opened(health=health, token=TOKEN) as (_, client):
            with_token = {"authorization": f"Bearer {TOKEN}"}
            for status, verdict in ((200, "pass"), (503, "fail")):
                with trio.fail_after(10):
                    while health.healthy is not (status == 200):  # noqa: ASYNC110  # a probe asks, too
                        await trio.sleep(0.01)
                answer = await client.get("/healthz")
                assert (answer.status_code, answer.json()) == (status, {"status": verdict})
                assert answer.headers["content-type"] == "application/health+json"
                assert (await client.get("/readyz")).status_code == status
                assert (await client.get("/livez")).json() == {"status": "pass"}
                assert (await client.get("/healthz", headers={"host": "10.0.0.7"})).status_code == status
                full = await client.get("/healthz", headers=with_token)
                assert (full.status_code, full.json()["checks"].keys()) == (status, {"database:responseTime"})
                well = False
            assert "db.internal" in full.text
            assert (await client.get("/api/state")).status_code == 401
            assert (await client.head("/healthz")).status_code == 503
    async with opened(token=TOKEN) as (_, client):  # without a monitor nothing is told of what there is
        assert (await client.get("/healthz")).status_code == 401


async def test_metrics_without_their_package_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "prometheus_client", None)
    async with opened() as (_, client):
        answer = await client.get("/metrics")
        assert (answer.status_code, answer.text) == (
            501,
            "metrics need an extra: pip install 'trioresil[prometheus]'\n",
        )


async def test_serve_dashboard_and_repr() -> None:
    async with trio.open_nursery() as nursery:
        dashboard = await nursery.start(partial(serve_dashboard, port=0, name="page"))
        _, port = dashboard.address
        assert dashboard.url == f"http://127.0.0.1:{port}/"
        assert repr(dashboard) == f"<trioresil.dashboard.Dashboard 'page' at {dashboard.url}>"
        nursery.cancel_scope.cancel()


# --- who is let in ------------------------------------------------------------------------------------------------------


async def test_without_a_token_only_names_of_this_machine_are_answered_to() -> None:
    async with opened() as (dashboard, client):
        port = dashboard.address[1]
        good = [f"127.0.0.1:{port}", f"localhost:{port}", "[::1]", "LOCALHOST"]
        bad = [
            "evil.example",
            f"127.0.0.1.evil.example:{port}",
            "",
            "[",
            "localhost.evil.example",
            "127.0.0.1@evil.example",
        ]
        for path in PATHS:
            assert [(await client.get(path, headers={"host": host})).status_code for host in good] == [200] * 4
            assert {(await client.get(path, headers={"host": host})).status_code for host in bad} <= {400, 421}


async def test_a_token_is_asked_for_everywhere() -> None:
    async with opened(token=TOKEN, allow_control=True) as (_, client):
        for path in [*PATHS, "/events", "/healthz", "/nowhere"]:
            if path not in ("/style.css", "/icon.svg"):
                for given in (
                    None,
                    "Bearer",
                    "Bearer wrong",
                    f"Basic {TOKEN}",
                    f"Bearer {TOKEN}x",
                    f"Bearer {TOKEN[:-1]}",
                ):
                    answer = await client.get(path, headers={} if given is None else {"authorization": given})
                    assert answer.status_code == 401, (path, given)
                    assert TOKEN not in answer.text
                assert (await client.get(path, headers={"cookie": "trioresil-0=x"})).status_code == 401
        assert (await client.post("/api/control", json={})).status_code == 401
        good = {"authorization": f"bearer {TOKEN}"}
        assert (await client.get("/api/state", headers=good)).status_code == 200
        assert (await client.get("/api/state", headers=good | {"host": "page.example"})).status_code == 200


async def test_the_form_lets_in_with_a_cookie_that_scripts_and_others_cannot_use() -> None:
    async with opened(token=TOKEN) as (_, client):
        wrong = await client.post("/", data={"token": "wrong"})
        assert (wrong.status_code, "This is not the token." in wrong.text) == (403, True)
        assert "set-cookie" not in wrong.headers
        right = await client.post("/", data={"token": TOKEN})
        cookie = right.headers["set-cookie"].lower()
        assert right.status_code == 200
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert TOKEN not in cookie
        assert (await client.get("/api/state")).status_code == 200
        async with opened(token=TOKEN) as (other, _):  # another page on this machine: cookies don't know of ports
            assert (await client.get(f"{other.url}api/state")).status_code == 401
            await client.post(other.url, data={"token": TOKEN})
            assert (await client.get(f"{other.url}api/state")).status_code == 200
        assert (await client.get("/api/state")).status_code == 200


async def test_a_token_in_the_query_of_the_page_lets_in_and_nowhere_else() -> None:
    async with opened(token=TOKEN) as (_, client):
        assert (await client.get("/api/state", params={"token": TOKEN})).status_code == 401
        assert (await client.get("/", params={"token": "wrong"})).status_code == 403
        answer = await client.get("/", params={"token": TOKEN})
        assert (answer.status_code, answer.headers["refresh"]) == (200, "0; url=/")
        assert '<link rel="icon" href="/icon.svg"' in answer.text
        assert TOKEN not in answer.text
        assert "<h1" in (await client.get("/")).text


@pytest.mark.parametrize("body", [b"token=%ff%fe", b"\xff\xfe", b"token=" + b"x" * 10_000, b"&" * 4000, b"token", b""])
async def test_no_body_of_the_form_is_more_than_a_wrong_token(body: bytes) -> None:
    async with opened(token=TOKEN) as (_, client):
        assert (await client.post("/", content=body)).status_code in (403, 413)


async def test_a_body_that_is_too_large_is_not_read_on_though_it_holds_the_token() -> None:
    async with opened(token=TOKEN) as (_, client):
        answer = await client.post("/", data={"token": TOKEN, "more": "x" * 5_000})
        assert (answer.status_code, answer.text) == (413, "too much for a token\n")
        assert "set-cookie" not in answer.headers


async def test_every_answer_forbids_what_is_not_its_own() -> None:
    async with opened() as (_, client):
        for path in [*PATHS, "/nowhere"]:
            headers = (await client.get(path)).headers
            assert "default-src 'none'; script-src 'self'" in headers["content-security-policy"]
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cache-control"] == "no-store"
            assert "server" not in headers


# --- control ------------------------------------------------------------------------------------------------------------


async def test_a_page_is_read_only_unless_it_was_told_otherwise() -> None:
    breaker = CircuitBreaker(name="search")
    async with opened() as (dashboard, client):
        dashboard.show(breaker)
        told = await state_of(client, "search")
        for method in ("POST", "GET", "PUT"):
            answer = await client.request(method, "/api/control", json={"action": "isolate", "id": told["id"]})
            assert answer.status_code == 404
        assert (await client.get("/api/state")).json()["control"] is None
        assert breaker.state is CircuitState.CLOSED


async def test_a_circuit_is_isolated_released_and_reset() -> None:
    breaker = CircuitBreaker(trip=ConsecutiveFailures(1), name="search")
    async with opened(allow_control=True) as (_, client):
        await fail_through(breaker)
        number = (await state_of(client, "search"))["id"]
        token = (await client.get("/api/state")).json()["control"]
        for _ in range(2):  # the second changes nothing
            assert (await act(client, token, {"action": "isolate", "id": number})).json() == {"held": [number]}
            assert breaker.statistics().isolations == 1
        assert (await state_of(client, "search"))["f"]["state"] == "isolated"
        assert (await act(client, token, {"action": "release", "id": number})).json() == {"held": []}
        assert breaker.state is CircuitState.OPEN
        assert (await act(client, token, {"action": "release", "id": number})).status_code == 409
        assert (await act(client, token, {"action": "reset", "id": number})).status_code == 200
        assert breaker.state is CircuitState.CLOSED


async def test_a_shared_circuit_is_shown_and_controlled_too() -> None:
    async with opened(allow_control=True) as (dashboard, client), MemoryEngine() as engine:
        breaker = SharedCircuitBreaker(engine, "fleet", trip=ConsecutiveFailures(1), on_unavailable=FailClosed())
        dashboard.show(breaker)
        await fail_through(breaker)
        told = await state_of(client, "fleet")
        with trio.fail_after(20):
            while told["f"]["state"] != "open":
                told = await state_of(client, "fleet")
        assert told["kind"] == "circuit"
        token = (await client.get("/api/state")).json()["control"]
        assert (await act(client, token, {"action": "isolate", "id": told["id"]})).json() == {"held": [told["id"]]}
        assert breaker.state is CircuitState.ISOLATED
        assert (await act(client, token, {"action": "release", "id": told["id"]})).status_code == 200
        assert (await act(client, token, {"action": "reset", "id": told["id"]})).status_code == 200
        with trio.fail_after(20):
            await breaker.wait_admittable()
        assert breaker.state is CircuitState.CLOSED


async def test_closing_the_page_lets_go_of_what_it_held() -> None:
    breaker = CircuitBreaker(name="search")
    async with opened(allow_control=True) as (dashboard, client):
        dashboard.show(breaker)
        number = (await state_of(client, "search"))["id"]
        token = (await client.get("/api/state")).json()["control"]
        await act(client, token, {"action": "isolate", "id": number})
        assert breaker.state is CircuitState.ISOLATED
    assert breaker.state is CircuitState.CLOSED


async def test_control_that_did_not_come_from_the_page_is_refused() -> None:
    breaker, bulkhead = CircuitBreaker(name="search"), Bulkhead(1, name="slots")
    async with opened(allow_control=True) as (dashboard, client):
        dashboard.show(breaker, bulkhead)
        number, other = (await state_of(client, "search"))["id"], (await state_of(client, "slots"))["id"]
        token = (await client.get("/api/state")).json()["control"]
        wanted = {"action": "isolate", "id": number}
        assert (await act(client, None, wanted)).status_code == 403
        assert (await act(client, "guess", wanted)).status_code == 403
        assert (await act(client, token[:-1], wanted)).status_code == 403
        assert (await act(client, token, wanted, origin="http://evil.example")).status_code == 403
        assert (await act(client, token, wanted, origin="null")).status_code == 403
        for site in ("cross-site", "same-site", "none", ""):
            assert (await act(client, token, wanted, **{"sec-fetch-site": site})).status_code == 403
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "application/jsonx"):
            headers = {"x-trioresil-control": token, "content-type": kind}
            answer = await client.post("/api/control", content=json.dumps(wanted), headers=headers)
            assert (answer.status_code, answer.text) == (415, "the body must be application/json\n")
        bad: list[Any] = [
            5, [], {}, {"action": "isolate"}, {"action": "open", "id": number}, {"action": [], "id": number},
            {"action": "isolate", "id": True}, {"action": "isolate", "id": "1"}, {"action": "isolate", "id": 1.5},
        ]  # fmt: skip
        assert [(await act(client, token, each)).status_code for each in bad] == [400] * len(bad)
        for content in (b"", b"null", b"{", b"\xff", b"[" * 3000, b" " * 5000):
            headers = {"x-trioresil-control": token, "content-type": "application/json"}
            assert (await client.post("/api/control", content=content, headers=headers)).status_code == 400
        assert (await act(client, token, {"action": "isolate", "id": other})).status_code == 409
        assert (await act(client, token, {"action": "isolate", "id": 10**30})).status_code == 409
        assert breaker.state is CircuitState.CLOSED
        own = {"origin": str(client.base_url).rstrip("/"), "sec-fetch-site": "same-origin"}
        assert (await act(client, token, wanted, **own)).status_code == 200
        assert breaker.state is CircuitState.ISOLATED


# --- arguments ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"host": "0.0.0.0"}, ValueError, "token must be given for any host but loopback, and host is '0.0.0.0'"),
        ({"host": "example.org"}, ValueError, "token must be given"),
        ({"host": "127.0.0.1.example.org"}, ValueError, "token must be given"),
        ({"host": ""}, ValueError, "host must be a string with at least one character"),
        ({"port": 65536}, ValueError, "port must be a whole number from 0 to 65535, not 65536"),
        ({"port": -1}, ValueError, "port must be a whole number >= 0, not -1"),
        ({"port": True}, TypeError, "port must be a whole number"),
        ({"token": "short"}, ValueError, "token must be a string of at least 16 characters, not one of 5"),
        ({"token": "naïve" * 5}, ValueError, "token must be of printable ASCII characters"),
        ({"token": f"{TOKEN} "}, ValueError, "without a space at either end"),
        ({"token": f"{TOKEN}\n{TOKEN}"}, ValueError, "token must be of printable ASCII characters"),
        ({"max_readers": 0}, ValueError, "max_readers must be a whole number >= 1, not 0"),
        ({"max_readers": 1001}, ValueError, "max_readers must be a whole number from 1 to 1000, not 1001"),
        ({"token": 5}, TypeError, "token must be a string of at least 16 characters, not int"),
        ({"allow_control": 1}, TypeError, "allow_control must be True or False"),
        ({"history": 9}, ValueError, "history must be a whole number >= 10"),
        ({"history": 3601}, ValueError, "from 10 to 3600, not 3601"),
        ({"title": ""}, ValueError, "title must be a string"),
        ({"health": object()}, TypeError, "health must be a HealthMonitor or None"),
    ],
)
def test_bad_arguments_are_refused_at_once(options: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words.replace("(", r"\(")):
        open_dashboard(**options)


async def test_a_port_that_is_taken_is_told_and_nothing_is_left_behind() -> None:
    before = _instruments.installed
    async with opened() as (dashboard, _):
        port = dashboard.address[1]
        with pytest.raises(OSError, match=f"the live page can't listen on 127.0.0.1, port {port}: "):
            async with open_dashboard(port=port):
                raise AssertionError("it was opened")
    assert _instruments.installed == before


@pytest.mark.parametrize("host", ["a..b", f"{'x' * 70}.example", "é..é"])
async def test_a_host_that_is_none_is_told(host: str) -> None:
    with pytest.raises(ValueError, match=f"host must be an address or a host name, not '{host}'"):
        async with open_dashboard(host, 0, token=TOKEN):
            raise AssertionError("it was opened")


async def test_it_is_opened_once_and_the_bodys_error_leaves_bare() -> None:
    page = open_dashboard(port=0)
    error = KeyError("body")
    with pytest.raises(KeyError) as caught:
        async with page:
            raise error
    assert caught.value is error
    with pytest.raises(RuntimeError, match="was opened already"):
        await page.__aenter__()


async def test_ipv6_has_brackets_in_its_url() -> None:
    async with open_dashboard("::1", 0) as dashboard:
        assert dashboard.url == f"http://[::1]:{dashboard.address[1]}/"
        async with httpx.AsyncClient() as client:
            assert (await client.get(dashboard.url)).status_code == 200


def test_the_whole_is_json_that_any_reader_takes() -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        _dashboard_streams.to_json(float("nan"))
    assert json.loads(_dashboard_streams.message("x", "a\nb").decode().split("data: ")[1]) == "a\nb"
