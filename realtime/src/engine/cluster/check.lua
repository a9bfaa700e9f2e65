-- Has a single-use token been spent?
-- ARGV: 8 its mark.
return {remembered('u:' .. ARGV[8]) and 'SPENT' or 'OK'}
