-- Looks after everything, a bounded step at a time: renews this node's lease, removes what a dead node held, removes what
-- has expired.
-- ARGV: 8 how long a lease is, 9 after what time without any node it was Redis that was out of reach, 10 steps at most.
local leases = prefix .. 'leases'
local steps = tonumber(ARGV[10])
local state = barred() or 'OK'
local lease = int(now + ARGV[8])
local before = tonumber(call('GET', prefix .. 'tended') or now)
call('SET', prefix .. 'tended', int(now))
if now - before > tonumber(ARGV[9]) then
  -- Nobody could renew a lease, so nobody is dead for it.
  for _, other in ipairs(call('ZRANGE', leases, 0, -1)) do
    if call('EXISTS', prefix .. 'i:' .. other) == 1 then
      call('ZADD', leases, lease, other)
    end
  end
end
if state == 'OK' then
  call('ZADD', leases, lease, node)
end

local tells, reaped, more = {}, '', false
local dead = call('ZRANGEBYSCORE', leases, '-inf', int(now), 'LIMIT', 0, 1)[1]
if dead then
  reaped = dead
  call('DEL', prefix .. 'i:' .. dead)
  local held = prefix .. 'n:' .. dead
  local units = call('HRANDFIELD', held, steps, 'WITHVALUES')
  for at = 1, #units, 2 do
    local channel, uid = units[at], nil
    local space = string.find(channel, ' ', 1, true)
    if space then
      channel, uid = string.sub(channel, 1, space - 1), string.sub(channel, space + 1)
    end
    local subscriptions, counted = string.match(units[at + 1], '(%d+) (%d+)')
    local _, count, gone = remove('', channel, uid, tonumber(subscriptions), tonumber(counted))
    call('HDEL', held, units[at])
    if told and tonumber(counted) > 0 then
      tells[#tells + 1] = {'C', channel, int(count)}
    end
    if told and gone then
      tells[#tells + 1] = {'R', channel, uid, gone, members_of(channel)}
    end
  end
  if call('EXISTS', held) == 0 then
    call('ZREM', leases, dead)
    -- It may be back yet, and ask what came of its last operations.
    call('EXPIRE', prefix .. 'q:' .. dead, 600)
  end
  more = true
end

local function due(index)
  local found = call('ZRANGEBYSCORE', prefix .. index, '-inf', int(now), 'LIMIT', 0, steps)
  more = more or #found == steps
  return found
end
for _, member in ipairs(due('sx')) do
  local space = string.find(member, ' ', 1, true)
  local channel, key = string.sub(member, 1, space - 1), string.sub(member, space + 1)
  local kept = call('HGET', prefix .. 's:' .. channel, key)
  if told and kept and string.sub(kept, 33, 33) == '1' then
    tells[#tells + 1] = {'E', string.sub(kept, 34), call('ZSCORE', prefix .. 'sx', member)}
  end
  forget_entry(channel, key)
end
for _, member in ipairs(due('hx')) do
  local space = string.find(member, ' ', 1, true)
  local channel, id = string.sub(member, 1, space - 1), string.sub(member, space + 1)
  call('ZREM', prefix .. 'h:' .. channel, id)
  call('HDEL', prefix .. 'b:' .. channel, id)
  call('DEL', prefix .. 'r:' .. member)
  call('ZREM', prefix .. 'hx', member)
end

local next_due = call('ZRANGE', prefix .. 'z', 0, 0, 'WITHSCORES')
return {state, more and '1' or '0', next_due[2] or '', reaped, tells, int(now)}
