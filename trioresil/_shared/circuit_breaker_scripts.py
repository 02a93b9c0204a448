"""What a shared breaker asks of the server: the law of `_kernel.fleet`, in Lua and as its twin.

There is one script, because all of its steps begin and end alike: it takes the configuration, the name of a step, and what that
needs; and answers with the circuit as it is then. If the circuit has changed, all processes are told the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from .._kernel.fleet import Fleet, FleetRules, SharedRule
from .engine import Argument, Reply, Script, Store

_LUA: Final = """
local key, channel = KEYS[1], ARGV[1]
local at = 2
local function take()
  at = at + 1
  return ARGV[at - 1]
end
local function whole(number) return string.format('%.0f', number) end
local lives, max_probes, needed, probe_lease = take(), tonumber(take()), tonumber(take()), tonumber(take())
local open_times, rules = {}, {}
for i = 1, tonumber(take()) do open_times[i] = tonumber(take()) end
for i = 1, tonumber(take()) do
  rules[i] = {kind = take(), limit = tonumber(take()), size = tonumber(take()), least = tonumber(take())}
  rules[i].width = math.max(1, math.floor(rules[i].size / 10))
end

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local fields = redis.call('HGETALL', key)
local kept = {}
for i = 1, #fields, 2 do kept[fields[i]] = fields[i + 1] end
local state, by_hand = kept.state or 'closed', kept.by_hand == '1'
local seen, epoch = tonumber(kept.seen) or now, tonumber(kept.epoch) or now
local open_until, open_for = tonumber(kept.open_until) or 0, tonumber(kept.open_for) or 0
local level, successes = tonumber(kept.level) or 0, tonumber(kept.successes) or 0
local closed_at, version = tonumber(kept.closed_at) or now, tonumber(kept.version) or 0
local changed = false

local function empty(rule)
  if rule.kind == 'row' then return 0 elseif rule.kind == 'of' then return '' else return {} end
end
local counters, probes = {}, {}
for i, rule in ipairs(rules) do
  local text = kept['counter' .. i]
  if not text or kept['rule' .. i] ~= rule.kind then
    counters[i] = empty(rule)
  elseif rule.kind == 'row' then
    counters[i] = tonumber(text)
  elseif rule.kind == 'of' then
    counters[i] = text
  else
    counters[i] = {}
    for slot, calls, bad in string.gmatch(text, '(%d+):(%d+):(%d+)') do
      counters[i][tonumber(slot)] = {tonumber(calls), tonumber(bad)}
    end
  end
end
for expiry, id in string.gmatch(kept.probes or '', '(%d+)=(%S+)') do probes[id] = tonumber(expiry) end

if now < seen then
  local back = seen - now
  open_until, closed_at = open_until - back, closed_at - back
  for id, expiry in pairs(probes) do probes[id] = expiry - back end
  for i, rule in ipairs(rules) do
    if rule.kind == 'ratio' then
      local slots, moved = math.floor(seen / rule.width) - math.floor(now / rule.width), {}
      for slot, each in pairs(counters[i]) do moved[slot - slots] = each end
      counters[i] = moved
    end
  end
end
for id, expiry in pairs(probes) do
  if expiry <= now then
    probes[id] = nil
    version = version + 1
  end
end

local function probes_out()
  local count, first = 0, nil
  for _, expiry in pairs(probes) do
    count = count + 1
    if not first or expiry < first then first = expiry end
  end
  return count, first
end
local function go(to, hand)
  state, by_hand, changed = to, hand or false, true
  epoch, version = math.max(epoch + 1, now), version + 1
  for i, rule in ipairs(rules) do counters[i] = empty(rule) end
  probes, successes = {}, 0
