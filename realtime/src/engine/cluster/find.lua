-- The event of a stored message, or nothing.
-- ARGV: 8 channel, 9 identifier.
local event = stored(ARGV[8], ARGV[9])
return {'OK', event and '1' or '0', event or ''}
