"""The rate limiter's Lua: each script is one atomic step in Redis, by the server's clock, in milliseconds.

All of it is integers, so that what is counted is exact. `{name}` is an identifier as `{type}:{keyed hash}`:

    ratelimit:{name}:{policy}-{window number}   requests that were let in (fixed and sliding windows)
    ratelimit:{name}:{policy}-bucket            level and time of a token bucket
    violations:{name}, bans:{name}              fading counters, kept as the time at which nothing is left of them
    banned:{name}                               the level of a running ban, for as long as it runs
"""

from __future__ import annotations

CLOCK = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
"""

# look.<algorithm>: what is left once `extra` more requests are let in (below 0: they do not fit), and the time until
# more is. take.<algorithm>: let one in.
#
# sliding: of the window before, that part counts which still lies within one window's length of now (two counters
# instead of a log). In any stretch of time d it lets in at most quota * (1 + d / window); a fixed window lets twice the
# quota in around its edge, however short the stretch.
# bucket: a request costs `window` units, a millisecond brings `quota` of them, and `burst * window` fit.
_ALGORITHMS = """
local look, take = {}, {}

function look.fixed(key, quota, window, burst, extra)
  local number = math.floor(now / window)
  return quota - (redis.call('GET', key .. number) or 0) - extra, (number + 1) * window - now
end

function look.sliding(key, quota, window, burst, extra)
  local number = math.floor(now / window)
  local found = redis.call('MGET', key .. number - 1, key .. number)
  local before, count, past = tonumber(found[1] or 0), (found[2] or 0) + extra, now - number * window
  local left = math.floor(((quota - count) * window - before * (window - past)) / window)
  local room = quota - math.max(left, 0) - 1
  local wait = 0
  if room >= count then
    wait = window - math.floor((room - count) * window / before) - past
  elseif count > 0 then
    wait = window - past + math.max(0, window - math.floor(room * window / count))
  end
  return left, wait
end

function look.bucket(key, quota, window, burst, extra)
  local most = burst * window
  local found = redis.call('HMGET', key .. 'bucket', 'level', 'at')
  local passed = math.max(0, now - (found[2] or now))
  local level = math.min(most, (found[1] or most) + passed * quota) - extra * window
  local left = math.floor(level / window)
  local wait = level < most and math.ceil(((left + 1) * window - level) / quota) or 0
  return left, wait, level
end

local function count(key, life)
  if redis.call('INCR', key) == 1 then redis.call('PEXPIRE', key, life) end
end

function take.fixed(key, quota, window) count(key .. math.floor(now / window), window) end

function take.sliding(key, quota, window) count(key .. math.floor(now / window), 2 * window) end

function take.bucket(key, quota, window, burst)
  local _, _, level = look.bucket(key, quota, window, burst, 1)
  redis.call('HSET', key .. 'bucket', 'level', level, 'at', now)
  redis.call('PEXPIRE', key .. 'bucket', math.ceil((burst * window - level) / quota))
end

local function seconds(wait) return math.ceil(wait / 1000) end
"""

# One request. KEYS: epoch, session flag. ARGV: the plan (JSON: checks as [identifier, policy, algorithm, quota, window,
# burst, shadow]; shadow: bans refuse nothing; threshold, forgive, ban, longest), then the identifiers' names.
# Answer: epoch known?, session flag, seconds of a ban, whose (or -1), its level if this request brought it, ms until it
# is forgotten, the check that refuses (or -1), then (left, seconds until more is) for each check.
#
# A refused request uses nothing up. While the epoch is not known, nothing is counted: the bans have to be put back
# first. With the token of an ended session only addresses are looked at: whoever stole it must not use up its user's
# limits, or get him banned.
ADMIT = (
    CLOCK
    + _ALGORITHMS
    + """
local plan = cjson.decode(ARGV[1])
local known = redis.call('MGET', KEYS[1], KEYS[2])
local flag = known[2]
if not known[1] then return {0, flag} end
local answer = {1, flag, 0, -1, 0, 0, -1}

