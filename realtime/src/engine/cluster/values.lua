-- Entries of a channel's storage, in the order of the keys in ARGV 9..., as long as they are not too many bytes together.
-- ARGV: 8 channel.
local found, bytes, looked = {}, 0, 0
for at = 9, #ARGV do
  local value = entry(ARGV[8], ARGV[at])
  looked = looked + 1
  if value then
    found[#found + 1] = ARGV[at]
    found[#found + 1] = value
    bytes = bytes + #value
    if bytes > 1000000 then
      break
    end
  end
end
return {'OK', int(looked), found}
