-- What every script begins with. A script is executed as a whole and alone, so whatever it does has happened for all hosts
-- at one moment.
--
-- ARGV: 1 prefix of all keys, 2 node, 3 who may act in its name, 4 number of the operation, 5 and 6 forty random bits each,
-- 7 whether backends are told, and perhaps what time it is; the script's own ones follow.
--
-- Keys, each after the prefix:
--   id               the last identifier that was given to anything
--   c:<channel>      head of a channel with subscribers: p position, a subscriptions, n counted ones, o order, b bytes of members
--   l:<channel>      its last events, for whoever missed them
--   m:<channel>      members by uid: holders, order, size, digest of the metadata, the metadata
--   e:<channel>      where its events are published (not a key)
--   leases           nodes by the moment until which they live
--   i:<node>         who may act in its name
--   n:<node>         what it holds: "<channel>" or "<channel> <uid>" to "<subscriptions> <counted ones>"
--   q:<node>         what came of its last operations
--   u:<mark>         until when a token is spent;  d:<mark> until when a publish has been seen
--   s:<channel>      storage by key: digest of the value, whether backends are told, its length, the value, the rest of
--                    the write;  k:<channel> keys in order
--   sx               entries by the moment they expire;  sv, sc versions of the sets of keys
--   h:<channel>      identifiers of stored messages in order;  b:<channel> the messages;  hx by the moment they expire
--   r:<channel> <id> reactions to a message
--   z                schedules by the moment they are due;  zb what is planned
--   format           the version of all of this
--   tended           when somebody last looked after all of this
local prefix, node, owner, operation = ARGV[1] .. ':', ARGV[2], ARGV[3], ARGV[4]
local told = string.sub(ARGV[7], 1, 1) == '1'
local call = redis.call
local clock = call('TIME')
local now = tonumber(string.sub(ARGV[7], 2)) or clock[1] * 1000 + math.floor(clock[2] / 1000)

-- A whole number as text, exact up to 2^53.
local function int(number)
  return string.format('%.0f', number)
end

-- Several texts in one that can be taken apart again, whatever they hold.
local function pack(...)
  local parts = {...}
  for at = 1, #parts do
    parts[at] = #parts[at] .. ':' .. parts[at]
  end
  return table.concat(parts)
end

-- Is something remembered that was to be remembered until a time?
local function remembered(key)
  local till = call('GET', prefix .. key)
  return till and tonumber(till) > now
end

local function remember(key, till)
  local left = tonumber(till) - now
  if left > 0 then
    call('SET', prefix .. key, till, 'PX', int(left))
  end
end

-- Is a publish or a write with this mark a copy? From now on, the next one is.
local function copy(mark, window)
  if mark == '' then
    return false
  end
  if remembered('d:' .. mark) then
    return true
  end
  remember('d:' .. mark, int(now + window))
  return false
end

-- Why this node may not act, if it may not.
local function barred()
  local acting = call('GET', prefix .. 'i:' .. node)
  if not acting then
    return 'NONODE'
  end
  return acting ~= owner and 'STALE' or nil
end

-- Remembers what came of an operation, so that a node that did not get the answer learns it later.
local function done(...)
  call('HSET', prefix .. 'q:' .. node, operation % 1024, pack(operation, ...))
end

-- The next identifier: above every one before, whoever asks, also within a millisecond and when the clock is set back.
local function next_id()
  local last = call('GET', prefix .. 'id')
  local ms, high, low = 0, 0, 0
  if last then
    ms = tonumber(string.sub(last, 1, 12), 16)
    high = tonumber(string.sub(last, 13, 22), 16)
    low = tonumber(string.sub(last, 23, 32), 16)
  end
  if now > ms then
    ms, high, low = now, tonumber(ARGV[5]), tonumber(ARGV[6])
  else
    low = low + 1
    if low == 2 ^ 40 then
      low, high = 0, high + 1
    end
    if high == 2 ^ 40 then
      high, ms = 0, ms + 1
    end
  end
  local id = string.format('%012x%010x%010x', ms, high, low)
  call('SET', prefix .. 'id', id)
  return id
end

