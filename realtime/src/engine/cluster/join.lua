-- A subscription begins.
-- ARGV: 8 channel, 9 connection, 10 counted, 11 with a member, 12 its uid, 13 its metadata, 14 the metadata's digest,
-- 15 the member's size, 16 limit of the list, 17 the list is wanted, 18 what is observed: '' nothing, 'all' everything if it
-- is little, else the version of the set of keys of which those in 22... are observed, 19 mark of a single-use token or '',
-- 20 until when it is remembered, 21 most bytes of what is observed.
local channel, connection, counted, uid = ARGV[8], ARGV[9], tonumber(ARGV[10]), ARGV[11] == '1' and ARGV[12]
local observe, token = ARGV[18], ARGV[19]
local barred = barred()
if barred then
  return {barred}
end

local head = prefix .. 'c:' .. channel
local known = call('EXISTS', head) == 1
local listed = ARGV[17] == '1' or not known

local function answer(code, change, count, observed)
  return {
    code,
    call('HGET', head, 'p') or '',
    change,
    int(count),
    listed and uid and members_of(channel) or {},
    observed,
    listed and '1' or '0',
  }
end

if token ~= '' and remembered('u:' .. token) then
  done('SPENT')
  return answer('SPENT', '', 0, {})
end

local observed, bytes = {}, 0
local function observe_key(key)
  local value = entry(channel, key)
  if value then
    observed[#observed + 1] = key
    observed[#observed + 1] = value
    -- As pages of storage are counted: the names of the members at once, the rest as it is.
    bytes = bytes + 60 + #key + tonumber(string.sub(value, 1, 8), 16)
  end
end
if observe == 'all' then
  if call('ZCARD', prefix .. 'k:' .. channel) > 100 then
    return answer('KEYS', '', 0, {})
  end
  for _, key in ipairs(call('ZRANGE', prefix .. 'k:' .. channel, 0, -1)) do
    observe_key(key)
  end
  if bytes > 500000 then
    return answer('KEYS', '', 0, {})
  end
elseif observe ~= '' then
  if (call('HGET', prefix .. 'sv', channel) or '0') ~= observe then
    return answer('KEYS', '', 0, {})
  end
  for at = 22, #ARGV do
    observe_key(ARGV[at])
    if bytes > tonumber(ARGV[21]) then
      done('TOOMUCH')
      return answer('TOOMUCH', '', 0, {})
    end
  end
end

local change = ''
if uid then
  change = admit(channel, uid, ARGV[13], ARGV[14], ARGV[15], tonumber(ARGV[16]), 1, true)
  if not change then
    done('FULL')
    return answer('FULL', '', 0, {})
  end
end
hold(channel, uid, 1, counted)
local count = open_channel(channel, 1, counted)
if token ~= '' then
  remember('u:' .. token, ARGV[20])
end
if change == 'A' then
  announce(node, channel, 'A', uid, ARGV[13], connection)
elseif change == 'U' then
  announce(node, channel, 'U', uid, ARGV[13])
end
done('OK')
return answer('OK', change, count, observed)
