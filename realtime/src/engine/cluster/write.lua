-- A write to storage.
-- ARGV: 8 channel, 9 key, 10 how long it is kept, 11 mark by which copies are known or '', 12 for how long, 13 digest of the
-- value or '' to clear, 14 whether backends are told, 15 the value, 16 the rest of the write.
local barred = barred()
if barred then
  return {barred}
end
if copy(ARGV[11], ARGV[12]) then
  done('COPY')
  return {'COPY'}
end
local changed, position, before, lapsed, lapsed_at, expires =
  write(node, ARGV[8], ARGV[9], ARGV[10], ARGV[13], ARGV[14], ARGV[15], ARGV[16])
done('OK')
if not told then
  before, lapsed = '', ''
end
return {'OK', changed, position, before, lapsed, lapsed_at, expires}
