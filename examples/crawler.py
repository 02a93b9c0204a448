"""Crawl three sites with eight workers: at each two requests at once and a hundred a second at most, with a bar."""

from __future__ import annotations

import logging
import math
import re
import sys
from collections import Counter
from contextlib import AsyncExitStack

import httpx
import trio
from _server import Reply, Request, Reset, serve

import trioresil

PAGES = 40  # of each site


def site_of(url: str) -> str:
    """Return the key of an item: its host and port."""
    return httpx.URL(url).netloc.decode()


per_site = trioresil.Keyed(
    lambda site: trioresil.Pipeline(
        trioresil.Bulkhead(2, name=site),
        trioresil.TokenBucket(rate=100, capacity=5, name=site),
    ),
    key=site_of,
)
politely = trioresil.Pipeline(
    trioresil.Retry(
        on=(httpx.TransportError, trioresil.TimedOutError),
        max_attempts=4,
        backoff=trioresil.exponential(initial=0.01, max=0.1),
    ),
    per_site,  # inside of the retry: each attempt waits for its turn
    trioresil.Timeout(5),
)


def show(progress: trioresil.Progress) -> None:
    """Draw the bar: on a terminal over the old one, else line by line. Pages turn up on the way, so it may go back."""
    known = progress.total or 1
    filled = 30 * progress.done // known
    bar = f"[{'#' * filled:30}] {progress.done}/{known} pages, {progress.rate:.0f} a second"
    print(f"\r{bar}", end="" if sys.stdout.isatty() else "\n", flush=True)


async def crawl(start: str) -> list[trioresil.Outcome[str, int]]:
    """Visit a page and all that it leads to, each once."""
    seen = {start}

    async def visit(url: str) -> int:
        page = (await client.get(url)).raise_for_status().text
        for link in re.findall(r'href="([^"]+)"', page):
            if link not in seen:
                seen.add(link)
                await workers.send(link)
        return len(page)

    async with (
        httpx.AsyncClient() as client,
        # The workers send items themselves: without bounds for the buffer they could all wait for one another.
        trioresil.open_workers(
            visit, workers=8, buffer=math.inf, results=math.inf, policy=politely, progress=show, name="crawler"
        ) as workers,
    ):
        await workers.send(start)
        await workers.wait_drained()  # nobody is at work, so nobody finds another page
        workers.close_admission()
        return [outcome async for outcome in workers.results]


async def main() -> None:
    logging.getLogger("trioresil").setLevel(logging.ERROR)  # a retry is seen in the outcome; here is a bar
    sites: list[str] = []
    visits: Counter[str] = Counter()
    inside: Counter[str] = Counter()
    most: Counter[str] = Counter()

    async def answer(request: Request) -> Reply:
        site, number = request.headers["host"], int(request.target.strip("/"))
        visits[f"{site}/{number}"] += 1
        inside[site] += 1
        most[site] = max(most[site], inside[site])
        try:
            await trio.sleep(0.002)
            if number % 10 == 7 and visits[f"{site}/{number}"] == 1:
                raise Reset
            if number == PAGES - 1:
                return Reply(404)
            links = [
                f"{each}/{further}" for each in sites for further in (2 * number + 1, 2 * number + 2) if further < PAGES
            ]
            return Reply(200, "".join(f'<a href="{link}">' for link in links).encode())
        finally:
            inside[site] -= 1

    async with AsyncExitStack() as stack:
        sites += [await stack.enter_async_context(serve(answer)) for _ in range(3)]
        outcomes = await crawl(f"{sites[0]}/0")

    pages = [outcome for outcome in outcomes if outcome.error is None]
    print(f"\n{len(pages)} pages, {sum(outcome.attempts > 1 for outcome in pages)} of them after a retry")
    for outcome in outcomes:
        if outcome.error is not None:
            print(f"not found after {outcome.attempts} attempt: /{outcome.item.rpartition('/')[2]}")
    print(f"at most {max(most.values())} requests at a site at once")
    assert len(outcomes) == 1 + 3 * (PAGES - 1)
    assert max(most.values()) <= 2


if __name__ == "__main__":
    trio.run(main)
