"""The course of a watch, on a virtual clock and with checks of our own: who is asked when, who is told, and when it is over."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from itertools import cycle, pairwise
from typing import Any

import attrs
import httpx
import pytest
import trio

from trioresil import CheckFailedError, HealthState, TimedOutError
from trioresil.cli import _watch
from trioresil.cli._fetch_errors import describe
from trioresil.cli._targets import Targets, read_targets
from trioresil.cli._watch import Result, Watched, Watching, explained, facts, watch


class Recorder:
    """A display that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[float, str, Result]] = []
        self.closed = False

    async def run(self, watching: Watching, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await trio.sleep_forever()

    def checked(self, watched: Watched, result: Result) -> None:
        self.told.append((trio.current_time(), watched.target.name, result))

    async def close(self, watching: Watching) -> None:
        self.closed = True


class Fakes:
    """Stands where real checks are made: each target passes after so many seconds, fails for None, or never ends."""

    def __init__(self, **courses: list[float | None]) -> None:
        self.courses: dict[str, Iterator[float | None]] = {name: cycle(course) for name, course in courses.items()}
        self.entered = self.left = 0

    def __call__(self, target: Any) -> Fakes._One:
        return Fakes._One(self, self.courses[target.host])

    class _One:
        def __init__(self, fakes: Fakes, course: Iterator[float | None]) -> None:
            self._fakes, self._course = fakes, course

        async def __aenter__(self) -> Callable[[], Awaitable[object]]:
            self._fakes.entered += 1
            return self._check

        async def __aexit__(self, *details: object) -> None:
            self._fakes.left += 1

        async def _check(self) -> object:
            seconds = next(self._course)
            await trio.sleep(0.0 if seconds is None else seconds)
            if seconds is None:
                raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
            return 12.5


def targets(*hosts: str, need: dict[str, int] | None = None, **options: Any) -> Targets:
    return read_targets([f"dns://{host}" if ":" not in host else host for host in hosts], None, options)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def use(monkeypatch: pytest.MonkeyPatch, **courses: list[float | None]) -> Fakes:
    fakes = Fakes(**courses)
    monkeypatch.setattr(_watch, "_Checking", fakes)
    return fakes


async def test_the_first_checks_begin_at_once_a_little_apart(
    monkeypatch: pytest.MonkeyPatch, recorder: Recorder, autojump_clock: object
) -> None:
    use(monkeypatch, a=[0.0], b=[0.0], c=[0.0])
    watching = Watching(targets("a", "b", "c", interval=10.0))
    await watch(watching, recorder, count=1)
    assert [name for _, name, _ in recorder.told] == ["dns://a", "dns://b", "dns://c"]
    assert [at for at, _, _ in recorder.told] == pytest.approx([0, 0.02, 0.04])


async def test_later_checks_keep_to_the_interval(
    monkeypatch: pytest.MonkeyPatch, recorder: Recorder, autojump_clock: object
) -> None:
    use(monkeypatch, a=[0.0])
    watching = Watching(targets("a", interval=10.0, rise=1))
    await watch(watching, recorder, count=4)
    times = [at for at, _, _ in recorder.told]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert all(9.5 <= gap <= 10.5 for gap in gaps)
    assert len(set(gaps)) == 3  # chance is chance again


async def test_each_target_is_asked_exactly_so_often(
    monkeypatch: pytest.MonkeyPatch, recorder: Recorder, autojump_clock: object
) -> None:
    fakes = use(monkeypatch, quick=[0.1], sick=[None], slow=[3.0])
    watching = Watching(targets("quick", "sick", "slow", interval=1.0))
    await watch(watching, recorder, count=5)
    asked = [name for _, name, _ in recorder.told]
    assert {name: asked.count(name) for name in asked} == {"dns://quick": 5, "dns://sick": 5, "dns://slow": 5}
    assert [each.state for each in watching.watched] == [
        HealthState.HEALTHY,
        HealthState.UNHEALTHY,
        HealthState.HEALTHY,
    ]
    assert watching.over == "count"
    assert not watching.healthy
    assert fakes.entered == fakes.left == 3


async def test_until_healthy_is_over_with_the_check_that_makes_it_so(
    monkeypatch: pytest.MonkeyPatch, recorder: Recorder, autojump_clock: object
) -> None:
    use(monkeypatch, a=[None, None, None, 0.5, 0.5, 0.5], b=[0.0])
    watching = Watching(targets("a", "b", interval=1.0))
    await watch(watching, recorder, until_healthy=True)
    assert watching.over == "healthy"
    assert watching.healthy
    assert [result.passed for _, name, result in recorder.told if name == "dns://a"] == [
        False,
        False,
        False,
        True,
        True,
    ]
    last = recorder.told[-1][2]
    assert (last.previous, round(last.seconds, 9)) == (HealthState.UNHEALTHY, 0.5)  # it begins at an odd instant


async def test_with_a_count_as_well_it_gives_up(
    monkeypatch: pytest.MonkeyPatch, recorder: Recorder, autojump_clock: object
) -> None:
    use(monkeypatch, a=[None], b=[0.0])
    watching = Watching(targets("a", "b", interval=1.0))
    await watch(watching, recorder, until_healthy=True, count=3)
    assert (watching.over, watching.healthy) == ("count", False)
    assert len(recorder.told) == 6


async def test_a_check_that_hangs_has_failed_after_the_timeout(
    monkeypatch: pytest.MonkeyPatch, recorder: Recorder, autojump_clock: object
) -> None:
    use(monkeypatch, a=[60.0])
    watching = Watching(targets("a", timeout=2.0))
    await watch(watching, recorder, count=1)
    [(at, _, result)] = recorder.told
    assert (at, result.passed, result.seconds) == (2.0, False, 2.0)
    assert watching.watched[0].error == "no answer within 2 s"


async def test_only_what_is_critical_or_needed_counts(
    monkeypatch: pytest.MonkeyPatch, recorder: Recorder, autojump_clock: object
) -> None:
    use(monkeypatch, a=[0.0], b=[None], c=[0.0], d=[None])
    found = targets("a", "b", "c", "d", rise=1, fall=1)
    parts = [
        attrs.evolve(found.targets[0], critical=True),
        attrs.evolve(found.targets[1], group="web"),
        attrs.evolve(found.targets[2], group="web"),
        found.targets[3],
    ]
    watching = Watching(Targets(targets=parts, need={"web": 1}))
    await watch(watching, recorder, count=1)
    assert watching.healthy
    needing_both = Watching(Targets(targets=parts, need={"web": 2}))
    await watch(needing_both, Recorder(), count=1)
    assert not needing_both.healthy


async def test_slow_ones_are_degraded_which_is_healthy(
    monkeypatch: pytest.MonkeyPatch, recorder: Recorder, autojump_clock: object
) -> None:
    use(monkeypatch, a=[0.7])
    watching = Watching(targets("a", degraded_above=0.5, rise=1))
    await watch(watching, recorder, count=1)
    assert watching.watched[0].state is HealthState.DEGRADED
    assert watching.healthy


async def test_only_a_tls_target_knows_of_days(
    monkeypatch: pytest.MonkeyPatch, recorder: Recorder, autojump_clock: object
) -> None:
    use(monkeypatch, a=[0.0])
    watching = Watching(targets("a", "tls://a"))
    await watch(watching, recorder, count=1)
    assert [each.days_left for each in watching.watched] == [None, 12.5]
    found = [facts(each, each.results[-1]) for each in watching.watched]
    assert "days_left" not in found[0]
    assert found[1]["days_left"] == 12.5


async def test_history_is_bounded(monkeypatch: pytest.MonkeyPatch, recorder: Recorder, autojump_clock: object) -> None:
    use(monkeypatch, a=[0.0])
    watching = Watching(targets("a"))
    await watch(watching, recorder, count=_watch.KEPT + 5)
    assert len(watching.watched[0].results) == _watch.KEPT
    assert watching.watched[0].checks == _watch.KEPT + 5


async def test_an_error_of_the_display_ends_it_and_closes_the_clients(
    monkeypatch: pytest.MonkeyPatch, recorder: Recorder, autojump_clock: object
) -> None:
    fakes = use(monkeypatch, a=[0.0])

    async def run(watching: Watching, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await trio.sleep(7)
        raise BrokenPipeError

    monkeypatch.setattr(recorder, "run", run)
    with pytest.RaisesGroup(BrokenPipeError):
        await watch(Watching(targets("a")), recorder)
    assert trio.current_time() == 7
    assert fakes.left == 1


# --- what errors say -----------------------------------------------------------------------------------------------------


def _caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "Error connecting to ('127.0.0.1', 1): Connection refused")


def _failing(url: str, asked: str) -> Exception:
    """Return what httpx raises of a connection that was refused: `asked` is where the system was asked to connect to."""
    attempts = _caused(OSError(f"all attempts to connect to {asked} failed"), ExceptionGroup("", [REFUSED]))
    error = _caused(httpx.ConnectError(str(attempts)), _caused(RuntimeError("one of httpcore's"), attempts))
    error.request = httpx.Request("GET", url)  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("url", "asked", "whom"),
    [
        ("http://a.example/x", "a.example:80", "a.example:80"),
        ("https://a.example/x", "a.example:443", "a.example:443"),
        ("http://a.example:8080", "a.example:8080", "a.example:8080"),
        ("http://[::1]:81/", "[::1]:81", "[::1]:81"),
        ("http://a.example/x", "10.0.0.1:3128", "the proxy 10.0.0.1:3128"),
        ("https://a.example/x", "a.example:80", "the proxy a.example:80"),
    ],
)
def test_a_proxy_that_is_not_reached_is_named_as_such(url: str, asked: str, whom: str) -> None:
    error = _failing(url, asked)
    assert describe(error) == f"no connection to {whom}: Connection refused"
    proxy = f"no connection to {whom}: " if whom.startswith("the proxy") else ""
    assert explained(error) == f"{proxy}Connection refused"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (CheckFailedError("check_http(http://x)", "the status is 503, not 200"), "the status is 503, not 200"),
        (TimedOutError("x", 2.0), "no answer within 2 s"),
        (REFUSED, "Connection refused"),
        (_caused(OSError("all attempts failed"), ExceptionGroup("", [REFUSED])), "Connection refused"),
        (_caused(httpx.ConnectError("failed"), REFUSED), "Connection refused"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (httpx.ConnectError("[Errno -2] Name or service not known"), "Name or service not known"),
        (httpx.RemoteProtocolError("illegal request line"), "the answer is not valid HTTP: illegal request line"),
        (httpx.ReadError("reset, see http://u:hunter2@host/?k=hunter2"), "reset, see http://host/"),
        (ValueError("token=hunter2"), "ValueError: token=***"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)"), "wrong version number"),
        (RuntimeError(), "RuntimeError"),
        (RuntimeError("one\ntwo"), "RuntimeError: one two"),
    ],
)
def test_an_error_is_told_in_a_line_without_secrets(error: Exception, told: str) -> None:
    assert told in explained(error)
    assert "hunter2" not in explained(error)
    assert "_ssl" not in explained(error)
    assert "\n" not in explained(error)
