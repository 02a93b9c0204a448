"""What a SharedTokenBucket asks of its server: the steps of the kernel's gcra, in Lua and as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from .._kernel import gcra
from .engine import Reply, Script, Store

# The state is "arrival seen". Numbers keep all of their digits; a key lives until the bucket is full again, and a second more.
_STATE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function load(key)
  local kept = redis.call('GET', key)
  if not kept then return nil end
  local space = string.find(kept, ' ', 1, true)
  return tonumber(string.sub(kept, 1, space - 1)), tonumber(string.sub(kept, space + 1))
end
local function arrival(key)
  local tat, seen = load(key)
  if not tat then return now end
  if now < seen then tat = tat - (seen - now) end
  return math.max(tat, now)
end
local function save(key, tat)
  local lives = math.max(0, math.ceil((tat - now) / 1000)) + 1000
  redis.call('SET', key, string.format('%.17g %.17g', tat, now), 'PX', string.format('%.0f', lives))
end
local function text(number) return string.format('%.17g', number) end
"""

_RESERVE: Final = (
    _STATE
    + """
local token_time, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local max_wait, extra = tonumber(ARGV[3]), tonumber(ARGV[4])
local base = arrival(KEYS[1])
local tail, admitted, refused, taken = base, 0, -1, 0
for i = 5, #ARGV do
  local stop = tail + ARGV[i] * token_time
  local wait = stop - burst - now
  if max_wait >= 0 and wait > max_wait then
    refused = wait
    break
  end
  tail = stop
  admitted = admitted + 1
end
if extra > 0 and refused < 0 then
  local there = extra
  if token_time > 0 then there = math.floor((burst - (tail - now)) / token_time) end
  taken = math.max(0, math.min(there, extra))
  tail = tail + taken * token_time
end
if tail > base then save(KEYS[1], tail) end
return {text(now), text(base), admitted, text(refused), text(taken)}
"""
)

_GIVE_BACK: Final = (
    _STATE
    + """
local tat, seen = load(KEYS[1])
if not tat or now < seen then return 0 end
local count = 0
for i = 1, #ARGV, 2 do
  if tat ~= tonumber(ARGV[i]) then break end
  tat = tonumber(ARGV[i + 1])
  count = count + 1
end
if count > 0 then save(KEYS[1], tat) end
return count
"""
)

_SETTLE: Final = (
    _STATE
    + """
save(KEYS[1], math.max(arrival(KEYS[1]) + ARGV[2] * ARGV[1], now))
return 1
"""
)

_PAUSE: Final = (
    _STATE
    + """
save(KEYS[1], math.max(arrival(KEYS[1]), now + ARGV[2] + ARGV[1]))
return 1
"""
)

# Several buckets at once: all are reserved for the instant at which the last of them is ready.
_RESERVE_ALL: Final = (
    _STATE
    + """
local longest = 0
for i, key in ipairs(KEYS) do
  local token_time, burst = tonumber(ARGV[4 * i - 3]), tonumber(ARGV[4 * i - 2])
  local max_wait, size = tonumber(ARGV[4 * i - 1]), tonumber(ARGV[4 * i])
  local wait = arrival(key) + size * token_time - burst - now
  if max_wait >= 0 and wait > max_wait then return {i, text(wait)} end
  longest = math.max(longest, wait)
end
local reply = {0, text(longest)}
for i, key in ipairs(KEYS) do
  local before = arrival(key)
  local tail = math.max(before, now + longest) + ARGV[4 * i] * ARGV[4 * i - 3]
  save(key, tail)
  reply[#reply + 1] = text(tail)
  reply[#reply + 1] = text(before)
end
return reply
"""
)


def _save(store: Store, key: str, state: gcra.State) -> None:
    store.save(key, state, ttl=max(0.0, (state[0] - store.now) / 1e6) + 1)


def _reserve(store: Store, keys: Sequence[str], args: Sequence[str]) -> Reply:
    token_time, burst, max_wait, extra, *sizes = map(float, args)
    found = gcra.reserve(
        store.load(keys[0]), store.now, sizes, token_time=token_time, burst=burst, max_wait=max_wait, extra=extra
    )
    if found.state is not None:
        _save(store, keys[0], found.state)
    return [repr(float(store.now)), repr(found.base), found.admitted, repr(found.refused), repr(found.extra)]


def _give_back(store: Store, keys: Sequence[str], args: Sequence[str]) -> Reply:
    numbers = [float(each) for each in args]
    slots = list(zip(numbers[::2], numbers[1::2], strict=True))
    state, count = gcra.give_back(store.load(keys[0]), store.now, slots)
    if state is not None:
        _save(store, keys[0], state)
    return count


def _settle(store: Store, keys: Sequence[str], args: Sequence[str]) -> Reply:
    token_time, tokens = map(float, args)
    _save(store, keys[0], gcra.settle(store.load(keys[0]), store.now, tokens, token_time=token_time))
    return 1


def _pause(store: Store, keys: Sequence[str], args: Sequence[str]) -> Reply:
    burst, duration = map(float, args)
    _save(store, keys[0], gcra.pause(store.load(keys[0]), store.now, duration, burst=burst))
    return 1


def _reserve_all(store: Store, keys: Sequence[str], args: Sequence[str]) -> Reply:
    numbers = [float(each) for each in args]
    demands = [numbers[start : start + 4] for start in range(0, len(numbers), 4)]
    arrivals = [gcra.arrival(store.load(key), store.now) for key in keys]
    longest = 0.0
    for index, (arrival, (token_time, burst, max_wait, size)) in enumerate(zip(arrivals, demands, strict=True), 1):
        wait = arrival + size * token_time - burst - store.now
        if wait > max_wait >= 0:
            return [index, repr(wait)]
        longest = max(longest, wait)
    changes: list[float] = []
    for key, arrival, (token_time, _, _, size) in zip(keys, arrivals, demands, strict=True):
        tail = max(arrival, store.now + longest) + size * token_time
        _save(store, key, (tail, store.now))
        changes += tail, arrival
    return [0, repr(longest), *map(repr, changes)]


RESERVE: Final = Script("reserve tokens", _RESERVE, _reserve)
GIVE_BACK: Final = Script("give tokens back", _GIVE_BACK, _give_back)
SETTLE: Final = Script("settle tokens", _SETTLE, _settle)
PAUSE: Final = Script("pause", _PAUSE, _pause)
RESERVE_ALL: Final = Script("reserve tokens of several buckets", _RESERVE_ALL, _reserve_all)


class Slot(NamedTuple):
    """Tokens that may be used from an instant on, and only then."""

    ready_at: float
    """On Trio's clock."""
    tokens: float
    """How many."""
    end: float
    """Where the reservation has taken the state to, in microseconds of the server's clock."""
    start: float
    """From where."""


class Slots(NamedTuple):
    """What a reply to RESERVE brought."""

    made: list[Slot]
    """One for each that was admitted."""
    refused: float
    """How long the next would have waited, in seconds; below 0 if all were admitted."""
    extra: float
    """Tokens taken beside, to be used at once."""


def slots_of(reply: Reply, sizes: Sequence[float], *, token_time: float, burst: float, received_at: float) -> Slots:
    """Return the slots that a reply to RESERVE tells of: the waits begin when it was received, so nobody is too early."""
    now, base, admitted, refused, extra = map(float, reply)
    end = base
    made = []
    for size in sizes[: int(admitted)]:
        start, end = end, end + size * token_time
        made.append(Slot(received_at + max(0.0, (end - burst - now) / 1e6), size, end, start))
    return Slots(made, refused / 1e6 if refused >= 0 else refused, extra)
