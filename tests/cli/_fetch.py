"""The real program `trioresil fetch`, run beside real servers on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import trio

from tests.http._file_site import FileSite
from tests.http._raw_server import Connection, RawServer

ROOT = Path(__file__).parent.parent.parent
PROGRAM = [sys.executable, "-W", "error", "-m", "trioresil", "fetch"]
PATIENCE = 60


@attrs.frozen
class Ended:
    """How the program ended."""

    code: int
    out: str
    err: str

    @property
    def files(self) -> list[dict[str, Any]]:
        """The lines of JSON about files, in the order of the URLs."""
        return sorted((each for each in self._lines if each["kind"] == "file"), key=lambda each: int(each["number"]))

    @property
    def summary(self) -> dict[str, Any]:
        return next(each for each in self._lines if each["kind"] == "summary")

    @property
    def _lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
        kept.pop(name, None)
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **more}


async def fetch(*arguments: str, cwd: Path, stdin: bytes = b"", **options: Any) -> Ended:
    """Run the program to its end."""
    with trio.fail_after(PATIENCE):
        run = await trio.run_process(
            [*PROGRAM, *arguments],
            stdin=stdin,
            capture_stdout="stdout" not in options,
            capture_stderr="stderr" not in options,
            check=False,
            cwd=cwd,
            env=environment(),
            **options,
        )
    ended = Ended(run.returncode, (run.stdout or b"").decode(), (run.stderr or b"").decode())
    assert "Traceback" not in ended.err
    return ended


async def start(*arguments: str, cwd: Path, **options: Any) -> trio.Process:
    """Start the program; its output goes into pipes."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return await trio.lowlevel.open_process([*PROGRAM, *arguments], cwd=cwd, env=environment(), **pipes)


async def read_all(stream: Any) -> str:
    return b"".join([piece async for piece in stream]).decode()


async def serve(nursery: trio.Nursery, site: FileSite, *, pause: float = 0.0, soon_quick: bool = False) -> RawServer:
    """Serve a site; `pause` seconds after each piece of a body, of the first answer only if it is `soon_quick`."""

    async def script(connection: Connection) -> None:
        send = connection.send
        if soon_quick and site.asked:
            await site.script(connection)
            return

        async def slowly(data: bytes) -> None:
            await send(data)
            await trio.sleep(pause)

        connection.send = slowly  # type: ignore[method-assign]
        await site.script(connection)

    return await RawServer(script if pause else site.script).start(nursery)
