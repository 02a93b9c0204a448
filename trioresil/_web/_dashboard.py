"""open_dashboard: a live page about the policies and services of the program that it runs in.

The law of this file:

1. The page never harms the program. What a browser does ends at its connection; what `statistics()` raises is shown; statistics
   are pulled in slices, so that the other tasks run in between.
2. Leaving waits for no browser: connections are closed, the page's isolations are released, and the instrument is removed.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Final

import trio
from trio.lowlevel import current_clock, enable_ki_protection

from .._checks import flag, text, whole
from .._services._tasks import Tasks
from .._services.health import HealthMonitor
from ._dashboard_app import DashboardApp
from ._dashboard_gate import check_token
from ._dashboard_listening import Listening
from ._dashboard_metrics import new_metrics
from ._dashboard_pulse import Pulse
from ._dashboard_server import Server, listen
from ._dashboard_streams import SLICE

ROUND: Final = 1.0  # seconds between two looks at a policy
HASTE: Final = 0.1  # seconds for which news is gathered before it is sent
SPARE: Final = 100  # connections for all that is not a stream


class open_dashboard:
    """Serve a live page about this program's policies and services.

    An operator sees at a glance what the resilience layer is doing: which circuits are open and when they try again, what is
    full, what is retried, what is sick. Every policy and service that is used while the page is open is on it, also one that
    never does anything. It is not a history and not an alarm: for those, scrape `/metrics`, or install an instrument of
    trioresil.telemetry.

    Synopsis::

        async with trioresil.dashboard.open_dashboard(port=8080) as dashboard:
            print(dashboard.url)
            await serve_customers()

    It serves `/` (the page), `/events` (what the page reads), `/api/state` (the same as one JSON document), `/metrics` (for
    Prometheus; needs the extra `prometheus`), and with a health monitor `/healthz`, `/readyz` and `/livez`.

    Sharing: it hears every task of the run. Cost: a few microseconds for each event, and some 40 µs a second for each policy.
    It keeps no policy alive, and its memory is bounded: at most 5,000 policies, 1,000 lines of log, `history` numbers a figure.

    Args:
      host (str): the address to listen on. Default: "127.0.0.1", which only this machine reaches.
      port (int, 0 to 65535): the port; 0 takes one that is free. Default: 8080.
      token (str, at least 16 characters of ASCII): what people must know to see the page; a must for any host but loopback. Send
        it as `Authorization: Bearer`, or type it into the form of the page. Default: None.
      allow_control (bool): whether circuits can be isolated and reset from the page. Default: False.
      title (str): what the page is called. Default: "trioresil".
      history (int, seconds, 10 to 3600): how far back the page draws. Default: 300.
      health (HealthMonitor): what answers `/healthz`, `/readyz` and `/livez`. Default: None.
      max_readers (int, 1 to 1000): how many browsers may be sent events at once; others ask each five seconds. There are never
        more than 100 connections beyond these, so that no crowd takes all files that the program may open. Default: 100.
      name (str): its name in messages. Default: "dashboard".

    Cancellation: entering has several checkpoints; if it is cancelled, nothing listens. Leaving closes all connections and waits
    for no browser.

    Raises:
      OSError: it can't listen there, as when the port is taken.
      ValueError: an argument is out of range, or the host needs a token.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 8080,
        *,
        token: str | None = None,
        allow_control: bool = False,
        title: str = "trioresil",
        history: int = 300,
        health: HealthMonitor | None = None,
        max_readers: int = 100,
        name: str = "dashboard",
    ) -> None:
        self.name: str = text("name", name)
        self._host = text("host", host)
        self._port = whole("port", port, least=0)
        if port > 65535:
            raise ValueError(f"port must be a whole number from 0 to 65535, not {port!r}")
        self._token = check_token(token, host)
        self._allow_control = flag("allow_control", allow_control)
        self._title = text("title", title)
        self._history = whole("history", history, least=10)
        if history > 3600:
            raise ValueError(f"history must be a whole number of seconds from 10 to 3600, not {history!r}")
        if health is not None and not isinstance(health, HealthMonitor):
            raise TypeError(f"health must be a HealthMonitor or None, not {health!r}")
        self._health = health
        self._max_readers = whole("max_readers", max_readers)
        if max_readers > 1000:
            raise ValueError(f"max_readers must be a whole number from 1 to 1000, not {max_readers!r}")
        self._dashboard: Dashboard | None = None
        self._opened = False

    @enable_ki_protection
    async def __aenter__(self) -> Dashboard:
        if self._opened:
            raise RuntimeError(
                f"{self.name}: this dashboard was opened already: call open_dashboard() for each `async with`"
            )
        self._opened = True
        listeners = await listen(self._host, self._port)
        try:
            dashboard = Dashboard(self, listeners)
            await dashboard._tasks.__aenter__()
        except BaseException:
            for each in listeners:
                each.socket.close()
            raise
        self._dashboard = dashboard
        dashboard._start()
        return dashboard

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        dashboard = self._dashboard
        assert dashboard is not None
        dashboard._tasks.check_task()
        dashboard._close()
        return await dashboard._tasks.__aexit__(kind, error, traceback)