end
local function open()
  level = math.min(level, #open_times - 1)
  open_for = open_times[level + 1]
  open_until = now + open_for
  go('open')
end
local function trips(i, bad, n)
  local rule = rules[i]
  if rule.kind == 'row' then
    counters[i] = bad and counters[i] + n or 0
    return counters[i] >= rule.limit
  end
  if rule.kind == 'of' then
    counters[i] = string.sub(counters[i] .. string.rep(bad and '1' or '0', math.min(n, rule.size)), -rule.size)
    local _, ones = string.gsub(counters[i], '1', '')
    return ones >= rule.limit
  end
  local slot, calls, failed, young = math.floor(now / rule.width), 0, 0, {}
  for each, counts in pairs(counters[i]) do
    if each > slot - 10 then
      young[each] = counts
      calls, failed = calls + counts[1], failed + counts[2]
    end
  end
  local mine = young[slot] or {0, 0}
  young[slot] = {mine[1] + n, mine[2] + (bad and n or 0)}
  counters[i] = young
  local asked_after = bad and n or math.max(1, rule.least - calls)
  if asked_after > n or calls + asked_after < rule.least then return false end
  return (failed + (bad and n or 0)) / (calls + asked_after) >= rule.limit
end

local step, admitted = take(), 0
if step == 'report' then
  if tonumber(take()) == epoch and state == 'closed' then
    while ARGV[at] and state == 'closed' do
      local bits, n, tripped = tonumber(take()), tonumber(take()), false
      for i = 1, #rules do
        if trips(i, bit.band(bit.rshift(bits, i - 1), 1) == 1, n) then tripped = true end
      end
      if tripped then
        local healthy = open_for > 0 and math.floor((now - closed_at) / open_for) or level
        level = math.max(0, level - healthy)
        open()
      end
    end
  end
elseif step == 'admit' then
  local id = take()
  if state == 'open' and now >= open_until then go('half-open') end
  if state == 'half-open' and probes_out() < max_probes then
    probes[id] = now + probe_lease
    admitted, version = 1, version + 1
  end
elseif step == 'judge' then
  local id, verdict = take(), take()
  if probes[id] then
    probes[id] = nil
    if verdict == 'failed' then
      level = level + 1
      open()
    else
      changed, version = true, version + 1
      if verdict == 'passed' then
        successes = successes + 1
        if successes >= needed then
          closed_at = now
          go('closed')
        end
      end
    end
  end
elseif step == 'open' then
  local until_then = now + tonumber(take())
  if state ~= 'open' or until_then > open_until then
    open_until = until_then
    go('open', true)
  end
elseif step == 'reset' then
  level, open_for, closed_at = 0, 0, now
  go('closed', true)
end

local out, first = probes_out()
local remaining = 0
if state == 'open' then
  remaining = math.max(0, open_until - now)
elseif state == 'half-open' and out >= max_probes then
  remaining = first - now
end
local saved = {}
for id, expiry in pairs(probes) do saved[#saved + 1] = whole(expiry) .. '=' .. id end
redis.call('HSET', key, 'state', state, 'by_hand', by_hand and '1' or '0', 'seen', whole(now), 'epoch', whole(epoch),
  'version', whole(version),
  'open_until', whole(open_until), 'open_for', whole(open_for), 'level', level, 'successes', successes,
  'closed_at', whole(closed_at), 'probes', table.concat(saved, ' '))
for i, rule in ipairs(rules) do
  local text = counters[i]
  if rule.kind == 'ratio' then
    local parts = {}
    for slot, counts in pairs(text) do
      parts[#parts + 1] = whole(slot) .. ':' .. whole(counts[1]) .. ':' .. whole(counts[2])
    end
    text = table.concat(parts, ' ')
  elseif rule.kind == 'row' then
    text = whole(text)
  end
  redis.call('HSET', key, 'rule' .. i, rule.kind, 'counter' .. i, text)
end
redis.call('PEXPIRE', key, lives)
local told = {whole(epoch), whole(version), state, whole(remaining), whole(level), whole(out), by_hand and '1' or '0'}
if changed then redis.call('PUBLISH', channel, table.concat(told, ' ')) end
return {admitted, unpack(told)}
"""


def _circuit(store: Store, keys: Sequence[str], args: Sequence[str]) -> Reply:
    words = iter(args[1:])
    lives = int(next(words))
    config = _read_config(words)
    fleet: Fleet = store.load(keys[0]) or Fleet.begin(config, store.now)
    if len(fleet.counters) != len(config.rules):
        fleet.counters = [rule.empty() for rule in config.rules]
    fleet.look(config, store.now)
    fleet.changed = False
    admitted = _step(fleet, config, next(words), list(words))
    told = [
        str(fleet.epoch),
        str(fleet.version),
        fleet.state,
        str(fleet.remaining(config)),
        str(fleet.level),
        str(len(fleet.probes)),
        "1" if fleet.by_hand else "0",
    ]
    store.save(keys[0], fleet, ttl=lives / 1000)
    if fleet.changed:
        store.publish(args[0], " ".join(told))
    return [int(admitted), *told]


def _read_config(words: Any) -> FleetRules:
    probes, needed, lease = (int(next(words)) for _ in range(3))
    open_times = [int(next(words)) for _ in range(int(next(words)))]
    rules = [
        SharedRule(next(words), float(next(words)), int(next(words)), int(next(words))) for _ in range(int(next(words)))
    ]
    return FleetRules(probes, needed, lease, open_times, rules)


def _step(fleet: Fleet, config: FleetRules, step: str, rest: list[str]) -> bool:
    if step == "report":
        epoch, *numbers = map(int, rest)
        fleet.report(config, epoch, zip(numbers[::2], numbers[1::2], strict=True))
    elif step == "admit":
        return fleet.admit(config, rest[0])
    elif step == "judge":
        fleet.judge(config, rest[0], {"failed": True, "passed": False}.get(rest[1]))
    elif step == "open":
        fleet.open_by_hand(config, int(rest[0]))
    elif step == "reset":
        fleet.reset(config)
    return False


CIRCUIT: Final = Script("ask the circuit", _LUA, _circuit)


def config_words(config: FleetRules, channel: str, lives: int) -> list[Argument]:
    """Return the arguments that every step begins with.

    Args:
      config (FleetRules): the configuration.
      channel (str): where changes are told.
      lives (int, milliseconds): how long the state is kept after its last use.
    """
    rules = [word for rule in config.rules for word in (rule.kind, rule.limit, rule.size, rule.least)]
    numbers = lives, config.probes, config.needed, config.probe_lease, len(config.open_times), *config.open_times
    return [channel, *numbers, len(config.rules), *rules]


class Told(NamedTuple):
    """What the server says of the circuit."""

    epoch: int
    version: int
    state: str
    remaining: float
    """Seconds until somebody may be let in; 0 if that may be now."""
    level: int
    probes_out: int
    by_hand: bool


def told_in(words: Sequence[str]) -> Told:
    """Return what a message, or the end of an answer, tells."""
    epoch, version, state, remaining, level, out, by_hand = words
    return Told(int(epoch), int(version), state, int(remaining) / 1e6, int(level), int(out), by_hand == "1")
