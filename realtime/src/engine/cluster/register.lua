-- A new node says what it holds, a part at a time. What is held by a node that it replaces stays there until that one's
-- lease is over; so nobody leaves in between.
-- ARGV: 8 how long its lease is, 9 a node that it replaces or '', 10... for each unit: channel, of a user, uid, subscriptions,
-- counted ones, metadata, its digest, the member's size.
local format = call('GET', prefix .. 'format')
if format and format ~= '1' then
  return {'FORMAT', format}
end
call('SET', prefix .. 'format', '1')
call('SET', prefix .. 'i:' .. node, owner)
call('ZADD', prefix .. 'leases', int(now + ARGV[8]), node)
for at = 10, #ARGV, 8 do
  local channel, uid = ARGV[at], ARGV[at + 1] == '1' and ARGV[at + 2]
  local subscriptions, counted = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  open_channel(channel, subscriptions, counted)
  hold(channel, uid or nil, subscriptions, counted)
  if uid and admit(channel, uid, ARGV[at + 5], ARGV[at + 6], ARGV[at + 7], nil, subscriptions, false) == 'A' then
    announce('', channel, 'A', uid, ARGV[at + 5], '')
  end
end
if ARGV[9] ~= '' and call('ZSCORE', prefix .. 'leases', ARGV[9]) then
  call('DEL', prefix .. 'i:' .. ARGV[9])
  call('ZADD', prefix .. 'leases', 0, ARGV[9])
end
return {'OK'}
