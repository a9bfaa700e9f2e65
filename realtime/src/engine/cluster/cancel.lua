-- What is planned is taken back.
-- ARGV: 8 the identifier.
local barred = barred()
if barred then
  return {barred}
end
call('ZREM', prefix .. 'z', ARGV[8])
local code = call('HDEL', prefix .. 'zb', ARGV[8]) == 1 and 'OK' or 'NOTFOUND'
done(code)
return {code}
