"""What a SharedTokenBucket asks of its server: the steps of the kernel's gcra, in Lua and as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from .._kernel import gcra
from .engine import Reply, Script, Store

# The state is "seen lead". Numbers keep all of their digits; a key lives until the bucket is full again, and a second more.
_STATE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function load(key)
  local kept = redis.call('GET', key)
  if not kept then return nil end
  local space = string.find(kept, ' ', 1, true)
  return tonumber(string.sub(kept, 1, space - 1)), tonumber(string.sub(kept, space + 1))
end
local function left(seen, lead)
  if not seen then return 0 end
  return math.max(0, lead - math.max(0, now - seen))
end
local function lead_at(key) return left(load(key)) end
local function save(key, seen, lead)
  local lives = math.ceil(left(seen, lead) / 1000) + 1000
  redis.call('SET', key, string.format('%.17g %.17g', seen, lead), 'PX', string.format('%.0f', lives))
end
local function text(number) return string.format('%.17g', number) end
"""

_RESERVE: Final = (
    _STATE
    + """
local token_time, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local max_wait, extra = tonumber(ARGV[3]), tonumber(ARGV[4])
local seen, lead = load(KEYS[1])
local base = left(seen, lead)
local tail, admitted, refused, taken = base, 0, -1, 0
for i = 5, #ARGV do
  local stop = tail + ARGV[i] * token_time
  local wait = stop - burst
  if max_wait >= 0 and wait > max_wait then
    refused = wait
    break
  end
  tail = stop
  admitted = admitted + 1
end
if extra > 0 and refused < 0 then
  local there = extra
  if token_time > 0 then there = math.floor((burst - tail) / token_time) end
  taken = math.max(0, math.min(there, extra))
  tail = tail + taken * token_time
end
if tail > base then save(KEYS[1], now, tail) end
return {text(now), text(base), text(seen or now), text(lead or 0), admitted, text(refused), text(taken)}
"""
)

_GIVE_BACK: Final = (
    _STATE
    + """
local seen, lead = load(KEYS[1])
local count = 0
for i = 1, #ARGV, 4 do
  if seen ~= tonumber(ARGV[i]) or lead ~= tonumber(ARGV[i + 1]) then break end
  seen, lead = tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  count = count + 1
end
if count > 0 then save(KEYS[1], seen, lead) end
return count
"""
)

_SETTLE: Final = (
    _STATE
    + """
save(KEYS[1], now, math.max(lead_at(KEYS[1]) + ARGV[2] * ARGV[1], 0))
return 1
"""
)

_PAUSE: Final = (
    _STATE
    + """
save(KEYS[1], now, math.max(lead_at(KEYS[1]), ARGV[2] + ARGV[1]))
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
  local wait = lead_at(key) + size * token_time - burst
  if max_wait >= 0 and wait > max_wait then return {i, text(wait)} end
  longest = math.max(longest, wait)
end
local reply = {0, text(longest), text(now)}
for i, key in ipairs(KEYS) do
  local seen, lead = load(key)
  local tail = math.max(left(seen, lead), longest) + ARGV[4 * i] * ARGV[4 * i - 3]
  save(key, now, tail)
  reply[#reply + 1] = text(tail)
  reply[#reply + 1] = text(seen or now)
  reply[#reply + 1] = text(lead or 0)
end
return reply
"""
)


def _save(store: Store, key: str, state: gcra.State) -> None:
    store.save(key, state, ttl=gcra.lead_at(state, store.now) / 1e6 + 1)


def _reserve(store: Store, keys: Sequence[str], args: Sequence[str]) -> Reply:
    token_time, burst, max_wait, extra, *sizes = map(float, args)
    before = store.load(keys[0])
    found = gcra.reserve(
        before, float(store.now), sizes, token_time=token_time, burst=burst, max_wait=max_wait, extra=extra
    )
    if found.state is not None:
        _save(store, keys[0], found.state)
    numbers = float(store.now), found.base, *_found(before, store)
    return [*map(repr, numbers), found.admitted, repr(found.refused), repr(found.extra)]


def _found(before: gcra.State | None, store: Store) -> gcra.State:
    return (float(store.now), 0.0) if before is None else before


def _give_back(store: Store, keys: Sequence[str], args: Sequence[str]) -> Reply:
    pairs = list(zip(map(float, args[::2]), map(float, args[1::2]), strict=True))
    state, count = gcra.give_back(store.load(keys[0]), list(zip(pairs[::2], pairs[1::2], strict=True)))
    if state is not None:
        _save(store, keys[0], state)
    return count


def _settle(store: Store, keys: Sequence[str], args: Sequence[str]) -> Reply:
    token_time, tokens = map(float, args)
    _save(store, keys[0], gcra.settle(store.load(keys[0]), float(store.now), tokens, token_time=token_time))
    return 1


def _pause(store: Store, keys: Sequence[str], args: Sequence[str]) -> Reply:
    burst, duration = map(float, args)
    _save(store, keys[0], gcra.pause(store.load(keys[0]), float(store.now), duration, burst=burst))
    return 1


def _reserve_all(store: Store, keys: Sequence[str], args: Sequence[str]) -> Reply:
    numbers = [float(each) for each in args]
    demands = [numbers[start : start + 4] for start in range(0, len(numbers), 4)]
    states = [store.load(key) for key in keys]
    longest = 0.0
    for index, (state, (token_time, burst, max_wait, size)) in enumerate(zip(states, demands, strict=True), 1):
        wait = gcra.lead_at(state, store.now) + size * token_time - burst
        if wait > max_wait >= 0:
            return [index, repr(wait)]
        longest = max(longest, wait)
    changes: list[float] = []
    for key, state, (token_time, _, _, size) in zip(keys, states, demands, strict=True):
        tail = max(gcra.lead_at(state, store.now), longest) + size * token_time
        _save(store, key, (float(store.now), tail))
        changes += tail, *_found(state, store)
    return [0, repr(longest), repr(float(store.now)), *map(repr, changes)]


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
    end: gcra.State
    """Which state the reservation has left on the server."""
    start: gcra.State
    """Which one it had found."""


class Slots(NamedTuple):
    """What a reply to RESERVE brought."""

    made: list[Slot]
    """One for each that was admitted."""
    refused: float
    """How long the next would have waited, in seconds; below 0 if all were admitted."""
    extra: float
    """Tokens taken beside, to be used at once."""


def back(end: gcra.State, start: gcra.State) -> list[float]:
    """Return the arguments that give a slot back."""
    return [*end, *start]


def slots_of(reply: Reply, sizes: Sequence[float], *, token_time: float, burst: float, received_at: float) -> Slots:
    """Return the slots that a reply to RESERVE tells of: the waits begin when it was received, so nobody is too early."""
    now, tail, seen, lead, admitted, refused, extra = map(float, reply)
    end = seen, lead
    made = []
    for size in sizes[: int(admitted)]:
        tail += size * token_time
        start, end = end, (now, tail)
        made.append(Slot(received_at + max(0.0, (tail - burst) / 1e6), size, end, start))
    return Slots(made, refused / 1e6 if refused >= 0 else refused, extra)
