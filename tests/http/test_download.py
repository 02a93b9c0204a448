"""download: whatever breaks, the file that appears is the file that was served, and until then nothing appears."""

# ruff: noqa: ASYNC240 - the files of these tests are small, and nothing else runs meanwhile

from __future__ import annotations

import errno
import gc
import hashlib
import json
import os
import random
import resource
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trioresil
from tests.http._clients import TRANSPORTS, Edge, descriptors
from tests.http._file_site import LAST_MODIFIED, FileSite
from tests.http._raw_server import RawServer
from trioresil._http import _download_run, _part_file
from trioresil.testing import Recorder

URL = "http://files.example/data.bin"
CONTENT = random.Random(3).randbytes(700_001)
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "data.bin"


def again(edge: Edge, attempts: float = 3, **options: Any) -> trioresil.Retry:
    """A Retry that doesn't wait."""
    return trioresil.Retry(**{"on": edge.lib.TransportError, "max_attempts": attempts, "backoff": [0.0], **options})


async def fetch(edge: Edge, site: FileSite, target: Path, *args: Any, url: str = URL, **options: Any) -> Any:
    """Download from a site in memory, without waits."""
    options.setdefault("retry", again(edge))
    async with edge.lib.AsyncClient(transport=site.transport(edge.lib)) as client:
        return await edge.face.download(client, url, target, *args, **options)


async def break_off(edge: Edge, site: FileSite, target: Path, at: int, url: str = URL) -> None:
    """Begin a download that breaks off after so many bytes."""
    site.cuts = iter([at])
    with pytest.raises(edge.lib.RemoteProtocolError):
        await fetch(edge, site, target, url=url, retry=again(edge, 1))
    assert part(target).stat().st_size == at
    site.asked.clear()
    site.statuses.clear()


def part(target: Path) -> Path:
    return Path(f"{target}.part")


def files(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


@asynccontextmanager
async def serving(edge: Edge, site: FileSite, kind: str = "own") -> AsyncIterator[tuple[Any, str]]:
    """A client of the library, and the URL of a site on loopback."""
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            server = await RawServer(site.script).start(nursery)
            async with edge.lib.AsyncClient(transport=edge.transport(kind)) as client:
                yield client, f"{server.url}/data.bin"
            nursery.cancel_scope.cancel()


# --- the file --------------------------------------------------------------------------------------------------------


async def test_a_file_arrives_whole_and_leaves_nothing_beside_it(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT)
    async with serving(edge, site) as (client, url):
        report = await edge.face.download(client, url, target)
    assert target.read_bytes() == CONTENT
    assert files(target) == ["data.bin"]
    assert (report.path, report.total_bytes, report.kept_bytes) == (target, len(CONTENT), 0)
    assert (report.requests, report.resumed) == (1, 0)
    assert 0 < report.seconds < 30
    assert site.asked[0]["accept-encoding"] == "identity"
    assert "range" not in site.asked[0]


async def test_an_empty_file_is_a_file(edge: Edge, target: Path) -> None:
    calls: list[tuple[int, int | None]] = []
    report = await fetch(edge, FileSite(b""), target, lambda *call: calls.append(call))
    assert (target.read_bytes(), report.total_bytes, calls) == (b"", 0, [(0, 0)])


async def test_a_relative_path_as_text_works_from_the_working_directory(
    edge: Edge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report = await fetch(edge, FileSite(b"abc"), "a.txt")  # type: ignore[arg-type]
    assert (tmp_path / "a.txt").read_bytes() == b"abc"
    assert report.path == tmp_path / "a.txt"


async def test_a_body_without_a_length_arrives_whole(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT)
    site.length = False
    totals: list[int | None] = []
    async with serving(edge, site) as (client, url):
        await edge.face.download(client, url, target, lambda _done, total: totals.append(total))
    assert target.read_bytes() == CONTENT
    assert set(totals[:-1]) == {None}
    assert totals[-1] == len(CONTENT)


async def test_a_content_encoding_is_saved_as_it_was_sent(edge: Edge, target: Path) -> None:
    site = FileSite(b"\x1f\x8b not really gzip")
    site.extra = {"content-encoding": "gzip"}
    await fetch(edge, site, target)
    assert target.read_bytes() == site.content


async def test_the_file_that_was_there_stays_until_the_new_one_is_whole(edge: Edge, target: Path) -> None:
    target.write_bytes(b"old")
    seen: set[bytes] = set()
    await break_off(edge, FileSite(CONTENT), target, 300_000)
    assert target.read_bytes() == b"old"
    await fetch(edge, FileSite(CONTENT), target, lambda *_: seen.add(target.read_bytes()))
    assert seen == {b"old", CONTENT} - {CONTENT}
    assert target.read_bytes() == CONTENT


async def test_contents_reach_the_disk_before_the_name_and_the_name_before_the_return(
    edge: Edge, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: (calls.append(f"fsync {os.readlink(f'/proc/self/fd/{fd}')}"), fsync(fd))
    )
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append(f"replace {paths}"), replace(*paths)))
    await fetch(edge, FileSite(CONTENT), target)
    source = f"{target}.part"
    assert calls == [f"fsync {source}", f"replace {(source, str(target))}", f"fsync {target.parent}"]


