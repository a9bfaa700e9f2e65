-- Stored messages of a channel in order, as long as they are not too many bytes together.
-- ARGV: 8 channel, 9 lower bound of the identifiers, 10 upper bound, 11 newest first, 12 only of this event or '', 13 at most.
local channel, reverse, event, most = ARGV[8], ARGV[11] == '1', ARGV[12], tonumber(ARGV[13])
local low, high = ARGV[9], ARGV[10]
local found, bytes, looked, cursor, more = {}, 0, 0, '', true
while more and looked < 2000 and #found < most and bytes < 1200000 do
  local ids
  if reverse then
    ids = call('ZREVRANGEBYLEX', prefix .. 'h:' .. channel, high, low, 'LIMIT', 0, 100)
  else
    ids = call('ZRANGEBYLEX', prefix .. 'h:' .. channel, low, high, 'LIMIT', 0, 100)
  end
  more = #ids == 100
  for at, id in ipairs(ids) do
    looked = looked + 1
    cursor = id
    local of, body = stored(channel, id)
    if of and (event == '' or event == of) then
      found[#found + 1] = {id, body, call('HVALS', prefix .. 'r:' .. channel .. ' ' .. id)}
      bytes = bytes + #body
      if #found == most or bytes >= 1200000 then
        more = more or at < #ids
        break
      end
    end
  end
  if reverse then
    high = '(' .. cursor
  else
    low = '(' .. cursor
  end
end
return {'OK', more and cursor or '', found}