local function trusted(name) return flag ~= '0' or string.sub(name, 1, 3) == 'ip:' end

local function raise(key, fade)
  local till = math.max(now, redis.call('GET', key) or 0) + fade
  redis.call('SET', key, till, 'PX', till - now)
  return math.ceil((till - now) / fade), till - now
end

for i = 2, #ARGV do
  local ttl = trusted(ARGV[i]) and redis.call('PTTL', 'banned:' .. ARGV[i]) or 0
  if ttl > 0 then
    answer[3], answer[4] = seconds(ttl), i - 2
    if not plan.shadow then return answer end
  end
end

local passed = {}
for c, check in ipairs(plan.checks) do
  local who, policy, algorithm, quota, window, burst, shadow = unpack(check)
  local name = ARGV[2 + who]
  local left, wait = false, 0
  if trusted(name) then
    local key = 'ratelimit:' .. name .. ':' .. policy .. '-'
    left, wait = look[algorithm](key, quota, window, burst, 1)
    if left >= 0 then
      passed[#passed + 1] = {take[algorithm], key, quota, window, burst}
    else
      wait = select(2, look[algorithm](key, quota, window, burst, 0))
      if not shadow and answer[7] < 0 then answer[7] = c - 1 end
    end
  end
  answer[#answer + 1] = left
  answer[#answer + 1] = seconds(wait)
end

if answer[7] < 0 then
  for _, p in ipairs(passed) do p[1](p[2], p[3], p[4], p[5]) end
  return answer
end

local who = plan.checks[answer[7] + 1][1]
local name = ARGV[2 + who]
if raise('violations:' .. name, plan.forgive) > plan.threshold then
  local level, memory = raise('bans:' .. name, plan.longest)
  local length = math.min(plan.ban * 2 ^ (level - 1), plan.longest)
  redis.call('DEL', 'violations:' .. name)
  redis.call('SET', 'banned:' .. name, level, 'PX', length)
  answer[3], answer[4], answer[5], answer[6] = seconds(length), who, level, memory
end
return answer
"""
)

# How one identifier stands. ARGV: its name, the ms in which a violation is forgiven, then (policy, algorithm, quota,
# window, burst) each. Answer: seconds of its ban, violations, then (left, seconds until more is) each.
READ = (
    CLOCK
    + _ALGORITHMS
    + """
local name, forgive = ARGV[1], tonumber(ARGV[2])
local till = tonumber(redis.call('GET', 'violations:' .. name) or 0)
local answer = {seconds(math.max(0, redis.call('PTTL', 'banned:' .. name))), math.max(0, math.ceil((till - now) / forgive))}
for i = 3, #ARGV, 5 do
  local key = 'ratelimit:' .. name .. ':' .. ARGV[i] .. '-'
  local left, wait = look[ARGV[i + 1]](key, tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4]), 0)
  answer[#answer + 1] = math.max(0, left)
  answer[#answer + 1] = seconds(wait)
end
return answer
"""
)

# Forget what was used up. ARGV: the name, then (policy, window) each.
CLEAR = (
    CLOCK
    + """
redis.call('DEL', 'violations:' .. ARGV[1])
for i = 2, #ARGV, 2 do
  local key, number = 'ratelimit:' .. ARGV[1] .. ':' .. ARGV[i] .. '-', math.floor(now / ARGV[i + 1])
  redis.call('DEL', key .. number, key .. number - 1, key .. 'bucket')
end
"""
)

# Put recorded bans back where there are none. ARGV: (name, level, ms that the ban still runs, ms until it is forgotten) each.
RESTORE = (
    CLOCK
    + """
for i = 1, #ARGV, 4 do
  local running, memory = tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  if running > 0 then redis.call('SET', 'banned:' .. ARGV[i], ARGV[i + 1], 'PX', running, 'NX') end
  if memory > 0 then redis.call('SET', 'bans:' .. ARGV[i], now + memory, 'PX', memory, 'NX') end
end
"""
)
