"""RedisManager's Lua: each is one atomic step in Redis, by the server's clock."""

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
