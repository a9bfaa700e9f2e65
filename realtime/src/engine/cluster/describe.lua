-- Counted subscriptions and members of a channel.
-- ARGV: 8 channel.
return {'OK', call('HGET', prefix .. 'c:' .. ARGV[8], 'n') or '0', members_of(ARGV[8])}
