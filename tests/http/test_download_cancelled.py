"""download, cancelled: at every step of its task, and at random over loopback. The target path never has half a file."""

# ruff: noqa: ASYNC240 - the files of these tests are small, and nothing else runs meanwhile

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import trio

import trioresil
from tests.http._clients import Edge, descriptors
from tests.http._file_site import FileSite
from tests.http._raw_server import RawServer

CONTENT = random.Random(5).randbytes(600_000)
URL = "http://files.example/data.bin"


class CancelAt(trio.abc.Instrument):
    """Cancels a scope before the n-th step that this task takes. Threads make other tasks' steps vary, never this one's."""

    def __init__(self, step: int, scope: trio.CancelScope) -> None:
        self._left = step
        self._scope = scope
        self._task = trio.lowlevel.current_task()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()

    @property
    def fired(self) -> bool:
        return self._left <= 0


def site() -> FileSite:
    """Breaks off twice, has a new version then, and answers once with a 503: every path of a download."""
    made = FileSite(CONTENT, [None, 250_000, 100_000, 200_000])
    made.refuse = [(503, {})]
    return made


def retry(edge: Edge) -> trioresil.Retry:
    return trioresil.Retry(on=edge.lib.HTTPError, backoff=[0.0])


def assert_resumable(target: Path) -> None:
    """What is left beside the target is a prefix of the file."""
    part = Path(f"{target}.part")
    if part.exists():
        held = part.read_bytes()
        assert held == CONTENT[: len(held)]
        assert Path(f"{target}.part.json").exists() or not held


@pytest.mark.slow
def test_cancelled_at_any_step_it_leaves_nothing_half_done_and_can_be_gone_on_with(edge: Edge, tmp_path: Path) -> None:
    steps = 0
    outcomes: set[str] = set()

    async def cancelled_at(step: int, target: Path) -> bool:
        with trio.CancelScope() as scope:
            cancel = CancelAt(step, scope)
            trio.lowlevel.add_instrument(cancel)
            try:
                async with edge.lib.AsyncClient(transport=site().transport(edge.lib)) as client:
                    report = await edge.face.download(client, URL, target, retry=retry(edge))
                outcomes.add("done")
                assert report.total_bytes == len(CONTENT)
                assert target.read_bytes() == CONTENT
            except edge.lib.HTTPError:  # cancelled just then, a Retry has no time left, and the real error comes out
                assert scope.cancel_called
                assert not target.exists()
            except BaseException:
                assert not target.exists()
                raise
            finally:
                trio.lowlevel.remove_instrument(cancel)
        return cancel.fired

    async def go_on(target: Path) -> None:
        async with edge.lib.AsyncClient(transport=site().transport(edge.lib)) as client:
            await edge.face.download(client, URL, target, retry=retry(edge))
        assert target.read_bytes() == CONTENT
        assert sorted(path.name for path in target.parent.iterdir()) == [target.name]

    before = descriptors()
    fired = True
    while fired:
        steps += 1
        target = tmp_path / f"{steps}" / "data.bin"
        target.parent.mkdir()
        fired = trio.run(cancelled_at, steps, target)
        if not target.exists():
            outcomes.add("part" if Path(f"{target}.part").exists() else "nothing")
        assert_resumable(target)
        trio.run(go_on, target)
    assert steps > 35
    assert outcomes == {"done", "part", "nothing"}
    assert descriptors() == before


@pytest.mark.slow
async def test_cancelled_at_random_again_and_again_it_arrives_whole(edge: Edge, tmp_path: Path) -> None:
    rng = random.Random(6)
    target = tmp_path / "data.bin"
    served = FileSite(CONTENT)
    served.piece = 4096
    cancelled = 0
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            server = await RawServer(served.script).start(nursery)
            async with edge.lib.AsyncClient() as client:
                for patience in itertools.chain(
                    range(1, 40), itertools.repeat(40)
                ):  # so the first can't have been enough
                    if target.exists():
                        break
                    served.cuts = iter([rng.choice([None, rng.randrange(100_000)]) for _ in range(20)])
                    late = False
                    with trio.move_on_after(rng.uniform(0, patience / 2000)) as scope:
                        try:
                            await edge.face.download(client, server.url, target, retry=retry(edge))
                        except edge.lib.HTTPError:  # broken off when the time was over: a Retry has none left then
                            late = trio.current_time() >= scope.deadline
                            if not late:
                                raise
                    cancelled += scope.cancelled_caught
                    assert target.exists() != (scope.cancelled_caught or late)
                    assert_resumable(target)
            nursery.cancel_scope.cancel()
    assert cancelled > 0
    assert target.read_bytes() == CONTENT


async def test_cancelled_before_it_begins_it_touches_nothing(edge: Edge, tmp_path: Path) -> None:
    served = site()
    async with edge.lib.AsyncClient(transport=served.transport(edge.lib)) as client:
        with trio.CancelScope() as scope:
            scope.cancel()
            await edge.face.download(client, URL, tmp_path / "data.bin")
    assert scope.cancelled_caught
    assert (served.asked, list(tmp_path.iterdir())) == ([], [])


async def test_bytes_that_had_come_are_kept_when_it_is_cancelled(edge: Edge, tmp_path: Path) -> None:
    """Also those that were not yet written: they took time to come."""
    target = tmp_path / "data.bin"
    arrived = trio.Event()

    class Stalls(edge.lib.AsyncByteStream):  # type: ignore[misc,name-defined]
        async def __aiter__(self) -> Any:
            yield CONTENT[:1000]
            arrived.set()
            await trio.sleep_forever()

    headers = {"etag": '"v1"', "content-length": str(len(CONTENT))}
    transport = edge.lib.MockTransport(lambda _: edge.lib.Response(200, headers=headers, stream=Stalls()))
    async with edge.lib.AsyncClient(transport=transport) as client, trio.open_nursery() as nursery:
        nursery.start_soon(edge.face.download, client, URL, target)
        await arrived.wait()
        nursery.cancel_scope.cancel()
    assert Path(f"{target}.part").read_bytes() == CONTENT[:1000]
    async with edge.lib.AsyncClient(transport=FileSite(CONTENT).transport(edge.lib)) as client:
        report = await edge.face.download(client, URL, target)
    assert (report.kept_bytes, target.read_bytes()) == (1000, CONTENT)
