"""One cell of section `http`, in a process of its own: some tasks call one server through one client, without a pause.

Its only argument is a JSON object (`Load`), its only output a JSON object. The process ends the moment its window closes, in
the middle of everything: what closing costs is measured nowhere, and a client that is lost in its queue can't keep it alive.
"""

from __future__ import annotations

import asyncio
import gc
import json
import math
import os
import resource
import signal
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import trio

Get = Callable[[], Awaitable[object]]
TIMEOUT = 60.0  # seconds: everybody has time-outs, as in earnest, but none that a queue of this benchmark reaches


@dataclass(frozen=True)
class Load:
    """What to do."""

    contender: str
    url: str
    ca: str | None
    tasks: int
    connections: int
    window: float
    """Seconds that are measured; they begin when the connections are up."""
    box: float
    """Seconds after which the process reports what it has and ends."""
    server: int
    """Process id of the server's worker, whose CPU time is looked up."""
    gc_threshold: int
    """New objects between two looks of the garbage collector at them; 0: as Python has it."""

    def context(self) -> ssl.SSLContext:
        """Return the same TLS context for everybody."""
        return ssl.create_default_context(cafile=self.ca)


class Tally:
    """Counts responses; the window opens after the first ones and closes by itself."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._to_warm_up = max(load.tasks, 200)
        self._before = 0
        self._opened_at = math.inf
        self._closes_at = math.inf
        self._cpu = self._server_cpu = 0.0
        self._served = [0] * load.tasks
        self._latencies: list[float] = []
        self._errors: dict[str, int] = {}

    def begin(self) -> None:
        """Start the clock of the box."""
        self._began = time.perf_counter()
        signal.signal(signal.SIGALRM, lambda *_: self.finish(whole=False))
        signal.setitimer(signal.ITIMER_REAL, self._load.box)

    def served(self, task: int, began: float) -> None:
        """Count a response."""
        now = time.perf_counter()
        if self._opened_at == math.inf:
            self._before += 1
            if self._before >= self._to_warm_up:
                self._cpu, self._server_cpu = _cpu(), _cpu_of(self._load.server)
                self._opened_at = time.perf_counter()
                self._closes_at = self._opened_at + self._load.window
            return
        self._served[task] += 1
        self._latencies.append(now - began)
        if now >= self._closes_at:
            self.finish(whole=True)

    def failed(self, error: Exception) -> None:
        """Count an error."""
        name = type(error).__name__
        self._errors[name] = self._errors.get(name, 0) + 1

    def finish(self, *, whole: bool) -> NoReturn:
        """Print the result and end the process."""
        now = time.perf_counter()
        result: dict[str, Any] = {"whole": whole, "errors": self._errors, "before": self._before}
        if self._latencies and whole:
            seconds, served, ranked = now - self._opened_at, len(self._latencies), sorted(self._latencies)
            cpu = _cpu() - self._cpu
            result |= {
                "per_second": served / seconds,
                "p50_ms": ranked[served // 2] * 1e3,
                "p99_ms": ranked[served * 99 // 100] * 1e3,
                "cpu_us": cpu / served * 1e6,
                "client_busy": cpu / seconds,
                "server_busy": (_cpu_of(self._load.server) - self._server_cpu) / seconds,
                "least": min(self._served),
                "most": max(self._served),
            }
        else:
            result["per_second"] = (self._before + len(self._latencies)) / (now - self._began)
        os.write(1, json.dumps(result).encode())
        os._exit(0)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _cpu_of(process: int) -> float:
    """Return another process's CPU seconds, nan where there is no /proc."""
    try:
        with open(f"/proc/{process}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return math.nan
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# -- contenders: each opens something and gives a function that gets the URL ------------------------------------------------


@asynccontextmanager
async def _bare(library: str, load: Load) -> Any:
    module = __import__(library)
    limits = module.Limits(max_connections=load.connections, max_keepalive_connections=load.connections)
    async with module.AsyncClient(limits=limits, verify=load.context(), timeout=TIMEOUT) as client:
        yield _through(client, load.url)


@asynccontextmanager
async def _ours(library: str, load: Load) -> Any:
    module, transport = _transport(library, load)
    async with module.AsyncClient(transport=transport, timeout=TIMEOUT) as client:
        yield _through(client, load.url)


@asynccontextmanager
async def _no_client(library: str, load: Load) -> Any:
    module, transport = _transport(library, load)
    async with module.AsyncClient(timeout=TIMEOUT) as client:
        request = client.build_request("GET", load.url)

    async def get() -> None:
        response = await transport.handle_async_request(request)
        if response.status_code != 200:
            raise ValueError(response.status_code)
        async for _ in response.stream:
            pass
        await response.stream.aclose()

    async with transport:
        yield get


@asynccontextmanager
async def _resilient(library: str, load: Load) -> Any:
    face: Any = __import__(f"trioresil.{library}", fromlist=["open_client"])
    options = {"total_timeout": TIMEOUT, "attempt_timeout": TIMEOUT, **_pool_options(__import__(library), load)}
    async with face.open_client(**options) as client:
        yield _through(client, load.url)


def _transport(library: str, load: Load) -> tuple[Any, Any]:
    module = __import__(library)
    face: Any = __import__(f"trioresil.{library}", fromlist=["PoolTransport"])
    return module, face.PoolTransport(**_pool_options(module, load))


def _pool_options(module: Any, load: Load) -> dict[str, Any]:
    """Return as many connections as the others have, all of them for the one origin that there is."""
    limits = module.Limits(max_connections=load.connections, max_keepalive_connections=load.connections)
    return {"limits": limits, "verify": load.context(), "max_connections_per_origin": math.inf}


def _through(client: Any, url: str) -> Get:
    async def get() -> None:
        response = await client.get(url)
        if response.status_code != 200:
            raise ValueError(response.status_code)

    return get


@asynccontextmanager
async def _aiohttp(load: Load) -> Any:
    import aiohttp

    connector = aiohttp.TCPConnector(limit=load.connections, ssl=load.context())
    async with aiohttp.ClientSession(connector=connector) as session:

        async def get() -> None:
            async with session.get(load.url) as response:
                await response.read()
                if response.status != 200:
                    raise ValueError(response.status)

        yield get


CONTENDERS: dict[str, Callable[[Load], AbstractAsyncContextManager[Get]]] = {
    "httpx": lambda load: _bare("httpx", load),
    "httpx2": lambda load: _bare("httpx2", load),
    "trioresil, httpx": lambda load: _ours("httpx", load),
    "trioresil, httpx2": lambda load: _ours("httpx2", load),
    "trioresil, no client": lambda load: _no_client("httpx", load),
    "trioresil, open_client": lambda load: _resilient("httpx", load),
    "aiohttp": _aiohttp,
}


# -- the load ----------------------------------------------------------------------------------------------------------


async def _work(get: Get, task: int, tally: Tally) -> None:
    while True:
        began = time.perf_counter()
        try:
            await get()
        except Exception as error:
            tally.failed(error)
        else:
            tally.served(task, began)


async def _on_trio(load: Load, tally: Tally) -> None:
    async with CONTENDERS[load.contender](load) as get, trio.open_nursery() as nursery:
        tally.begin()
        for task in range(load.tasks):
            nursery.start_soon(_work, get, task, tally)


async def _on_asyncio(load: Load, tally: Tally) -> None:
    async with CONTENDERS[load.contender](load) as get, asyncio.TaskGroup() as group:
        tally.begin()
        for task in range(load.tasks):
            group.create_task(_work(get, task, tally))


def main() -> None:
    """Run the load that the first argument describes."""
    load = Load(**json.loads(sys.argv[1]))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if load.gc_threshold:
        gc.set_threshold(load.gc_threshold, 20, 1000)
    tally = Tally(load)
    if load.contender == "aiohttp":
        asyncio.run(_on_asyncio(load, tally))
    else:
        trio.run(_on_trio, load, tally)


if __name__ == "__main__":
    main()
