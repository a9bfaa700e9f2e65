-- A reaction is put on a message, or taken off.
-- ARGV: 8 channel, 9 the message, 10 reaction and user in one text, 11 it is put on, 12 the reaction.
local channel, message, field, add = ARGV[8], ARGV[9], ARGV[10], ARGV[11] == '1'
local barred = barred()
if barred then
  return {barred}
end
if not stored(channel, message) then
  done('NOTFOUND')
  return {'NOTFOUND'}
end
local reactions = prefix .. 'r:' .. channel .. ' ' .. message
local kept = call('HGET', reactions, field)
done('OK')
if add == (kept and true or false) then
  return {'OK', '0'}
end
local id = next_id()
if add then
  kept = id .. ARGV[12]
  call('HSET', reactions, field, kept)
else
  call('HDEL', reactions, field)
end
local position = announce(node, channel, 'X', id, ARGV[12])
local expires = call('ZSCORE', prefix .. 'hx', channel .. ' ' .. message) or ''
return {'OK', '1', id, position, expires, kept}
