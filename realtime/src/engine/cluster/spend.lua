-- A single-use token is spent.
-- ARGV: 8 its mark, 9 until when it is remembered.
local barred = barred()
if barred then
  return {barred}
end
local code = remembered('u:' .. ARGV[8]) and 'SPENT' or 'OK'
if code == 'OK' then
  remember('u:' .. ARGV[8], ARGV[9])
end
done(code)
return {code}
