"""Make somebody else's SDK resilient: hand it an httpx client from trioresil, and switch its own retries off.

The SDK below is made like many of paid APIs: it takes an `httpx.AsyncClient`, retries by itself, sends a time-out of 600 s with
each request, and turns httpx's errors into its own. Nothing in it knows of trioresil.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import AsyncGenerator, AsyncIterator

import httpx
import trio
from _server import Reply, Request, Reset, serve

import trioresil
from trioresil.httpx import RequestOptions, open_client

# --- the SDK, as others wrote it ---------------------------------------------------------------------------------------


class SDKError(Exception):
    """What the SDK's users catch."""


class SDK:
    def __init__(self, *, http_client: httpx.AsyncClient, max_retries: int = 2, timeout: float = 600) -> None:
        self._client = http_client
        self._max_retries = max_retries
        self._timeout = timeout

    async def complete(self, prompt: str) -> str:
        """Return the answer as a whole."""
        for retries_left in reversed(range(self._max_retries + 1)):
            try:
                response = await self._client.post("/complete", json={"prompt": prompt}, timeout=self._timeout)
                return str(response.raise_for_status().json()["text"])
            except httpx.TimeoutException as error:
                if not retries_left:
                    raise SDKError("timed out") from error
            except httpx.HTTPError as error:
                if not retries_left:
                    raise SDKError("connection error") from error
            await trio.sleep(0.1)
        raise AssertionError

    async def stream(self, prompt: str) -> AsyncIterator[str]:
        """Yield the answer word by word."""
        content = {"prompt": prompt, "stream": True}
        async with self._client.stream("POST", "/complete", json=content, timeout=self._timeout) as response:
            async for line in response.aiter_lines():
                yield line


# --- your program ------------------------------------------------------------------------------------------------------


async def may_be_repeated(request: httpx.Request) -> None:
    """Tell trioresil that an answer may be computed twice: that costs money, and does no harm."""
    request.extensions = {**request.extensions, "trioresil": RequestOptions(idempotent=True)}


class Api:
    """The other side."""

    def __init__(self) -> None:
        self.script: list[str] = []
        self.requests = 0

    async def handle(self, request: Request) -> Reply:
        self.requests += 1
        step = self.script.pop(0) if self.script else "answer"
        if step == "reset":
            raise Reset
        if step == "busy":  # real ones say it in whole seconds
            return Reply(429, headers={"Retry-After": "0.2"})
        if step == "hang":
            await trio.sleep_forever()
        if json.loads(request.body).get("stream"):
            return Reply(200, self.words())
        return Reply(200, b'{"text": "fine, thank you"}')

    async def words(self) -> AsyncGenerator[bytes]:
        for word in (b"still", b"fine,", b"thank", b"you"):
            await trio.sleep(0.1)
            yield word + b"\n"


async def main() -> None:
    logging.basicConfig(stream=sys.stdout, format="  %(message)s")
    api = Api()
    breakers: trioresil.Keyed[str, trioresil.CircuitBreaker] = trioresil.Keyed(
        lambda origin: trioresil.CircuitBreaker(name=origin)
    )
    async with serve(api.handle) as url:
        opened = open_client(
            base_url=url,
            total_timeout=1.5,  # take 600 and 300 for answers that need minutes; these are for a demonstration
            attempt_timeout=0.25,
            breaker=breakers,
            event_hooks={"request": [may_be_repeated]},
        )
        async with opened as http_client:
            # Its own retries off, its own time-out down to the longest silence that is normal.
            sdk = SDK(http_client=http_client, max_retries=0, timeout=0.5)

            api.script = ["reset", "busy"]
            print("a reset, then a 429:")
            print("the SDK's user gets:", repr(await sdk.complete("How are you?")), "after", api.requests, "requests")

            api.script = ["hang"]
            print("\nthe server hangs, and the SDK alone would wait for minutes:")
            print("the SDK's user gets:", repr(await sdk.complete("How are you?")))

            print("\na stream that takes longer than an attempt may isn't cut:")
            print("the SDK's user gets:", [word async for word in sdk.stream("And now?")])

            print("\nthe circuit is open:")
            breakers[url].isolate()
            try:
                await sdk.complete("How are you?")
            except SDKError as error:  # its `except httpx.HTTPError` has caught trioresil's error
                print("the SDK's user gets:", repr(error), "because of", repr(error.__cause__))


if __name__ == "__main__":
    trio.run(main)