async def serve_dashboard(
    *args: Any, task_status: trio.TaskStatus[Dashboard] = trio.TASK_STATUS_IGNORED, **options: Any
) -> None:
    """Keep a live page open until this is cancelled, for a nursery that outlives the function that starts it.

    Synopsis::

        dashboard = await nursery.start(functools.partial(trioresil.dashboard.serve_dashboard, port=8080))

    Args:
      *args: the host and the port, as `open_dashboard` takes them.
      task_status: tells the Dashboard to `nursery.start`.
      **options: what else `open_dashboard` takes.

    Cancellation: closes the page.
    """
    async with open_dashboard(*args, **options) as dashboard:
        task_status.started(dashboard)
        await trio.sleep_forever()


class Dashboard:
    """What `open_dashboard` opens. It is not built by hand.

    Attributes:
      name (str): its name.
    """

    def __init__(self, options: open_dashboard, listeners: list[trio.SocketListener], /) -> None:
        self.name: str = options.name
        self._listeners = listeners
        self._address: tuple[str, int] = listeners[0].socket.getsockname()[:2]
        self._pulse = Pulse(clock=current_clock().current_time, wall=time.time, history=options._history)
        self._metrics = new_metrics()
        self._app = DashboardApp(
            self._pulse,
            title=options._title,
            host=options._host,
            token=options._token,
            allow_control=options._allow_control,
            health=options._health,
            max_readers=options._max_readers,
            metrics=None if self._metrics is None else self._metrics[1],
            refresh=self._refresh,
        )
        self._server = Server(self._app.asgi, listeners, max_connections=options._max_readers + SPARE)
        self._news = trio.Event()
        self._pulse.wake = lambda: self._news.set()
        self._tasks = Tasks(self.name)
        self._open = ExitStack()

    @property
    def address(self) -> tuple[str, int]:
        """The address and the port that it listens on."""
        return self._address

    @property
    def url(self) -> str:
        """Where the page is."""
        host, port = self._address
        shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"http://[{shown}]:{port}/" if ":" in shown else f"http://{shown}:{port}/"

    def show(self, *policies: Any) -> None:
        """Put policies and services on the page that have not been used since it was opened. They are held weakly.

        Args:
          *policies: objects with a `name` and a method `statistics()`.
        """
        for policy in policies:
            if not callable(getattr(policy, "statistics", None)):
                raise TypeError(f"policies must have a method statistics(), and {policy!r} has none")
        for policy in policies:
            self._pulse.add(policy)
        self._news.set()

    def __repr__(self) -> str:
        return f"<trioresil.dashboard.Dashboard {self.name!r} at {self.url}>"

    # -- inside ----------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        heard_by = [self._pulse] if self._metrics is None else [self._pulse, self._metrics[0]]
        self._open.enter_context(Listening(*heard_by))
        self._open.callback(self._app.control.release_all)
        self._open.callback(self._server.close)
        self._tasks.start_soon(self._server.run, name=f"{self.name}: serves")
        self._tasks.start_soon(self._look, name=f"{self.name}: looks at policies")
        self._tasks.start_soon(self._tell_news, name=f"{self.name}: tells news")

    def _close(self) -> None:
        for each in self._listeners:
            each.socket.close()
        self._open.close()

    async def _look(self) -> None:
        """Look at every policy once a second, a few at a time, spread over half of that second."""
        while True:
            began_at = trio.current_time()
            ids = self._pulse.ids()
            slices = [ids[start : start + SLICE] for start in range(0, len(ids), SLICE)]
            for some in slices:
                self._tell(self._pulse.sample(some))
                await trio.sleep(ROUND / 2 / len(slices))
            self._tell_lines()
            self._app.readers.send("tick", {**self._pulse.end_round(), "held": self._app.control.held()})
            self._server.drop_stalled(trio.current_time())
            await trio.sleep_until(began_at + ROUND)

    async def _tell_news(self) -> None:
        """Tell at once what must be seen at once."""
        while True:
            await self._news.wait()
            await trio.sleep(HASTE)
            self._news = trio.Event()
            urgent = self._pulse.take_urgent()
            for start in range(0, len(urgent), SLICE):
                self._tell(self._pulse.sample(urgent[start : start + SLICE], round_ends=False))
                await trio.lowlevel.checkpoint()
            self._tell_lines()

    def _refresh(self, number: int) -> None:
        self._tell(self._pulse.sample([number], round_ends=False))

    def _tell(self, changes: list[dict[str, Any]]) -> None:
        if changes:
            self._app.readers.send("change", changes)

    def _tell_lines(self) -> None:
        lines = self._pulse.take_lines()
        if lines:
            self._app.readers.send("lines", lines)
