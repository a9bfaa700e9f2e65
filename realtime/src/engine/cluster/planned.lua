-- What is planned under an identifier.
-- ARGV: 8 the identifier.
local kept = call('HGET', prefix .. 'zb', ARGV[8])
if not kept then
  return {'NOTFOUND'}
end
local plan = cmsgpack.unpack(kept)
return {'OK', plan[1], plan[3], plan[#plan - 1], plan[#plan]}
