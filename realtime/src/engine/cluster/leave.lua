-- Subscriptions end: one, or several of the same user.
-- ARGV: 8 channel, 9 of a user, 10 the uid, 11 how many, 12 how many of them counted.
local channel, uid, subscriptions, counted = ARGV[8], ARGV[9] == '1' and ARGV[10], tonumber(ARGV[11]), tonumber(ARGV[12])
local barred = barred()
if barred then
  return {barred}
end
done('OK')
if not hold(channel, uid or nil, -subscriptions, -counted) then
  return {'OK', '', '', '0'}
end
local position, count, gone = remove(node, channel, uid or nil, subscriptions, counted)
return {'OK', position, gone and 'R' or '', int(count)}
