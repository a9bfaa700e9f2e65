-- Whatever is due is done, a bounded number of it. Whichever node comes first does it, and tells backends.
local happened = {}
for _, schedule in ipairs(call('ZRANGEBYSCORE', prefix .. 'z', '-inf', int(now), 'LIMIT', 0, 50)) do
  local kept = call('HGET', prefix .. 'zb', schedule)
  call('ZREM', prefix .. 'z', schedule)
  call('HDEL', prefix .. 'zb', schedule)
  if kept then
    local plan = cmsgpack.unpack(kept)
    if plan[3] == 'P' then
      local promised = plan[2] ~= '' and plan[2] or nil
      local id, position = publish(node, plan[4], plan[5], plan[6], plan[7], promised)
      happened[#happened + 1] = {'P', id, plan[7], position}
    else
      local changed, position, before, lapsed, lapsed_at, expires =
        write(node, plan[4], plan[5], plan[6], plan[7], plan[8], plan[9], plan[10])
      if not told then
        before, lapsed = '', ''
      end
      happened[#happened + 1] = {'W', plan[9], plan[10], changed, position, before, lapsed, lapsed_at, expires}
    end
  end
end
local next_due = call('ZRANGE', prefix .. 'z', 0, 0, 'WITHSCORES')
return {'OK', next_due[2] or '', happened, int(now)}
