"""Call a paid API that limits requests *and* tokens per minute, sends 429s, and streams its answers.

Both budgets are taken together or not at all. The size of an answer is known only afterwards: take an estimate first, settle
with `adjust` when the answer is there. A 429 means that the server counts otherwise than we do: it pauses the bucket that
everybody shares, so that all callers wait and then go on at its rate, instead of coming back at the same moment.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import AsyncGenerator

import httpx
import trio
from _server import Reply, Request, serve

import trioresil

# 1,200 requests and 60,000 tokens a minute; each bucket lets a small burst pass.
requests = trioresil.TokenBucket(rate=1_200 / 60, capacity=8, name="requests")
tokens = trioresil.TokenBucket(rate=60_000 / 60, capacity=2_000, name="tokens")


class TooManyRequests(Exception):
    """The API refused a call, and says for how many seconds."""


# Only the head of the answer is retried: once words have been shown, a second attempt would show them twice. The wait after
# a 429 is in the queue of the paused bucket, so the retry adds none of its own.
retry = trioresil.Retry(on=TooManyRequests, backoff=trioresil.constant(0), max_attempts=5, name="complete")


@retry
async def start_answer(client: httpx.AsyncClient, prompt: str, estimate: float) -> httpx.Response:
    await trioresil.acquire_all((requests, 1), (tokens, estimate))
    request = client.build_request("POST", "/complete", json={"prompt": prompt})
    response = await client.send(request, stream=True)
    if response.status_code == 429:
        await response.aclose()
        seconds = float(response.headers["Retry-After"])  # this service always says it, and in seconds
        tokens.adjust(-estimate)  # a refused call used none
        requests.pause(seconds)  # everybody waits, not only the caller that was refused
        raise TooManyRequests(seconds)
    return response


async def complete(client: httpx.AsyncClient, prompt: str) -> str:
    estimate = len(prompt) / 4 + 200
    response = await start_answer(client, prompt, estimate)
    words: list[str] = []
    used = 0
    try:
        async for line in response.aiter_lines():
            piece = json.loads(line)
            words.append(piece["word"])
            used = piece["used"]
    finally:
        await response.aclose()
        tokens.adjust(used - estimate)  # what it really was, also if we are cancelled in the middle
    return " ".join(words)


class Api:
    """The other side: it accepts four calls, refuses the next ones for a second, and then accepts again."""

    def __init__(self) -> None:
        self.accepted = self.refused = 0
        self.closed_until = -1.0

    async def handle(self, request: Request) -> Reply:
        now = trio.current_time()
        if self.accepted == 4 and self.closed_until < 0:
            self.closed_until = now + 1
        if now < self.closed_until:
            self.refused += 1
            return Reply(429, headers={"Retry-After": "1"})
        self.accepted += 1
        return Reply(200, self.stream())

    async def stream(self) -> AsyncGenerator[bytes]:
        for number, word in enumerate(["every", "word", "costs"], start=1):
            await trio.sleep(0.02)
            yield json.dumps({"word": word, "used": 40 * number}).encode() + b"\n"


async def main() -> None:
    logging.basicConfig(stream=sys.stdout, format="  %(message)s")
    api = Api()
    answers: list[str] = []

    async def ask(client: httpx.AsyncClient, question: int) -> None:
        answers.append(await complete(client, f"Question {question}?"))

    began_at = trio.current_time()
    async with serve(api.handle) as url, httpx.AsyncClient(base_url=url) as client:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for question in range(24):
                    nursery.start_soon(ask, client, question)

    print(f"{len(answers)} answers in {trio.current_time() - began_at:.1f} s, such as {answers[0]!r}")
    print(f"the API refused {api.refused} calls; all of them were made again")
    print(requests, tokens, sep="\n")


if __name__ == "__main__":
    trio.run(main)
