-- All reactions to a message, in any order.
-- ARGV: 8 channel, 9 the message.
if not stored(ARGV[8], ARGV[9]) then
  return {'NOTFOUND'}
end
return {'OK', call('HVALS', prefix .. 'r:' .. ARGV[8] .. ' ' .. ARGV[9])}
