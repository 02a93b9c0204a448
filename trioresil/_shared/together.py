"""Tokens of several shared buckets at once: one step on the server, all or nothing.

All buckets are charged for the same instant, at which the last of them is ready. A bucket that was ready before is charged for
that instant too, not for now: else its tokens would be used later than they were dated, on top of those of others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import trio
from trio.lowlevel import cancel_shielded_checkpoint

from .. import _instruments
from .._checks import text
from .._errors import RateLimitedError, SharedStateError, SharedStateUnavailableError
from .._links import check_cancelled, mark_unstarted
from .._policies.token_bucket import acquire_all
from .engine import EngineDownError, Reply, ScriptEngine, ScriptRefusedError
from .token_bucket_scripts import GIVE_BACK, RESERVE_ALL, back
from .unavailable import FailClosed, FailLocal

Demands: TypeAlias = Sequence[tuple[Any, float]]  # of SharedTokenBuckets, which this module is used by


async def acquire_together(demands: Demands) -> None:
    """Take tokens from several buckets of one engine; see `trioresil.acquire_all`."""
    engine = _one_engine(demands)
    await check_cancelled()
    if _instruments.installed:
        for bucket, _ in demands:
            _instruments.announce(bucket)
    try:
        await _reserve_and_wait(engine, demands)
    except BaseException as exc:
        mark_unstarted(exc)
        raise
    for bucket, _ in demands:
        bucket._granted += 1


def _one_engine(demands: Demands) -> ScriptEngine:
    engines = {id(bucket._engine): bucket._engine for bucket, _ in demands}
    if len(engines) > 1:
        names = ", ".join(repr(each.name) for each in engines.values())
        raise ValueError(f"acquire_all takes buckets of one engine, not of {names}: nothing is atomic over several")
    keys = [bucket._key for bucket, _ in demands]
    if len(set(keys)) < len(keys):
        raise ValueError("acquire_all was given the same bucket twice: add its tokens up")
    engine: ScriptEngine = demands[0][0]._engine
    return engine


async def _reserve_and_wait(engine: ScriptEngine, demands: Demands) -> None:
    keys = [bucket._key for bucket, _ in demands]
    args = [number for bucket, tokens in demands for number in _numbers(bucket, tokens)]
    within = min(bucket._timeout for bucket, _ in demands)

    def take_late(reply: Reply) -> None:
        _give_back(engine, demands, reply)

    try:
        reply = await engine.eval(RESERVE_ALL, keys, args, within=within, late=take_late)
    except ScriptRefusedError as exc:
        raise SharedStateError(demands[0][0].name, ", ".join(keys), str(exc)) from None
    except EngineDownError as exc:
        await _without_server(demands, exc)
        return
    refusing = int(reply[0])
    wait = float(reply[1]) / 1e6
    if refusing:
        await _refuse(demands[refusing - 1][0], wait)
    try:
        await trio.sleep(wait)
    except BaseException:
        _give_back(engine, demands, reply)
        raise


def _numbers(bucket: Any, tokens: float) -> tuple[float, float, float, float]:
    max_wait = -1.0 if bucket._max_wait == math.inf else bucket._max_wait * 1e6
    return bucket._token_time, bucket._burst, max_wait, tokens


async def _refuse(bucket: Any, wait: float) -> None:
    bucket._rejected += 1
    error = RateLimitedError(bucket.name, wait)
    error.max_wait = bucket._max_wait
    try:
        await _instruments.reject(bucket, error)
    finally:
        del error  # its traceback holds this frame


def _give_back(engine: ScriptEngine, demands: Demands, reply: Reply) -> None:
    """Give back, in the background, what was reserved and won't be used, where nobody has reserved after it."""
    if int(reply[0]):
        return
    now, *changes = map(float, reply[2:])
    for (bucket, _), tail, seen, lead in zip(demands, changes[::3], changes[1::3], changes[2::3], strict=True):
        with suppress(RuntimeError):  # the engine is closed, and what is reserved there runs out
            engine.start_soon(bucket._tell, GIVE_BACK, back((now, tail), (seen, lead)))


async def _without_server(demands: Demands, error: EngineDownError) -> None:
    """Do what every one of the buckets says: who refuses wins, and who decides locally decides together."""
    for bucket, _ in demands:
        bucket._unavailable += 1
    for bucket, _ in demands:
        if isinstance(bucket._on_unavailable, FailClosed):
            bucket._rejected += 1
            refusal = SharedStateUnavailableError(bucket.name, bucket._key, str(error))
            try:
                await _instruments.reject(bucket, refusal)
            finally:
                del refusal
    local = [bucket.local_demand(tokens) for bucket, tokens in demands if isinstance(bucket._on_unavailable, FailLocal)]
    if not local:
        await cancel_shielded_checkpoint()
        return
    await acquire_all(*((bucket, at_once) for bucket, at_once, _ in local))
    for bucket, _, later in local:
        if later:
            bucket.adjust(later)


def key_of(name: str, group: str | None) -> str:
    """Return the key of a bucket. What stands in its braces says where in a cluster it lies."""
    return f"trioresil:{{{name}}}:bucket" if group is None else f"trioresil:{{{group}}}:bucket:{name}"


def check_part(argument: str, value: object) -> str:
    """Return what can become a part of a key, between the braces that say where in a cluster it lies."""
    checked = text(argument, value)
    if "{" in checked or "}" in checked:
        raise ValueError(f"{argument} must be text without braces, as it becomes part of a key, not {value!r}")
    return checked
