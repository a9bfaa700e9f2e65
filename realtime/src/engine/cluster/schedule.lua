-- Something is to be done later.
-- ARGV: 8 when, 9 the message's identifier is assigned now, 10 mark by which copies are known or '', 11 for how long,
-- 12 'P' or 'W', 13... what the script of that takes.
local barred = barred()
if barred then
  return {barred}
end
local schedule = next_id()
local message = ARGV[9] == '1' and next_id() or ''
done('OK', schedule, message)
if copy(ARGV[10], ARGV[11]) then
  return {'OK', schedule, message, '', int(now)}
end
local plan = {ARGV[8], message, ARGV[12]}
for at = 13, #ARGV do
  plan[#plan + 1] = ARGV[at]
end
call('HSET', prefix .. 'zb', schedule, cmsgpack.pack(plan))
call('ZADD', prefix .. 'z', ARGV[8], schedule)
return {'OK', schedule, message, ARGV[8], int(now)}
