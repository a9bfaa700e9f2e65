-- A message.
-- ARGV: 8 channel, 9 event, 10 how long it is kept, 11 mark by which copies are known or '', 12 for how long, 13 the message.
local barred = barred()
if barred then
  return {barred}
end
if copy(ARGV[11], ARGV[12]) then
  local id = next_id()
  done('COPY', id)
  return {'COPY', id}
end
local id, position = publish(node, ARGV[8], ARGV[9], ARGV[10], ARGV[13])
done('OK', id)
return {'OK', id, position}
