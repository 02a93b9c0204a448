"""What a shared semaphore asks of the server: the law of `_kernel.permits`, in Lua and as its twin.

Keys: who is believed until when; the fences of those who hold; the queue; and what is left. An id is "process.number". What is
granted to the process that acquires or releases is in its answer; what is granted to another is told on a channel of that one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .._kernel.permits import Permits
from .engine import Reply, Script, Store

PARTS: Final = ("expiries", "fences", "queue", "own")

# ARGV: limit, lease, the beginning of the channels' names, and what follows.
_STATE: Final = """
local expiries, fences, queue, own = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local limit, lease, channels = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local kept = redis.call('HMGET', own, 'seen', 'last', 'places', 'lease')
local seen, last, places = tonumber(kept[1]) or 0, tonumber(kept[2]) or 0, tonumber(kept[3]) or 0
local longest = math.max(lease, tonumber(kept[4]) or 0)
local function whole(number) return string.format('%.0f', number) end
local function drop(id)
  redis.call('ZREM', expiries, id)
  if redis.call('HDEL', fences, id) == 0 then redis.call('ZREM', queue, id) end
end
local function join(id)
  places = places + 1
  redis.call('ZADD', queue, whole(places), id)
end
local function grant(id)
  last = math.max(last + 1, now)
  redis.call('HSET', fences, id, whole(last))
  return last
end
local function believe(id) redis.call('ZADD', expiries, whole(now + lease), id) end
local function process_of(id) return string.match(id, '^[^.]*') end
local function serve(asking, reply)
  local free = limit - redis.call('HLEN', fences)
  while free > 0 do
    local id = redis.call('ZPOPMIN', queue)[1]
    if not id then return end
    local told = id .. ' ' .. whole(grant(id))
    if process_of(id) == asking then
      reply[#reply + 1] = told
    else
      redis.call('PUBLISH', channels .. process_of(id), told)
    end
    free = free - 1
  end
end
local function next_expiry()
  local first = redis.call('ZRANGE', expiries, 0, 0, 'WITHSCORES')
  return first[2] and first[2] - now or -1
end
local function save()
  redis.call('HSET', own, 'seen', whole(now), 'last', whole(last), 'places', whole(places), 'lease', whole(longest))
  local lives = whole(math.ceil(longest / 1000) + 1000)
  for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, lives) end
end
if now < seen then
  local all = redis.call('ZRANGE', expiries, 0, -1, 'WITHSCORES')
  for i = 1, #all, 2 do redis.call('ZADD', expiries, whole(all[i + 1] - (seen - now)), all[i]) end
end
local first = redis.call('ZRANGE', expiries, 0, 0, 'WITHSCORES')[2]
if first and first - now <= 0 then
  for _, id in ipairs(redis.call('ZRANGE', expiries, '-inf', whole(now), 'BYSCORE')) do drop(id) end
end
"""

_ACQUIRE: Final = (
    _STATE
    + """
local id, most_waiting = ARGV[4], tonumber(ARGV[5])
for i = 6, #ARGV do drop(ARGV[i]) end
local granted = {}
serve(process_of(id), granted)
local waiting = redis.call('ZCARD', queue)
local fence, ends_in = 0, -1
if waiting == 0 and redis.call('HLEN', fences) < limit then
  fence = grant(id)
elseif waiting < most_waiting then
  join(id)
else
  fence = -1
end
if fence >= 0 then believe(id) end
if fence == 0 then ends_in = next_expiry() end
save()
return {fence, ends_in, unpack(granted)}
"""
)

_RELEASE: Final = (
    _STATE
    + """
for i = 4, #ARGV do drop(ARGV[i]) end
local granted = {}
serve(ARGV[4] and process_of(ARGV[4]), granted)
save()
return granted
"""
)

_RENEW: Final = (
    _STATE
    + """
for i = 4, #ARGV, 2 do
  local id, fence, here = ARGV[i], tonumber(ARGV[i + 1]), true
  if redis.call('HEXISTS', fences, id) == 0 and not redis.call('ZSCORE', queue, id) then
    if fence == 0 then
      join(id)
    elseif redis.call('HLEN', fences) < limit then
      redis.call('HSET', fences, id, whole(fence))
      last = math.max(last, fence)
    else
      here = false
    end
  end
  if here then believe(id) end
end
serve()
local reply = {next_expiry()}
for i = 4, #ARGV, 2 do
  local fence = redis.call('HGET', fences, ARGV[i])
  reply[#reply + 1] = tonumber(fence) or (tonumber(ARGV[i + 1]) > 0 and -1 or 0)
end
save()
return reply
"""
)


def _load(store: Store, keys: Sequence[str]) -> Permits:
    permits: Permits = store.load(keys[0]) or Permits()
    permits.look(store.now)
    return permits


def _serve_and_save(
    store: Store, keys: Sequence[str], args: Sequence[str], permits: Permits, asking: str | None = None
) -> list[str]:
    granted = []
    for who, fence in permits.serve(int(args[0])):
        if _process_of(who) == asking:
            granted.append(f"{who} {fence}")
        else:
            store.publish(args[2] + _process_of(who), f"{who} {fence}")
    store.save(keys[0], permits, ttl=int(args[1]) / 1e6 + 1)
    return granted


def _process_of(who: str) -> str:
    return who.partition(".")[0]


def _acquire(store: Store, keys: Sequence[str], args: Sequence[str]) -> Reply:
    permits = _load(store, keys)
    permits.release(args[5:])
    granted = _serve_and_save(store, keys, args, permits, _process_of(args[3]))
    fence = permits.acquire(args[3], int(args[0]), int(args[1]), int(args[4]))
    _serve_and_save(store, keys, args, permits)
    return [-1 if fence is None else fence, permits.next_expiry() if fence == 0 else -1, *granted]


def _release(store: Store, keys: Sequence[str], args: Sequence[str]) -> Reply:
    permits = _load(store, keys)
    permits.release(args[3:])
    return _serve_and_save(store, keys, args, permits, _process_of(args[3]) if args[3:] else None)


def _renew(store: Store, keys: Sequence[str], args: Sequence[str]) -> Reply:
    permits = _load(store, keys)
    ids = list(zip(args[3::2], map(int, args[4::2]), strict=True))
    for who, fence in ids:
        permits.renew(who, fence, int(args[0]), int(args[1]))
    _serve_and_save(store, keys, args, permits)
    return [permits.next_expiry(), *permits.standing(ids)]


ACQUIRE: Final = Script("acquire a permit", _ACQUIRE, _acquire)
RELEASE: Final = Script("release permits", _RELEASE, _release)
RENEW: Final = Script("renew leases", _RENEW, _renew)
