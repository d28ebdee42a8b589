"""The rate limiter's Lua: each is one atomic step in Redis, by the server's clock."""

# One request, atomically, by the server's clock. KEYS: epoch, session flag, then (banned, violations, bans) for each
# identifier, then a counter prefix for each check. ARGV: identifiers, ban threshold, violation ttl, ban seconds, ban
# maximum, then (identifier, quota, window) for each check. Answer: epoch known?, session flag, seconds of a ban,
# identifier that was banned by this request (or -1), level of that ban, then (count, reset) for each check. While the
# epoch is not known, nothing is counted: the bans have to be put back first. With the token of an ended session only
# the first identifier (the address) is looked at: whoever stole it must not use up its user's limits.
ADMIT = """
local now = tonumber(redis.call('TIME')[1])
local n = tonumber(ARGV[1])
local known = redis.call('EXISTS', KEYS[1])
local flag = redis.call('GET', KEYS[2])
if known == 0 then return {known, flag, 0, -1, 0} end
local trusted = flag == '0' and 1 or n
for i = 0, trusted - 1 do
  local ttl = redis.call('TTL', KEYS[3 + 3 * i])
  if ttl > 0 then return {known, flag, ttl, -1, 0} end
end
local answer = {known, flag, 0, -1, 0}
local first = 2 + 3 * n
for c = 0, #KEYS - first - 1 do
  local who, quota, window = tonumber(ARGV[6 + 3 * c]), tonumber(ARGV[7 + 3 * c]), tonumber(ARGV[8 + 3 * c])
  local key = KEYS[first + 1 + c] .. math.floor(now / window)
  local count = who < trusted and redis.call('INCR', key) or 0
  if count == 1 then redis.call('EXPIRE', key, window + 1) end
  answer[#answer + 1] = count
  answer[#answer + 1] = window - now % window
  if count > quota and answer[4] < 0 then
    local base = 3 + 3 * who
    local violations = redis.call('INCR', KEYS[base + 1])
    redis.call('EXPIRE', KEYS[base + 1], ARGV[3])
    if violations > tonumber(ARGV[2]) then
      local level = redis.call('INCR', KEYS[base + 2])
      local seconds = math.min(tonumber(ARGV[4]) * 2 ^ (level - 1), tonumber(ARGV[5]))
      redis.call('EXPIRE', KEYS[base + 2], ARGV[5] * 2)
      redis.call('DEL', KEYS[base + 1])
      redis.call('SET', KEYS[base], level, 'EX', seconds)
      answer[3], answer[4], answer[5] = seconds, who, level
    end
  end
end
return answer
"""

READ = """
local now = tonumber(redis.call('TIME')[1])
local answer = {math.max(0, redis.call('TTL', KEYS[1])), tonumber(redis.call('GET', KEYS[2]) or 0)}
for i = 3, #KEYS do
  local window = tonumber(ARGV[i - 2])
  answer[#answer + 1] = tonumber(redis.call('GET', KEYS[i] .. math.floor(now / window)) or 0)
  answer[#answer + 1] = window - now % window
end
return answer
"""

CLEAR = """
local now = tonumber(redis.call('TIME')[1])
redis.call('DEL', KEYS[1])
for i = 2, #KEYS do redis.call('DEL', KEYS[i] .. math.floor(now / tonumber(ARGV[i - 1]))) end
"""

RESTORE = """
for i = 1, #ARGV, 2 do
  redis.call('SET', KEYS[i + 1], ARGV[i + 1], 'EX', ARGV[i])
  redis.call('SET', KEYS[i + 2], ARGV[i + 1], 'EX', ARGV[i] * 2 + 60)
end
redis.call('SET', KEYS[1], '1')
"""
