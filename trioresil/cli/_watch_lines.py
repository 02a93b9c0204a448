"""`trioresil watch` without a terminal: a line for each check, for people or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime

import trio

from ._output import Output
from ._watch import Result, Watched, Watching, facts
from ._watch_view import days, latency

Line = Callable[[Watched, Result], str]
End = Callable[[Watching], str]


class Lines:
    """A display of lines.

    Args:
      output: where they go.
      line: makes the line of a check.
      end: makes the line of the end.
      lost: makes the line that tells how many were lost, because the reader was too slow.
    """

    def __init__(self, output: Output, line: Line, end: End, lost: Callable[[int], str]) -> None:
        self._output = output
        self._line = line
        self._end = end
        self._lost = lost

    async def run(self, watching: Watching, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        if watching.page_url is not None:
            print(f"the live page: {watching.page_url}", file=sys.stderr, flush=True)
        task_status.started()
        await self._output.run()

    def checked(self, watched: Watched, result: Result) -> None:
        self._output.put(self._line(watched, result))
        lost = self._output.take_lost()
        if lost:
            self._output.put(self._lost(lost))

    async def close(self, watching: Watching) -> None:
        self._output.put(self._end(watching))
        await self._output.flush()


def json_lines(output: Output) -> Lines:
    """Return a display of JSON documents, one a line."""
    return Lines(
        output, lambda *about: _json(facts(*about)), _json_end, lambda lost: _json({"type": "lost", "lines": lost})
    )


def plain_lines(output: Output, watching: Watching) -> Lines:
    """Return a display of lines for people."""
    width = min(60, max(len(each.target.name) for each in watching.watched))

    def line(watched: Watched, result: Result) -> str:
        return _plain(watched, result, width)

    return Lines(output, line, _plain_end, lambda lost: f"({lost} lines are missing: they were not read soon enough)")


def _json(document: dict[str, object]) -> str:
    return json.dumps(document, ensure_ascii=False, allow_nan=False)


def _json_end(watching: Watching) -> str:
    states = {each.target.name: each.state.value for each in watching.watched}
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return _json({"type": "end", "at": at, "reason": watching.over, "healthy": watching.healthy, "states": states})


def _plain(watched: Watched, result: Result, width: int) -> str:
    status = watched.status
    assert status is not None
    at = result.at.astimezone().strftime("%H:%M:%S")
    how = latency(result.seconds) if result.passed else "failed"
    parts = [f"{at}  {watched.state.name:<9}  {watched.target.name:<{width}}  {how:>8}"]
    if status.latency_p50 is not None:
        parts.append(f"p50 {latency(status.latency_p50)}, p99 {latency(status.latency_p99)}")
    if watched.days_left is not None:
        parts.append(f"certificate {days(watched.days_left)}")
    if result.previous is not watched.state:
        parts.append(f"was {result.previous.name}")
    if watched.error is not None:
        parts.append(watched.error)
    return "  ".join(parts)


def _plain_end(watching: Watching) -> str:
    good = sum(each.state.is_healthy for each in watching.watched)
    rest = [f"{each.target.name} is {each.state.name}" for each in watching.watched if not each.state.is_healthy]
    if any(each.state.name == "UNKNOWN" and each.checks for each in watching.watched):
        rest.append("UNKNOWN: it was checked less often than --rise or --fall asks for")
    return "; ".join([f"{good} of {len(watching.watched)} healthy", *rest])
