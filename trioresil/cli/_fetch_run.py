"""The run of `trioresil fetch`: many downloads, each resilient, and what became of each.

The law of this file:

1. Each order ends as one of ENDS, whatever happens, and its watcher hears of it once.
2. Nobody waits for another host: a download takes its host's permit before a place among all.
3. What was there before is left, unless it was said that it may be overwritten.
4. A watcher that can't write any more ends the run, and never a single download.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, Protocol, TypeAlias

import attrs
import httpx
import trio

from .._events import Event, RetryGaveUp, RetryScheduled
from .._instruments import instrument
from .._kernel.backoff import exponential
from .._policies.bulkhead import Bulkhead
from .._policies.keyed import Keyed
from .._policies.pipeline import Pipeline
from .._policies.retry import Retry
from .._policies.timeout import Timeout
from .._policies.token_bucket import TokenBucket
from .._services.map import map_concurrently
from ..httpx import DownloadReport, download, open_client, retry_after
from ._fetch_errors import NO_TIME, TOTAL_TIMEOUT, describe, reason_of, worth_another
from ._fetch_names import name_from_header, name_from_url
from ._fetch_plan import Order, checksum_for, places
from ._options import Misuse

State: TypeAlias = Literal["waiting", "running", "saved", "present", "failed", "unfinished"]
ENDS: Final = ("saved", "present", "failed", "unfinished")
ENVIRONMENT: Final = {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"}
"""What httpx takes from there."""
MAX_TASKS: Final = 1000
"""How many orders are looked at at once, so that a busy host doesn't keep others waiting; most of them wait for a permit."""


@attrs.frozen(kw_only=True)
class Settings:
    """How to fetch."""

    max_attempts: int
    timeout: float
    total_timeout: float
    rate: float | None
    per_host: int
    workers: int
    directory: str
    overwrite: bool
    checksums: Mapping[str, str] | None


@attrs.frozen(kw_only=True)
class Retried:
    """An attempt that failed and was followed by another."""

    reason: str
    attempt: int
    """Its number, counted from the last progress."""
    delay: float
    """Seconds until the next."""
    due_at: float
    """When that is."""


@attrs.define(kw_only=True, eq=False)
class Job:
    """One order, and what becomes of it."""

    order: Order
    path: str | None = None
    digest: str | None = None
    state: State = "waiting"
    done_bytes: int = 0
    total_bytes: int | None = None
    began_at: float | None = None
    seconds: float = 0.0
    retries: list[Retried] = attrs.Factory(list)
    pending: Retried | None = None
    """The retry that is being waited for, or made; None once bytes have come."""
    error: str | None = None
    gave_up: str = ""
    busy: bool = False
    """Whether another program is downloading this file: what there is of it is that one's."""
    report: DownloadReport | None = None

    @property
    def name(self) -> str:
        """What to call it: its file's name, or its URL as long as it has none."""
        return self.order.shown_url if self.path is None else os.path.basename(self.path)

    @property
    def part(self) -> tuple[str, int] | None:
        """Where what has come is kept, and how many bytes; None if there is nothing to go on with."""
        if self.path is None or self.busy:
            return None
        part = f"{self.path}.part"
        try:
            size = os.path.getsize(part) if os.path.exists(f"{part}.json") else 0
        except OSError:
            return None
        return (part, size) if size else None

    @property
    def held_bytes(self) -> int:
        """How many of its bytes were there before this run, and were of use."""
        return 0 if self.report is None else self.report.kept_bytes


class Watcher(Protocol):
    """Who is told how a run goes."""

    def changed(self, job: Job) -> None:
        """A job began, got on, will be tried again, or has ended."""


@attrs.frozen(eq=False)
class _Listener:
    """Hears what the Retry of one job does."""

    job: Job
    tell: Callable[[Job], None]

    def record(self, event: Event) -> None:
        job = self.job
        if isinstance(event, RetryScheduled):
            assert event.error is not None
            due_at = trio.current_time() + event.delay
            job.pending = Retried(reason=describe(event.error), attempt=event.attempt, delay=event.delay, due_at=due_at)
            job.retries.append(job.pending)
            self.tell(job)
        elif isinstance(event, RetryGaveUp):
            job.gave_up = reason_of(event)


