-- Keys of a channel's storage in ascending order.
-- ARGV: 8 channel, 9 after which one, 10 from the first one on, 11 at most.
local channel = ARGV[8]
local from = ARGV[10] == '1' and '-' or '(' .. ARGV[9]
local found = call('ZRANGEBYLEX', prefix .. 'k:' .. channel, from, '+', 'LIMIT', 0, ARGV[11])
local keys = {}
for _, key in ipairs(found) do
  if not expired('sx', channel .. ' ' .. key) then
    keys[#keys + 1] = key
  end
end
local more = #found == tonumber(ARGV[11])
return {'OK', call('HGET', prefix .. 'sv', channel) or '0', more and '1' or '0', found[#found] or '', keys}
