"""The Lua scripts of the Redis adapter: one atomic operation each, its keys in one slot unless it says otherwise.

Timestamps travel as strings and are compared as doubles, exact up to 2^53: the year 287396.
"""

from __future__ import annotations

from hashlib import sha1
from typing import Final

__all__ = [
    "APPEND",
    "EXTEND",
    "PUT_SCHEDULE",
    "READ_LOG",
    "RELEASE_LEASE",
    "RENEW_LEASE",
    "REVISIONS",
    "TAILS",
    "TRIM",
    "Script",
]


class Script:
    """A script and the digest Redis knows it by."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = sha1(text.encode(), usedforsecurity=False).hexdigest()


APPEND: Final = Script("""
-- KEYS: log, floor. ARGV: timestamp, prev, member. Returns outcome, tail, and the member known under that timestamp.
local floor = redis.call('GET', KEYS[2]) or '0'
local newest = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local tail = newest[2] or floor
local timestamp = tonumber(ARGV[1])
if timestamp <= tonumber(floor) then return {'stale', tail} end
if timestamp <= tonumber(tail) then
  local known = redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[1], ARGV[1])
  return {'known', tail, known[1] or ''}
end
if tonumber(ARGV[2]) ~= tonumber(tail) then return {'refused', tail} end
redis.call('ZADD', KEYS[1], ARGV[1], ARGV[3])
return {'appended', ARGV[1]}
""")

EXTEND: Final = Script("""
-- KEYS: log, floor. ARGV: tail expected, floor or '', then timestamp and member of each. Returns outcome, tail.
local floor = redis.call('GET', KEYS[2]) or '0'
local newest = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local tail = newest[2] or floor
if tonumber(tail) ~= tonumber(ARGV[1]) then return {'refused', tail} end
if ARGV[2] ~= '' and tonumber(ARGV[2]) > tonumber(floor) then
  redis.call('SET', KEYS[2], ARGV[2])
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[2])
end
for at = 3, #ARGV, 2 do redis.call('ZADD', KEYS[1], ARGV[at], ARGV[at + 1]) end
return {'appended', ARGV[#ARGV - 1]}
""")

TRIM: Final = Script("""
-- KEYS: log, floor. ARGV: keep, before. Returns how many entries were dropped; the newest stays.
local count = redis.call('ZCARD', KEYS[1])
local cut = math.max(count - tonumber(ARGV[1]), redis.call('ZCOUNT', KEYS[1], '-inf', '(' .. ARGV[2]))
cut = math.min(cut, count - 1)
if cut <= 0 then return 0 end
local edge = redis.call('ZRANGE', KEYS[1], cut - 1, cut - 1, 'WITHSCORES')[2]
redis.call('SET', KEYS[2], edge)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', edge)
return cut
""")

READ_LOG: Final = Script("""
-- KEYS: log, floor. Returns the floor, then every member, ascending.
local found = redis.call('ZRANGE', KEYS[1], 0, -1)
table.insert(found, 1, redis.call('GET', KEYS[2]) or '0')
return found
""")

TAILS: Final = Script("""
-- KEYS: log and floor of each topic, of any slots: not for a cluster. Returns each tail.
local tails = {}
for at = 1, #KEYS, 2 do
  local newest = redis.call('ZREVRANGE', KEYS[at], 0, 0, 'WITHSCORES')[2]
  tails[#tails + 1] = newest or redis.call('GET', KEYS[at + 1]) or '0'
end
return tails
""")

REVISIONS: Final = Script("""
-- KEYS: schedule of each topic, of any slots: not for a cluster. Returns each revision, '' where there is none.
local revisions = {}
for at = 1, #KEYS do revisions[at] = redis.call('HGET', KEYS[at], 'revision') or '' end
return revisions
""")

PUT_SCHEDULE: Final = Script("""
-- KEYS: schedule. ARGV: revision, body. Returns 1 if stored: the higher revision wins.
local held = redis.call('HGET', KEYS[1], 'revision')
if held and tonumber(held) >= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'revision', ARGV[1], 'body', ARGV[2])
return 1
""")

RENEW_LEASE: Final = Script("""
-- KEYS: lease. ARGV: incarnation, body, lifetime in ms. The fields and their expiry are set together or not at all.
redis.call('HSET', KEYS[1], 'incarnation', ARGV[1], 'body', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
""")

RELEASE_LEASE: Final = Script("""
-- KEYS: lease. ARGV: incarnation. Another incarnation's lease is not ours to drop.
if redis.call('HGET', KEYS[1], 'incarnation') ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
""")
