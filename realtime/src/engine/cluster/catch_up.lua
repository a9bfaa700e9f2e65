-- What happened in channels since positions; of those that do not fit into one answer, nothing.
-- ARGV: 8... channel and position, '' if it is not known.
local answers, bytes = {}, 0
for at = 8, #ARGV, 2 do
  local channel, position = ARGV[at], ARGV[at + 1]
  local head = call('HGET', prefix .. 'c:' .. channel, 'p') or ''
  local answer
  if head == position and head ~= '' then
    answer = {'SAME', head}
  elseif head ~= '' and position ~= '' and tonumber(head) > tonumber(position) then
    local events = call('XRANGE', prefix .. 'l:' .. channel, '(' .. position .. '-1', '+', 'COUNT', 100)
    if events[1] and events[1][1] == int(position + 1) .. '-1' then
      answer = {'LOG', head}
      for _, event in ipairs(events) do
        answer[#answer + 1] = event[2][2]
        bytes = bytes + #event[2][2]
      end
    end
  end
  if not answer then
    local members = members_of(channel)
    for _, part in ipairs(members) do
      bytes = bytes + #part
    end
    answer = {'GAP', head, members}
  end
  answers[#answers + 1] = answer
  if bytes > 1000000 then
    break
  end
end
return answers