class FetchRun:
    """All orders of one command."""

    def __init__(self, orders: list[Order], settings: Settings, watcher: Watcher) -> None:
        self.jobs = [Job(order=each, path=each.path, digest=each.digest) for each in orders]
        self.output_error: OSError | None = None
        self.seconds = 0.0
        self._settings = settings
        self._watcher = watcher
        self._scope = trio.CancelScope()
        self._places = {place for each in orders if each.path is not None for place in places(each.path)}
        self._retry = Retry(
            on=worth_another,
            max_attempts=settings.max_attempts,
            backoff=exponential(initial=0.5, max=30.0),
            delay_hint=retry_after,
            name="fetch",
        )
        self._timeout = Timeout(settings.total_timeout, name=TOTAL_TIMEOUT)
        rate = settings.rate
        self._bucket = None if rate is None else TokenBucket(rate=rate, name="rate")
        self._opened = self._open_client()

    def stop(self, why: str) -> None:
        """End it; parts are kept."""
        self._scope.cancel(reason=why)

    def stop_for_output(self, error: OSError) -> None:
        """End it, since nobody could be told."""
        self.output_error = self.output_error or error
        self.stop("the output can't be written")

    async def run(self) -> None:
        """Fetch all."""
        settings, began_at = self._settings, trio.current_time()
        by_host = Keyed(
            lambda origin: Bulkhead(settings.per_host, name=origin), key=lambda job: job.order.origin, name="per-host"
        )
        limits = Pipeline(by_host, Bulkhead(settings.workers, name="workers"), name="fetch-limits")
        tasks = min(MAX_TASKS, len(self.jobs))
        try:
            with self._scope:
                async with self._opened as client:

                    async def fetch(job: Job) -> None:
                        await self._fetch(client, job)

                    async with map_concurrently(fetch, self.jobs, workers=tasks, policy=limits) as outcomes:
                        async for outcome in outcomes:
                            outcome.unwrap()
        finally:
            self.seconds = trio.current_time() - began_at
            for job in self.jobs:
                if job.state not in ENDS:
                    job.state = "unfinished"
                    self._tell(job)

    def _open_client(self) -> Any:
        settings = self._settings
        hooks = {} if self._bucket is None else {"request": [self._take_token]}
        try:
            return open_client(
                total_timeout=float("inf"),  # the files' own is around all of their attempts
                attempt_timeout=settings.timeout,
                retry=None,  # download has one, which knows about progress
                bulkhead=lambda origin: Bulkhead(settings.per_host, name=origin),  # where redirects lead
                event_hooks=hooks,
                follow_redirects=True,
            )
        except (ImportError, ValueError, TypeError, OSError, httpx.InvalidURL) as exc:
            named = [name for name in os.environ if name.upper() in ENVIRONMENT]
            look = f" (look at {', '.join(sorted(named))} in the environment)" if named else ""
            raise Misuse(f"no client can be made: {describe(exc)}{look}") from None

    async def _take_token(self, request: httpx.Request) -> None:
        assert self._bucket is not None
        await self._bucket.acquire()

    def _tell(self, job: Job) -> None:
        if self.output_error is not None:
            return
        try:
            self._watcher.changed(job)
        except OSError as exc:
            self.stop_for_output(exc)

    async def _fetch(self, client: httpx.AsyncClient, job: Job) -> None:
        """Fetch one file; whatever goes wrong ends this one only."""
        job.state, job.began_at = "running", trio.current_time()
        try:
            with instrument(_Listener(job, self._tell)):
                await self._timeout.call(self._get, client, job)
        except Exception as exc:
            if self._scope.cancel_called and job.gave_up == NO_TIME:  # it would have been tried again, but for Ctrl-C
                return
            job.state, job.error, job.busy = "failed", describe(exc) + job.gave_up, isinstance(exc, BlockingIOError)
        finally:
            job.seconds = trio.current_time() - job.began_at
            if job.state in ENDS:
                self._tell(job)

    async def _get(self, client: httpx.AsyncClient, job: Job) -> None:
        if job.path is None:
            await self._find_name(client, job)
        assert job.path is not None
        if await trio.to_thread.run_sync(_is_kept, job.path, job.digest, self._settings.overwrite):
            job.total_bytes = job.done_bytes = (await trio.Path(job.path).stat()).st_size
            job.state = "present"
            return
        part = job.part
        job.done_bytes = 0 if part is None else part[1]
        self._tell(job)

        def progress(done_bytes: int, total_bytes: int | None) -> None:
            job.done_bytes, job.total_bytes, job.pending = done_bytes, total_bytes, None
            self._tell(job)

        job.report = await download(client, job.order.url, job.path, progress, digest=job.digest, retry=self._retry)
        job.done_bytes = job.total_bytes = job.report.total_bytes
        job.state = "saved"

    async def _find_name(self, client: httpx.AsyncClient, job: Job) -> None:
        """Ask the server what the file is called."""
        self._tell(job)

        async def ask() -> httpx.Response:
            response = await client.head(job.order.url)
            if response.status_code >= 400 and not worth_another(_as_error(response)):  # perhaps it has no HEAD
                async with client.stream("GET", job.order.url) as response:
                    pass
            return response.raise_for_status()

        response = await self._retry.call(ask)
        name = name_from_header(response.headers.get("content-disposition", "")) or name_from_url(str(response.url))
        path = os.path.join(self._settings.directory, name)
        taken = set(places(path))
        if taken & self._places:
            raise FileExistsError(f"another URL of this run is saved as {name!r}")
        self._places |= taken
        if self._settings.checksums is not None:
            try:
                job.digest = checksum_for(path, self._settings.checksums)
            except Misuse as exc:
                raise ValueError(exc.message) from None
        job.path, job.pending = path, None


def _as_error(response: httpx.Response) -> httpx.HTTPStatusError:
    return httpx.HTTPStatusError("", request=response.request, response=response)


def _is_kept(path: str, digest: str | None, overwrite: bool) -> bool:
    """Tell whether there is a file which is to be left, since it is what it should be, as far as that is known."""
    if os.path.exists(path) and not os.path.isfile(path):  # a device too could be replaced, and must not be
        raise FileExistsError(f"{path} is there, and is no file")
    if overwrite or not os.path.lexists(path):
        return False
    if not os.path.isfile(path):
        raise FileExistsError(f"{path} is there, and is a link to nothing")
    if digest is not None:
        algorithm, _, wanted = digest.partition(":")
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, algorithm).hexdigest()
        if found != wanted.lower():
            raise FileExistsError(f"{path} is there, and has another checksum (--overwrite replaces it)")
    return True
