"""The types of a stream: its items are those that its session sends."""

from __future__ import annotations

from typing import assert_type

import trioresil


async def session(link: trioresil.StreamLink[int]) -> None:
    assert_type(link.number, int)
    assert_type(await link.send_item(5, resume="token"), None)


async def main() -> None:
    async with trioresil.open_stream(session, on=OSError, backoff=[1, 2], when_full="drop_oldest") as stream:
        assert_type(stream, trioresil.Stream[int])
        async for item in stream:
            assert_type(item, int)
        assert_type(await anext(stream), int)
        assert_type(await stream.send("message"), None)
        assert_type(stream.statistics(), trioresil.StreamStatistics)