async def test_a_directory_that_cannot_be_synced_is_no_failure(
    edge: Edge, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_sync(_directory: str) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(_part_file, "_sync_directory", no_sync)
    await fetch(edge, FileSite(CONTENT), target)
    assert target.read_bytes() == CONTENT


# --- broken bodies ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", TRANSPORTS)
@pytest.mark.parametrize("by", ["fin", "rst"])
async def test_a_body_cut_50_times_arrives_whole(edge: Edge, target: Path, by: str, kind: str) -> None:
    content = random.Random(8).randbytes(3_000_000)
    rng = random.Random(9)
    site = FileSite(content, [rng.randrange(1, 100_000) for _ in range(50)])
    site.break_by = by
    there: set[bool] = set()
    async with serving(edge, site, kind) as (client, url):
        report = await edge.face.download(
            client, url, target, lambda *_: there.add(target.exists()), digest=None, retry=again(edge, 4)
        )
    assert target.read_bytes() == content
    assert there == {False}
    assert files(target) == ["data.bin"]
    assert report.requests == 51
    if by == "fin":  # an RST takes back what was under way, so that one with nothing left before it brings nothing
        assert report.resumed == 50
        assert site.sent == len(content)
    assert report.kept_bytes == 0


async def test_each_request_goes_on_where_the_one_before_broke_off(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT, [100, 200_000, 5])
    report = await fetch(edge, site, target, digest=SHA256)
    assert [headers.get("range") for headers in site.asked] == [
        None,
        "bytes=100-",
        "bytes=200100-",
        "bytes=200105-",
    ]
    assert [headers.get("if-range") for headers in site.asked] == [None, '"v1"', '"v1"', '"v1"']
    assert site.statuses == [200, 206, 206, 206]
    assert site.sent == len(CONTENT)
    assert (report.requests, report.resumed, report.kept_bytes) == (4, 3, 0)


async def test_the_last_modification_serves_where_there_is_no_strong_tag(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT, [300_000])
    site.etag, site.last_modified = 'W/"v1"', LAST_MODIFIED
    await fetch(edge, site, target)
    assert site.asked[1]["if-range"] == LAST_MODIFIED
    assert site.statuses == [200, 206]
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("modified", [None, "Mon, 05 Jan 2026 12:00:00 GMT", "yesterday"])
async def test_without_a_strong_validator_it_begins_anew(edge: Edge, target: Path, modified: str | None) -> None:
    site = FileSite(CONTENT, [300_000])
    site.etag, site.last_modified = 'W/"v1"', modified
    report = await fetch(edge, site, target)
    assert site.statuses == [200, 200]
    assert "range" not in site.asked[1]
    assert (target.read_bytes(), report.resumed) == (CONTENT, 0)


async def test_without_a_strong_validator_nothing_is_left_of_a_failure(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT, [300_000])
    site.etag = None
    with pytest.raises(edge.lib.RemoteProtocolError):
        await fetch(edge, site, target, retry=again(edge, 1))
    assert files(target) == []


async def test_a_new_version_in_between_begins_anew(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT, [300_000])
    done: list[int] = []
    newer = CONTENT[::-1]

    def progress(held: int, _total: int | None) -> None:
        done.append(held)
        site.content, site.etag = newer, '"v2"'

    report = await fetch(edge, site, target, progress)
    assert target.read_bytes() == newer
    assert site.statuses == [200, 200]
    assert done == sorted(done[:1]) + sorted(done[1:])
    assert report.resumed == 0


async def test_a_version_that_changes_while_it_is_resumed_never_mixes(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT)
    versions = [bytes([65 + number]) * 500_000 for number in range(4)]
    cuts = iter([200_000, 100_000, 300_000, 250_000])

    def each_request() -> Iterator[int | None]:
        for number, cut in enumerate(cuts):
            yield cut
            site.content, site.etag = versions[number], f'"v{number + 2}"'

    site.cuts = each_request()
    await fetch(edge, site, target, retry=again(edge, 10))
    assert target.read_bytes() in versions


async def test_a_server_that_ignores_if_range_is_found_out_by_its_tag(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT)
    site.if_range = False
    await break_off(edge, site, target, 300_000)
    site.content, site.etag = CONTENT[::-1], '"v2"'
    report = await fetch(edge, site, target, retry=again(edge, 1))
    assert target.read_bytes() == CONTENT[::-1]
    assert site.statuses == [206, 200]
    assert (report.requests, report.resumed, report.kept_bytes) == (2, 0, 0)


async def test_a_server_that_ignores_if_range_is_found_out_by_the_length(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT)
    site.if_range = False
    await break_off(edge, site, target, 300_000)
    site.content += b"!"
    await fetch(edge, site, target, retry=again(edge, 1))
    assert target.read_bytes() == CONTENT + b"!"


async def test_a_server_without_ranges_sends_all_again(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT, [300_000, 400_000])
    site.ranges = False
    report = await fetch(edge, site, target)
    assert target.read_bytes() == CONTENT
    assert site.statuses == [200] * 3
    assert report.resumed == 0


async def test_parts_shorter_than_asked_for_are_put_together_in_one_attempt(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT)
    await break_off(edge, site, target, 10)
    site.longest = 100_000
    report = await fetch(edge, site, target, retry=again(edge, 1))
    assert target.read_bytes() == CONTENT
    assert (report.requests, report.kept_bytes) == (7, 10)


async def test_a_length_unknown_at_first_is_learnt_from_the_first_part(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT, [300_000])
    site.length = False
    await fetch(edge, site, target)
    assert site.statuses == [200, 206]
    assert target.read_bytes() == CONTENT


async def test_a_file_that_had_come_whole_before_the_end_was_seen_needs_no_byte_more(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT)
    site.length = False
    await break_off(edge, site, target, len(CONTENT) - 1)
    with part(target).open("ab") as file:
        file.write(CONTENT[-1:])
    site.sent = 0
    await fetch(edge, site, target)
    assert (site.statuses, site.sent) == ([416], 0)
    assert target.read_bytes() == CONTENT


async def test_what_lies_beyond_the_end_of_the_file_begins_anew(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT)
    site.length = False
    await break_off(edge, site, target, 500_000)
    site.content = CONTENT[:400_000]
    await fetch(edge, site, target)
    assert site.statuses == [416, 200]
    assert target.read_bytes() == CONTENT[:400_000]


# --- attempts --------------------------------------------------------------------------------------------------------


async def test_attempts_are_counted_from_the_last_progress(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT, [1000, 0, 0, 1000, 0, 0, 1000, 0, 0, 0])
    with pytest.raises(edge.lib.RemoteProtocolError):
        await fetch(edge, site, target, retry=again(edge, 4))
    assert len(site.asked) == 10
    assert part(target).stat().st_size == 3000
    site.cuts = iter([0, 0, 0])
    await fetch(edge, site, target, retry=again(edge, 4))
    assert target.read_bytes() == CONTENT


async def test_beginning_anew_is_no_progress(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT, [1000] * 100)
    site.ranges = False
    with pytest.raises(edge.lib.RemoteProtocolError):
        await fetch(edge, site, target, retry=again(edge, 5))
    assert len(site.asked) == 5


async def test_the_wait_after_progress_is_the_first_of_the_backoff(
    edge: Edge, target: Path, autojump_clock: MockClock
) -> None:
    site = FileSite(CONTENT, [1000, 0, 0, 1000])
    retry = again(edge, 4, backoff=[1.0, 10.0, 100.0])
    recorder = Recorder()
    with trioresil.instrument(recorder):
        report = await fetch(edge, site, target, retry=retry)
    assert report.seconds == 1 + 10 + 100 + 1
    assert [event.attempt for event in recorder.of(trioresil.RetryScheduled)] == [1, 2, 3, 1]
    assert recorder.of(trioresil.RetryGaveUp) == []


async def test_by_default_ten_attempts_bring_no_progress(edge: Edge, target: Path, autojump_clock: MockClock) -> None:
    site = FileSite(CONTENT, [1000] + [0] * 20)
    with pytest.raises(edge.lib.RemoteProtocolError) as caught:
        await fetch(edge, site, target, retry=None)
    assert len(site.asked) == 10
    assert "retry 'download' gave up after 10 attempts" in caught.value.__notes__[0]


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
async def test_by_default_busy_servers_are_asked_again_when_they_say(
    edge: Edge, target: Path, autojump_clock: MockClock, status: int
) -> None:
    site = FileSite(CONTENT)
    site.refuse = [(status, {"retry-after": "20"})]
    report = await fetch(edge, site, target, retry=None)
    assert 20 <= report.seconds <= 30
    assert target.read_bytes() == CONTENT


async def test_by_default_an_open_circuit_is_waited_for(edge: Edge, target: Path, autojump_clock: MockClock) -> None:
    class Rejecting(edge.lib.AsyncBaseTransport):  # type: ignore[misc,name-defined]
        async def handle_async_request(self, request: Any) -> Any:
            if trio.current_time() - began < 20:
                raise edge.face.CircuitOpenError("circuit", retry_after=20.0)
            return edge.lib.Response(200, content=CONTENT)

    began = trio.current_time()
    async with edge.lib.AsyncClient(transport=Rejecting()) as client:
        report = await edge.face.download(client, URL, target)
    assert 20 <= report.seconds <= 30


@pytest.mark.parametrize("status", [304, 400, 404, 500])
async def test_a_refusal_is_the_librarys_status_error_at_once_and_leaves_nothing(
    edge: Edge, target: Path, status: int
) -> None:
    site = FileSite(CONTENT)
    site.refuse = [(status, {})] * 3
    with pytest.raises(edge.lib.HTTPStatusError) as caught:
        await fetch(edge, site, target, retry=None)
    assert caught.value.response.status_code == status
    assert (len(site.asked), files(target)) == (1, [])


@pytest.mark.parametrize("status", [202, 204, 206])
async def test_a_success_that_is_no_whole_file_is_an_error(edge: Edge, target: Path, status: int) -> None:
    site = FileSite(CONTENT)
    site.refuse = [(status, {"content-range": "bytes 0-0/1"})] * 3
    with pytest.raises(edge.lib.HTTPStatusError, match=f"status {status} in answer to a request for the whole file"):
        await fetch(edge, site, target)
    assert files(target) == []


async def test_a_refusal_leaves_the_part_of_an_earlier_download(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT)
    await break_off(edge, site, target, 300_000)
    site.refuse = [(503, {})]
    with pytest.raises(edge.lib.HTTPStatusError):
        await fetch(edge, site, target)
    assert part(target).stat().st_size == 300_000


async def test_a_416_to_a_request_for_all_is_an_error(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT)
    site.refuse = [(416, {"content-range": "bytes */0"})]
    with pytest.raises(edge.lib.HTTPStatusError):
        await fetch(edge, site, target)


async def test_redirects_are_followed_as_the_client_does_or_as_told(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT)
    site.refuse = [(302, {"location": "/elsewhere"})] * 2
    with pytest.raises(edge.lib.HTTPStatusError, match="302"):
        await fetch(edge, site, target)
    await fetch(edge, site, target, follow_redirects=True)
    assert target.read_bytes() == CONTENT


async def test_it_never_waits_beyond_the_deadline(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT, [1000, 0])
    began = trio.current_time()
    with trio.fail_after(60), pytest.raises(edge.lib.RemoteProtocolError) as caught:
        await fetch(edge, site, target, retry=again(edge, 9, backoff=[0.0, 100.0]))
    assert "the next wait would pass the deadline" in caught.value.__notes__[-1]
    assert trio.current_time() - began < 30
    assert part(target).stat().st_size == 1000


async def test_a_response_that_a_hook_has_read_is_saved_too(edge: Edge, target: Path) -> None:
    async def read(response: Any) -> None:
        await response.aread()

    site = FileSite(CONTENT)
    async with edge.lib.AsyncClient(transport=site.transport(edge.lib), event_hooks={"response": [read]}) as client:
        await edge.face.download(client, URL, target, digest=SHA256)
    assert target.read_bytes() == CONTENT


async def test_an_error_that_comes_out_is_freed_when_it_is_let_go(edge: Edge, target: Path) -> None:
    class Mine(Exception):
        pass

    def progress(_done: int, _total: int | None) -> None:
        raise Mine

    gc.collect()
    gc.disable()
    try:
        try:
            await fetch(edge, FileSite(CONTENT), target, progress)
        except Mine as error:
            mine = weakref.ref(error)
        assert mine() is None
    finally:
        gc.enable()


async def test_headers_and_extensions_go_with_each_request(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT, [1000])
    await fetch(edge, site, target, headers={"X-Token": "t"}, extensions={"a": 1})
    assert [headers["x-token"] for headers in site.asked] == ["t", "t"]


# --- wrong bodies ----------------------------------------------------------------------------------------------------


async def test_a_body_shorter_than_announced_is_a_protocol_error(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT)
    site.extra = {"content-length": str(len(CONTENT) + 5)}
    async with serving(edge, site) as (client, url):
        site.cuts = iter([len(CONTENT) - 1] * 9)
        with pytest.raises(edge.lib.RemoteProtocolError):
            await edge.face.download(client, url, target, retry=again(edge, 1))
    assert not target.exists()


async def test_a_transport_that_ends_a_short_body_without_an_error_is_found_out(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT)
    site.extra = {"content-length": str(len(CONTENT) + 5)}
    with pytest.raises(
        edge.lib.RemoteProtocolError, match=r"the body ended at byte 700001; it should end at byte 700006"
    ):
        await fetch(edge, site, target, retry=again(edge, 1))
    assert not target.exists()


async def test_a_body_longer_than_announced_is_never_written(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT)
    site.extra = {"content-length": str(len(CONTENT) - 5)}
    with pytest.raises(edge.lib.RemoteProtocolError, match="the body goes on behind byte 699996"):
        await fetch(edge, site, target)
    assert not target.exists()
    assert not part(target).exists() or part(target).stat().st_size <= len(CONTENT) - 5


@pytest.mark.parametrize(
    "place",
    [
        "",
        "bytes 0-9/700001",
        "bytes 299999-700000/700001",
        "bytes 300000-/700001",
        "bytes 300000-299999/700001",
        "nonsense",
    ],
)
async def test_a_part_that_is_not_the_one_asked_for_is_not_used(edge: Edge, target: Path, place: str) -> None:
    site = FileSite(CONTENT)
    await break_off(edge, site, target, 300_000)
    site.refuse = [(206, {"etag": '"v1"', "content-range": place})]
    await fetch(edge, site, target, retry=again(edge, 1))
    assert target.read_bytes() == CONTENT
    assert site.statuses == [206, 200]


async def test_a_server_that_gives_nothing_that_fits_is_a_protocol_error(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT)
    await break_off(edge, site, target, 300_000)
    site.refuse = [(206, {"content-range": "bytes 0-0/1"})] * 2
    with pytest.raises(edge.lib.HTTPStatusError, match="status 206"):
        await fetch(edge, site, target, retry=again(edge, 1))


async def test_the_right_digest_passes_and_may_be_in_capitals(edge: Edge, target: Path) -> None:
    for digest in (SHA256, SHA256.upper(), f"sha512:{hashlib.sha512(CONTENT).hexdigest()}"):
        await fetch(edge, FileSite(CONTENT), target, digest=digest)
        target.unlink()


async def test_a_wrong_digest_is_an_error_at_once_and_nothing_is_kept(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT[:-1] + b"!")
    target.write_bytes(b"old")
    with pytest.raises(edge.lib.DecodingError, match=SHA256):
        await fetch(edge, site, target, digest=SHA256)
    assert (len(site.asked), files(target), target.read_bytes()) == (1, ["data.bin"], b"old")


async def test_a_spoilt_part_is_found_out_by_the_digest_and_all_is_asked_for_once_more(
    edge: Edge, target: Path
) -> None:
    site = FileSite(CONTENT)
    await break_off(edge, site, target, 300_000)
    with part(target).open("r+b") as file:
        file.write(b"spoilt")
    report = await fetch(edge, site, target, digest=SHA256)
    assert target.read_bytes() == CONTENT
    assert site.statuses == [206, 200]
    assert report.kept_bytes == 0


async def test_a_file_put_together_wrongly_in_this_run_is_asked_for_once_more(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT[::-1])  # changes without a new tag

    def each_request() -> Iterator[int | None]:
        yield 300_000
        site.content = CONTENT

    site.cuts = each_request()
    await fetch(edge, site, target, digest=SHA256)
    assert target.read_bytes() == CONTENT
    assert site.statuses == [200, 206, 200]


async def test_a_file_that_came_in_one_answer_is_not_asked_for_again(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT)
    await break_off(edge, site, target, 300_000)
    site.content, site.etag = CONTENT[::-1], '"v2"'
    with pytest.raises(edge.lib.DecodingError):
        await fetch(edge, site, target, digest=SHA256)
    assert site.statuses == [200]


async def test_a_digest_that_stays_wrong_is_an_error_after_one_more_try(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT[:-1] + b"!")
    await break_off(edge, site, target, 300_000)
    with pytest.raises(edge.lib.DecodingError):
        await fetch(edge, site, target, digest=SHA256)
    assert (site.statuses, files(target)) == ([206, 200], [])


# --- the next run of the program -------------------------------------------------------------------------------------


def in_runs(edge: Edge, *steps: Callable[[], Any]) -> list[Any]:
    return [trio.run(step) for step in steps]


def test_the_next_run_goes_on_where_this_one_broke_off(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT)

    async def first() -> None:
        await break_off(edge, site, target, 300_000)

    async def second() -> Any:
        return await fetch(edge, site, target)

    report = in_runs(edge, first, second)[1]
    assert target.read_bytes() == CONTENT
    assert (report.requests, report.resumed, report.kept_bytes) == (1, 1, 300_000)
    assert site.asked[0]["range"] == "bytes=300000-"
    assert site.sent == len(CONTENT)
    assert files(target) == ["data.bin"]


async def test_a_part_of_another_url_is_not_used_and_the_note_holds_no_secret(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT)
    await break_off(edge, site, target, 300_000, url="http://files.example/?token=secret")
    note = Path(f"{target}.part.json").read_text()
    assert "secret" not in note
    assert "files.example" not in note
    await fetch(edge, site, target)
    assert site.statuses == [200]


async def test_a_part_that_seems_complete_is_asked_about_by_its_last_byte(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT)
    await break_off(edge, site, target, len(CONTENT) - 1)
    with part(target).open("ab") as file:
        file.write(CONTENT[-1:])
    site.sent = 0
    report = await fetch(edge, site, target)
    assert target.read_bytes() == CONTENT
    assert (site.asked[0]["range"], site.sent) == (f"bytes={len(CONTENT) - 1}-", 1)
    assert report.kept_bytes == len(CONTENT)


async def test_a_complete_part_of_an_old_version_is_not_used(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT)
    await break_off(edge, site, target, len(CONTENT) - 1)
    with part(target).open("ab") as file:
        file.write(CONTENT[-1:])
    site.content, site.etag = CONTENT[::-1], '"v2"'
    await fetch(edge, site, target)
    assert target.read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize(
    "note",
    [None, b"", b"{", b"[]", b"null", b"{}", b"\xff", b'{"source": 1, "validator": 2, "total": "x"}', b'{"x": 1}'],
)
async def test_a_part_whose_note_is_missing_or_cut_off_is_not_used(
    edge: Edge, target: Path, note: bytes | None
) -> None:
    site = FileSite(CONTENT)
    await break_off(edge, site, target, 300_000)
    path = Path(f"{target}.part.json")
    path.unlink() if note is None else path.write_bytes(note)
    await fetch(edge, site, target)
    assert site.statuses == [200]
    assert target.read_bytes() == CONTENT


async def test_a_part_longer_than_its_version_is_not_used(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT)
    await break_off(edge, site, target, 300_000)
    path = Path(f"{target}.part.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "total": 299_999}))
    await fetch(edge, site, target)
    assert site.statuses == [200]


async def test_a_crash_before_the_note_is_written_leaves_no_false_part(
    edge: Edge, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Emptied, then noted: at no moment does the note of one version stand beside bytes of another."""
    site = FileSite(CONTENT)
    await break_off(edge, site, target, 300_000)
    site.content, site.etag = CONTENT[::-1], '"v2"'

    class Crash(BaseException):
        pass

    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(json, "dump", crash)
        patch.setattr(_part_file.PartFile, "close", _part_file.PartFile._close)  # as the system does it
        with pytest.raises(Crash):
            await fetch(edge, site, target)
    assert part(target).stat().st_size == 0
    await fetch(edge, site, target)
    assert target.read_bytes() == CONTENT[::-1]


# --- this side's errors ----------------------------------------------------------------------------------------------


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Within the block the system refuses to let a file grow beyond this size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_full_disk_comes_out_at_once_and_the_part_is_gone_on_with(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT)
    with largest_file(400_000), pytest.raises(OSError, match="File too large"):
        await fetch(edge, site, target, retry=again(edge, on=Exception))
    assert not target.exists()
    assert len(site.asked) == 1
    assert part(target).read_bytes() == CONTENT[:400_000]
    report = await fetch(edge, site, target)
    assert (target.read_bytes(), report.kept_bytes) == (CONTENT, 400_000)


async def test_a_disk_that_is_full_when_the_rest_of_a_broken_body_is_kept_comes_out(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT, [100_000])
    with largest_file(50_000), pytest.raises(OSError, match="File too large"):
        await fetch(edge, site, target, retry=again(edge, on=Exception))
    assert len(site.asked) == 1


async def test_a_system_that_writes_less_than_it_is_given_is_given_the_rest(
    edge: Edge, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def short(fd: int, data: Any) -> int:
        in_part = os.readlink(f"/proc/self/fd/{fd}") == f"{target}.part"
        return write(fd, data[:10_000] if in_part else data)

    site, done = FileSite(CONTENT, [300_000]), []
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", short)
        await fetch(edge, site, target, lambda held, _: done.append(held))
    assert target.read_bytes() == CONTENT
    assert site.asked[1]["range"] == "bytes=300000-"
    assert done[-1] == len(CONTENT)


async def test_a_body_that_breaks_before_its_first_byte_leaves_nothing(edge: Edge, target: Path) -> None:
    with pytest.raises(edge.lib.RemoteProtocolError):
        await fetch(edge, FileSite(CONTENT, [0]), target, retry=again(edge, 1))
    assert files(target) == []


async def test_a_disk_that_takes_nothing_of_the_rest_is_no_failure_of_the_network(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT, [100_000, 50_000])
    with largest_file(100_000), pytest.raises(OSError, match="File too large"):
        await fetch(edge, site, target)
    assert len(site.asked) == 2


async def test_a_missing_directory_is_an_error_before_any_request(edge: Edge, tmp_path: Path) -> None:
    site = FileSite(CONTENT)
    with pytest.raises(FileNotFoundError):
        await fetch(edge, site, tmp_path / "nowhere" / "data.bin")
    assert site.asked == []


async def test_a_directory_as_target_is_an_error_before_any_request(edge: Edge, tmp_path: Path) -> None:
    site = FileSite(CONTENT)
    with pytest.raises(IsADirectoryError, match="path must be the path of a file"):
        await fetch(edge, site, tmp_path)
    assert (site.asked, list(tmp_path.parent.glob(f"{tmp_path.name}.part*"))) == ([], [])


async def test_two_downloads_to_one_path_at_once_are_refused(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT)
    refused: list[OSError] = []

    async def second() -> None:
        with pytest.raises(BlockingIOError, match="another download to this path is under way") as caught:
            await fetch(edge, site, target)
        refused.append(caught.value)

    async with trio.open_nursery() as nursery:

        def progress(done: int, total: int | None) -> None:
            if not refused and done < CONTENT.__len__() / 2:
                nursery.start_soon(second)

        site.piece = 1000
        await fetch(edge, site, target, progress)
    assert target.read_bytes() == CONTENT
    assert len(refused) >= 1


async def test_a_part_that_cannot_be_read_leaves_no_descriptor_open(edge: Edge, target: Path) -> None:
    Path(f"{target}.part.json").mkdir()
    before = descriptors()
    with pytest.raises(IsADirectoryError):
        await fetch(edge, FileSite(CONTENT), target)
    assert descriptors() == before


async def test_a_part_that_was_put_in_its_place_meanwhile_is_not_written_to(
    edge: Edge, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening the part and locking it, the download that had it may have ended."""
    lock = _part_file._lock

    def late(fd: int, path: str) -> None:
        monkeypatch.setattr(_part_file, "_lock", lock)
        part(target).write_bytes(b"of another")
        os.replace(path, target)
        lock(fd, path)

    monkeypatch.setattr(_part_file, "_lock", late)
    seen: set[bytes] = set()
    site = FileSite(CONTENT, [300_000])
    await fetch(edge, site, target, lambda *_: seen.add(target.read_bytes()))
    assert seen == {b"of another"}
    assert target.read_bytes() == CONTENT


async def test_a_file_system_without_locks_will_do(edge: Edge, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(_fd: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(_part_file.fcntl, "flock", no_locks)
    await fetch(edge, FileSite(CONTENT), target)
    assert target.read_bytes() == CONTENT


async def test_the_progress_is_told_after_each_chunk_and_at_the_end(edge: Edge, target: Path) -> None:
    calls: list[tuple[int, int | None]] = []
    site = FileSite(CONTENT)
    site.piece = 50_000
    await fetch(edge, site, target, lambda *call: calls.append(call))
    assert calls == [(300_000, 700_001), (600_000, 700_001), (700_001, 700_001)]


async def test_an_error_of_the_progress_function_comes_out_at_once_and_the_part_stays(edge: Edge, target: Path) -> None:
    site = FileSite(CONTENT)
    error = edge.lib.ReadError("mine")

    def progress(_done: int, _total: int | None) -> None:
        raise error

    with pytest.raises(edge.lib.ReadError) as caught:
        await fetch(edge, site, target, progress)
    assert caught.value is error
    assert len(site.asked) == 1
    assert part(target).stat().st_size > 0
    await fetch(edge, site, target)
    assert target.read_bytes() == CONTENT


async def test_bytes_of_a_slow_body_are_written_within_a_second_or_so(
    edge: Edge, target: Path, autojump_clock: MockClock
) -> None:
    calls: list[tuple[float, int]] = []

    class Slow(edge.lib.AsyncByteStream):  # type: ignore[misc,name-defined]
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for _ in range(20):
                await trio.sleep(0.25)
                yield b"x"

    transport = edge.lib.MockTransport(lambda _: edge.lib.Response(200, stream=Slow()))
    began = trio.current_time()
    async with edge.lib.AsyncClient(transport=transport) as client:
        await edge.face.download(client, URL, target, lambda done, _: calls.append((trio.current_time() - began, done)))
    assert calls[:5] == [(1.0, 4), (2.0, 8), (3.0, 12), (4.0, 16), (5.0, 20)]


# --- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("digest", 5, TypeError),
        ("digest", "abc", ValueError),
        ("digest", "sha256:abc", ValueError),
        ("digest", f"sha256:{'g' * 64}", ValueError),
        ("digest", f"crc7:{'0' * 64}", ValueError),
        ("digest", "shake_128:00", ValueError),
        ("progress", 5, TypeError),
        ("retry", 5, TypeError),
        ("headers", {"Range": "bytes=0-"}, ValueError),
        ("headers", {"if-range": "x"}, ValueError),
        ("headers", {"Accept-Encoding": "gzip"}, ValueError),
        ("path", 5, TypeError),
        ("path", "", ValueError),
        ("path", b"data", TypeError),
        ("client", 5, TypeError),
    ],
)
async def test_wrong_arguments_are_refused_by_name(
    edge: Edge, target: Path, argument: str, value: Any, error: type[Exception]
) -> None:
    site = FileSite(CONTENT)
    async with edge.lib.AsyncClient(transport=site.transport(edge.lib)) as client:
        with pytest.raises(error, match=rf"^{argument} must "):
            await edge.face.download(**{"client": client, "url": URL, "path": target, argument: value})
    assert (site.asked, files(target)) == ([], [])


async def test_a_client_of_the_other_library_is_refused(edge: Edge, target: Path) -> None:
    other = Edge("httpx2" if edge.name == "httpx" else "httpx")
    async with other.lib.AsyncClient() as client:
        with pytest.raises(TypeError, match=f"client must be an {edge.name}.AsyncClient"):
            await edge.face.download(client, URL, target)


async def test_an_async_progress_function_is_refused(edge: Edge, target: Path) -> None:
    async def progress(_done: int, _total: int | None) -> None: ...

    with pytest.raises(TypeError, match="progress must be a plain function"):
        await fetch(edge, FileSite(CONTENT), target, progress)


def test_download_says_where_it_lives(edge: Edge) -> None:
    assert edge.face.download.__qualname__ == "download"
    assert edge.face.download.__doc__ is not None
    assert _download_run.CHUNK_BYTES == 262_144
