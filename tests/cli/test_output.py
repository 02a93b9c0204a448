"""Lines to a descriptor: in order, all of them, and never at the cost of the program's clock."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress

import pytest
import trio

from trioresil.cli import _output
from trioresil.cli._output import Output, OutputError

F_SETPIPE_SZ = 1031


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, F_SETPIPE_SZ, 4096)
    yield reader, writer
    for descriptor in (reader, writer):
        with suppress(OSError):
            os.close(descriptor)


async def test_every_line_is_written_in_order(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    output = Output(writer)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(output.run)
        output.put("one")
        await trio.sleep(0.01)
        output.put("zwei, drëi")
        output.put("odd \udc80")
        nursery.cancel_scope.cancel()
    await output.flush()
    assert output.idle
    assert os.read(reader, 4096) == "one\nzwei, drëi\nodd \\udc80\n".encode()


async def test_a_line_longer_than_a_pipe_arrives_whole(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    output = Output(writer)
    output.put("x" * 20_000)
    read = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(output.flush)
        while not read.endswith(b"\n"):
            read += await trio.to_thread.run_sync(os.read, reader, 4096)
    assert read == b"x" * 20_000 + b"\n"


async def test_a_reader_that_pauses_does_not_stop_the_clock(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = pipe
    monkeypatch.setattr(_output, "MAX_WAITING", 10)
    monkeypatch.setattr(_output, "FLUSH_SECONDS", 0.05)
    output = Output(writer)
    with trio.move_on_after(0.2) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(output.run)
            for number in range(100):
                output.put("y" * 1000)
                while number == 5 and output._waiting.qsize() > 1:  # noqa: ASYNC110 - until a thread has filled the pipe
                    await trio.sleep(0.001)
                await trio.lowlevel.checkpoint()
            assert not output.idle
            await trio.sleep_forever()
    assert scope.cancelled_caught  # it was still possible to stop it
    await output.flush()  # and that ends, too
    assert output.take_lost() == 0  # there is no room to tell it
    os.set_blocking(reader, False)
    lost = 0
    with trio.fail_after(10):
        while not lost:
            with suppress(BlockingIOError):
                os.read(reader, 4096)
            await trio.sleep(0.001)
            lost = output.take_lost()
    assert 80 <= lost <= 90
    assert output.take_lost() == 0


async def test_a_pipe_that_does_not_block_is_waited_for(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.set_blocking(writer, False)
    output = Output(writer)
    output.put("x" * 20_000)
    read = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(output.flush)
        while not read.endswith(b"\n"):
            read += await trio.to_thread.run_sync(os.read, reader, 4096)
    assert read == b"x" * 20_000 + b"\n"


async def test_a_reader_that_has_left_is_told_apart_from_a_full_disk(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.close(reader)
    output = Output(writer)
    output.put("one")
    with pytest.raises(OutputError) as gone:
        await output.run()
    assert gone.value.reader_left
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        output = Output(full)
        output.put("one")
        with pytest.raises(OutputError, match="standard output can't be written: No space left on device") as refused:
            await output.flush()
    finally:
        os.close(full)
    assert not refused.value.reader_left
