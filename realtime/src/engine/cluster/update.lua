-- A member's metadata changes.
-- ARGV: 8 channel, 9 uid, 10 metadata, 11 its digest, 12 the member's size, 13 limit of the list, 14 mark of a single-use
-- token or '', 15 until when it is remembered.
local channel, uid, token = ARGV[8], ARGV[9], ARGV[14]
local barred = barred()
if barred then
  return {barred}
end
if token ~= '' and remembered('u:' .. token) then
  done('SPENT')
  return {'SPENT'}
end
local position = ''
local change = ''
if call('HEXISTS', prefix .. 'm:' .. channel, uid) == 1 then
  change = admit(channel, uid, ARGV[10], ARGV[11], ARGV[12], tonumber(ARGV[13]), 0, true)
  if not change then
    done('FULL')
    return {'FULL'}
  end
  if change == 'U' then
    position = announce(node, channel, 'U', uid, ARGV[10])
  end
end
if token ~= '' then
  remember('u:' .. token, ARGV[15])
end
done('OK')
return {'OK', position, change}
