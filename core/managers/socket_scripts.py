"""The Lua of the socket registry: who is connected where, each step atomic and by the server's clock.

Everything belongs to a worker, and counts while that worker's lease runs: one line to renew, however many sockets it has.

    sockets:workers           sorted set: worker, scored by the millisecond in which its lease ends
    sockets:{worker}          hash: socket -> sealed card
    sockets:{worker}:users    hash: user (a keyed hash) -> how many sockets
    sockets:{worker}:rooms    set: rooms in which it has members
    room:{room}               set: workers that have members in it
    room:{room}/{worker}      hash: socket -> the millisecond in which it joined (no name of a room holds a slash)

Names are made up in the scripts, since only Redis knows which workers there are: all of them live on one server.
"""

_CLOCK = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# Who counts. A worker that asks is alive, whatever became of its lease.
_LIVING = (
    _CLOCK
    + """
local function living()
  return redis.call('ZRANGEBYSCORE', 'sockets:workers', '(' .. now, '+inf')
end
local function lives(worker)
  local ends = redis.call('ZSCORE', 'sockets:workers', worker)
  return ends and tonumber(ends) > now
end
"""
)

_LEAVE = """
local function leave(room, worker, socket)
  local members = 'room:' .. room .. '/' .. worker
  local gone = redis.call('HDEL', members, socket)
  if redis.call('EXISTS', members) == 0 then
    redis.call('SREM', 'room:' .. room, worker)
    redis.call('SREM', 'sockets:' .. worker .. ':rooms', room)
  end
  return gone
end
"""

# ARGV: worker, milliseconds of its lease. Answer: whether it ran until now, then the workers whose lease has ended.
RENEW = (
    _CLOCK
    + """
local ends = redis.call('ZSCORE', 'sockets:workers', ARGV[1])
redis.call('ZADD', 'sockets:workers', now + tonumber(ARGV[2]), ARGV[1])
local dead = redis.call('ZRANGEBYSCORE', 'sockets:workers', '-inf', now)
table.insert(dead, 1, ends and tonumber(ends) > now and 1 or 0)
return dead
"""
)

# Enter sockets, of which Redis may know some. ARGV: worker, then socket, sealed card and user of each.
REGISTER = """
local sockets = 'sockets:' .. ARGV[1]
for i = 2, #ARGV, 3 do
  if redis.call('HSET', sockets, ARGV[i], ARGV[i + 1]) == 1 then
    redis.call('HINCRBY', sockets .. ':users', ARGV[i + 2], 1)
  end
end
"""

# Forget sockets, and that they are in rooms. ARGV: worker, then socket, user, number of rooms and the rooms of each.
FORGET = (
    _LEAVE
    + """
local sockets = 'sockets:' .. ARGV[1]
local i = 2
while i <= #ARGV do
  local socket, user, rooms = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  if redis.call('HDEL', sockets, socket) == 1 and redis.call('HINCRBY', sockets .. ':users', user, -1) < 1 then
    redis.call('HDEL', sockets .. ':users', user)
  end
  for room = i + 3, i + 2 + rooms do leave(ARGV[room], ARGV[1], socket) end
  i = i + 3 + rooms
end
"""
)

# Check and join in one step, so that of many who race for the last place one gets it. ARGV: worker, limit, then room and
# socket of each. Answer: for each the size, or -1 when it is full.
JOIN = (
    _LIVING
    + """
local worker, limit = ARGV[1], tonumber(ARGV[2])
local sizes = {}
local function size_of(room)
  local size = 0
  for _, other in ipairs(redis.call('SMEMBERS', 'room:' .. room)) do
    if other == worker or lives(other) then size = size + redis.call('HLEN', 'room:' .. room .. '/' .. other) end
  end
  return size
end
local function join(room, socket)
  local members = 'room:' .. room .. '/' .. worker
  sizes[room] = sizes[room] or size_of(room)
  if redis.call('HEXISTS', members, socket) == 1 then return sizes[room] end
  if sizes[room] >= limit then return -1 end
  redis.call('HSET', members, socket, now)
  redis.call('SADD', 'room:' .. room, worker)
  redis.call('SADD', 'sockets:' .. worker .. ':rooms', room)
  sizes[room] = sizes[room] + 1
  return sizes[room]
end
local answer = {}
for i = 3, #ARGV, 2 do answer[#answer + 1] = join(ARGV[i], ARGV[i + 1]) end
return answer
"""
)

LEAVE = _LEAVE + "return leave(ARGV[2], ARGV[1], ARGV[3])"

# Put back members that Redis has forgotten; their places are theirs. ARGV: worker, then room, socket and since of each.
REJOIN = (
    _CLOCK
    + """
for i = 2, #ARGV, 3 do
  local room = 'room:' .. ARGV[i]
  redis.call('HSETNX', room .. '/' .. ARGV[1], ARGV[i + 1], ARGV[i + 2])
  redis.call('SADD', room, ARGV[1])
  redis.call('SADD', 'sockets:' .. ARGV[1] .. ':rooms', ARGV[i])
end
"""
)

# ARGV: rooms. Answer: the time in milliseconds, then for each room a list of socket, since, card, socket, ...
MEMBERS = (
    _LIVING
    + """
local answer = {now}
for _, room in ipairs(ARGV) do
  local found = {}
  for _, worker in ipairs(redis.call('SMEMBERS', 'room:' .. room)) do
    if lives(worker) then
      local members = redis.call('HGETALL', 'room:' .. room .. '/' .. worker)
      for i = 1, #members, 2 do
        found[#found + 1] = members[i]
        found[#found + 1] = members[i + 1]
        found[#found + 1] = redis.call('HGET', 'sockets:' .. worker, members[i]) or ''
      end
    end
  end
  answer[#answer + 1] = found
end
return answer
"""
)

# ARGV: users. Answer: for each 1 or 0, whether a living worker has a socket of theirs.
ONLINE = (
    _LIVING
    + """
local answer = {}
for i = 1, #ARGV do answer[i] = 0 end
for _, worker in ipairs(living()) do
  local users = 'sockets:' .. worker .. ':users'
  if redis.call('EXISTS', users) == 1 then
    for start = 1, #ARGV, 1000 do
      local counts = redis.call('HMGET', users, unpack(ARGV, start, math.min(start + 999, #ARGV)))
      for i, count in ipairs(counts) do
        if count then answer[start + i - 1] = 1 end
      end
    end
  end
end
return answer
"""
)

# Remove what a worker has left, some rooms at a time. ARGV: worker, how many rooms, and '1' when it is its own wish, else only
# when its lease has ended. Answer: whether that was all, then the rooms whose members changed.
SWEEP = (
    _LIVING
    + """
local worker = ARGV[1]
if ARGV[3] ~= '1' and lives(worker) then return {1} end
local sockets = 'sockets:' .. worker
local rooms = redis.call('SPOP', sockets .. ':rooms', ARGV[2])
for _, room in ipairs(rooms) do
  redis.call('UNLINK', 'room:' .. room .. '/' .. worker)
  redis.call('SREM', 'room:' .. room, worker)
end
local done = redis.call('EXISTS', sockets .. ':rooms') == 0
if done then
  redis.call('UNLINK', sockets, sockets .. ':users')
  redis.call('ZREM', 'sockets:workers', worker)
end
table.insert(rooms, 1, done and 1 or 0)
return rooms
"""
)