-- Tells all nodes with subscribers what happened in a channel, and gives its position; '' if nobody subscribes.
local function announce(origin, channel, ...)
  local head = prefix .. 'c:' .. channel
  if call('EXISTS', head) == 0 then
    return ''
  end
  local position = int(call('HINCRBY', head, 'p', 1))
  local event = pack(position, origin, ...)
  local log = prefix .. 'l:' .. channel
  local kept = math.max(100, math.min(1000, math.floor(4000000 / #event)))
  call('XADD', log, 'MAXLEN', '~', kept, position .. '-1', 'e', event)
  call('EXPIRE', log, 120)
  call('PUBLISH', prefix .. 'e:' .. channel, event)
  return position
end

-- Has something's time come?
local function expired(index, member)
  local at = call('ZSCORE', prefix .. index, member)
  return at and tonumber(at) <= now
end

local function publish(origin, channel, event, store, body, id)
  id = id or next_id()
  store = tonumber(store)
  if store ~= 0 then
    call('ZADD', prefix .. 'h:' .. channel, 0, id)
    call('HSET', prefix .. 'b:' .. channel, id, string.format('%04x', #event) .. event .. body)
    if store > 0 then
      call('ZADD', prefix .. 'hx', int(now + store * 1000), channel .. ' ' .. id)
    end
  end
  return id, announce(origin, channel, 'M', id, body)
end

-- Is a message stored? Gives its event and the rest.
local function stored(channel, id)
  local kept = call('HGET', prefix .. 'b:' .. channel, id)
  if not kept or expired('hx', channel .. ' ' .. id) then
    return nil
  end
  local length = tonumber(string.sub(kept, 1, 4), 16)
  return string.sub(kept, 5, 4 + length), string.sub(kept, 5 + length)
end

local function forget_entry(channel, key)
  call('HDEL', prefix .. 's:' .. channel, key)
  call('ZREM', prefix .. 'k:' .. channel, key)
  call('ZREM', prefix .. 'sx', channel .. ' ' .. key)
  if call('EXISTS', prefix .. 'k:' .. channel) == 0 then
    call('HDEL', prefix .. 'sv', channel)
  end
end

-- An entry that has not expired: the length of its value as eight digits, the value, the rest of the write.
local function entry(channel, key)
  local kept = call('HGET', prefix .. 's:' .. channel, key)
  if not kept or expired('sx', channel .. ' ' .. key) then
    return nil
  end
  return string.sub(kept, 34)
end

-- Writes storage. Gives whether the value has changed, the position, the write before, the write that had expired and for
-- which backends are still to be told so, when that was, and when this one expires; each '' if there is none.
local function write(origin, channel, key, store, digest, emit, value, rest)
  local entries, member = prefix .. 's:' .. channel, channel .. ' ' .. key
  local kept = call('HGET', entries, key)
  local before, lapsed, lapsed_at, expires = '', '', '', ''
  if kept and expired('sx', member) then
    if string.sub(kept, 33, 33) == '1' then
      lapsed, lapsed_at = string.sub(kept, 34), call('ZSCORE', prefix .. 'sx', member)
    end
    forget_entry(channel, key)
    kept = false
  end
  local changed
  if digest == '' then
    changed = kept and true or false
    if kept then
      forget_entry(channel, key)
    end
  else
    changed = not kept or string.sub(kept, 1, 32) ~= digest
    local sized = string.format('%08x', #value) .. value
    if not changed then
      -- What is the same value keeps its notation.
      sized = string.sub(kept, 34, 41 + tonumber(string.sub(kept, 34, 41), 16))
    end
    call('HSET', entries, key, digest .. emit .. sized .. rest)
    store = tonumber(store)
    if store > 0 then
      expires = int(now + store * 1000)
      call('ZADD', prefix .. 'sx', expires, member)
    else
      call('ZREM', prefix .. 'sx', member)
    end
    if not kept then
      call('ZADD', prefix .. 'k:' .. channel, 0, key)
      call('HSET', prefix .. 'sv', channel, call('INCR', prefix .. 'sc'))
    end
  end
  local position = ''
  if changed then
    before = kept and string.sub(kept, 34) or ''
    position = announce(origin, channel, 'S', value, rest)
  end
  return changed and '1' or '0', position, before, lapsed, lapsed_at, expires
end

-- Subscriptions of one user, or of nobody in particular, end. Gives the position of the change of the member list ('' if
-- nobody is to be told), the counted subscriptions that are left, and the metadata of a user who is gone (else nil).
local function remove(origin, channel, uid, subscriptions, counted)
  local head, members = prefix .. 'c:' .. channel, prefix .. 'm:' .. channel
  if call('EXISTS', head) == 0 then
    return '', 0, nil
  end
  -- Subtracted from 0, since Lua negates 0 to -0, which is no number for Redis.
  local left = call('HINCRBY', head, 'a', 0 - subscriptions)
  local count = call('HINCRBY', head, 'n', 0 - counted)
  local gone
  if uid then
    local member = call('HGET', members, uid)
    if member then
      local holders = tonumber(string.sub(member, 1, 8), 16) - subscriptions
      if holders > 0 then
        call('HSET', members, uid, string.format('%08x', holders) .. string.sub(member, 9))
      else
        call('HDEL', members, uid)
        call('HINCRBY', head, 'b', 0 - tonumber(string.sub(member, 25, 32), 16))
        gone = string.sub(member, 65)
      end
    end
  end
  if left <= 0 then
    call('DEL', head, members, prefix .. 'l:' .. channel)
    return '', 0, gone
  end
  return gone and announce(origin, channel, 'R', uid, gone) or '', count, gone
end

-- What a node holds of a channel changes. False: it does not hold that much.
local function hold(channel, uid, subscriptions, counted)
  local held, unit = prefix .. 'n:' .. node, uid and channel .. ' ' .. uid or channel
  local has = call('HGET', held, unit)
  local had, had_counted = 0, 0
  if has then
    had, had_counted = string.match(has, '(%d+) (%d+)')
  end
  had, had_counted = had + subscriptions, had_counted + counted
  if had < 0 or had_counted < 0 then
    return false
  end
  if had == 0 then
    call('HDEL', held, unit)
  else
    call('HSET', held, unit, had .. ' ' .. had_counted)
  end
  return true
end

-- Members in any order, as uid and what is kept of each.
local function members_of(channel)
  return call('HGETALL', prefix .. 'm:' .. channel)
end

-- A subscription of a user begins, or several. Gives what that did to the list: 'A' added, 'U' updated, '' nothing; nil if
-- there is no room.
local function admit(channel, uid, umd, digest, size, limit, holders, overwrite)
  local head, members = prefix .. 'c:' .. channel, prefix .. 'm:' .. channel
  local kept = call('HGET', members, uid)
  local bytes = tonumber(call('HGET', head, 'b') or 0)
  size = tonumber(size)
  if not kept then
    if limit and bytes + size > limit then
      return nil
    end
    local order = call('HINCRBY', head, 'o', 1)
    call('HINCRBY', head, 'b', size)
    call('HSET', members, uid, string.format('%08x%016x%08x', holders, order, size) .. digest .. umd)
    return 'A'
  end
  local held = tonumber(string.sub(kept, 1, 8), 16) + holders
  if not overwrite or string.sub(kept, 33, 64) == digest then
    call('HSET', members, uid, string.format('%08x', held) .. string.sub(kept, 9))
    return ''
  end
  local grows = size - tonumber(string.sub(kept, 25, 32), 16)
  if limit and bytes + grows > limit then
    return nil
  end
  call('HINCRBY', head, 'b', grows)
  call('HSET', members, uid,
    string.format('%08x', held) .. string.sub(kept, 9, 24) .. string.format('%08x', size) .. digest .. umd)
  return 'U'
end

-- A channel has subscribers from now on. Its positions begin at the clock's microseconds, so that those of an earlier life
-- of the channel can't be taken for positions of this one.
local function open_channel(channel, subscriptions, counted)
  local head = prefix .. 'c:' .. channel
  call('HSETNX', head, 'p', int(clock[1] * 1000000 + clock[2]))
  call('HINCRBY', head, 'a', subscriptions)
  return call('HINCRBY', head, 'n', counted)
end
