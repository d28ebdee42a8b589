"""RedisManager's Lua: each is one atomic step in Redis, by the server's clock."""

# Sets of members with a lease, scored by the second in which it ends.

ADD_MEMBER = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('TTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('EXPIRE', KEYS[1], ARGV[2]) end
"""

# Check and join in one step, so that two who race for the last place cannot both get it. ARGV: member, limit, lease.
# Answer: the size, or -1 when it is full.
JOIN = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local size = redis.call('ZCARD', KEYS[1])
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  if size >= tonumber(ARGV[2]) then return -1 end
  size = size + 1
end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[3]), ARGV[1])
if redis.call('TTL', KEYS[1]) < tonumber(ARGV[3]) then redis.call('EXPIRE', KEYS[1], ARGV[3]) end
return size
"""

# ARGV: lease, then one member for each key.
RENEW = """
local now = tonumber(redis.call('TIME')[1])
for i, key in ipairs(KEYS) do
  redis.call('ZADD', key, now + tonumber(ARGV[1]), ARGV[i + 1])
  if redis.call('TTL', key) < tonumber(ARGV[1]) then redis.call('EXPIRE', key, ARGV[1]) end
end
"""

REMOVE_MEMBER = "for _, key in ipairs(KEYS) do redis.call('ZREM', key, ARGV[1]) end"

MEMBERS = """
local now = tonumber(redis.call('TIME')[1])
local found = {}
for _, key in ipairs(KEYS) do
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', key, '(' .. now, '+inf')) do found[#found + 1] = member end
end
return found
"""

# Tokens: a flag says whether one is known to live. A revocation is never overwritten by who read the record before it.

SET_TOKEN = "redis.call('SET', KEYS[1], '1', 'NX', 'EX', ARGV[1])"  # noqa: S105  a script

REVOKE_TOKENS = "for _, key in ipairs(KEYS) do redis.call('SET', key, '0', 'EX', ARGV[1]) end"

# The cache. An entry is a hash: v (the sealed value), g (the generations of its tags when its load began), r (the
# millisecond from which one caller loads it anew). A tag's generation is a random word; its absence ends all that was
# cached under it, so that a Redis that lost one cannot bring old values back. The lock says who loads, and since which
# generations: one that is older than an invalidation holds nobody up.

# KEYS: entry, lock, tags. ARGV: our token, milliseconds of the lock.
# Answer: state, sealed value or '', the lock's text (whose load it is). States: see redis_cache.
LOOK = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local generations, complete = {}, true
for i = 3, #KEYS do
  local generation = redis.call('GET', KEYS[i])
  complete = complete and generation
  generations[i - 2] = generation or ARGV[1]
end
local current = table.concat(generations, ' ')
local entry = redis.call('HMGET', KEYS[1], 'v', 'g', 'r')
local found = entry[1] and complete and entry[2] == current
if found and now < tonumber(entry[3]) then return {'hit', entry[1], ''} end
local lock = redis.call('GET', KEYS[2])
local mine = ARGV[1] .. ' ' .. current
if lock and complete and string.sub(lock, #ARGV[1] + 2) == current then
  if found then return {'hit', entry[1], ''} end
  return {'wait', '', lock}
end
for i = 3, #KEYS do
  redis.call('SET', KEYS[i], ARGV[1], 'NX')
  if redis.call('PTTL', KEYS[i]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[i], ARGV[2]) end
end
redis.call('SET', KEYS[2], mine, 'PX', ARGV[2])
if found then return {'refresh', entry[1], mine} end
return {'load', '', mine}
"""

# KEYS: entry, lock, tags. ARGV: the lock's text, our token, sealed value, milliseconds to live, milliseconds to the refresh.
# What was invalidated since its load began is not stored.
STORE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local generations = {}
for i = 3, #KEYS do generations[i - 2] = redis.call('GET', KEYS[i]) or '' end
local current = table.concat(generations, ' ')
if string.sub(ARGV[1], #ARGV[2] + 2) == current then
  redis.call('HSET', KEYS[1], 'v', ARGV[3], 'g', current, 'r', now + tonumber(ARGV[5]))
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  for i = 3, #KEYS do
    if redis.call('PTTL', KEYS[i]) < tonumber(ARGV[4]) then redis.call('PEXPIRE', KEYS[i], ARGV[4]) end
  end
end
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
"""

# KEYS: lock. ARGV: its text.
RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"
