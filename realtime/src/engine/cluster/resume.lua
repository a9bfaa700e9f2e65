-- A node is back after its connection broke, or in another process. From now on it acts under a new name, so that whatever
-- was still on its way under the old one does nothing.
-- ARGV: 8 under which name it acted, 9 how long its lease is, 10... operations of which it does not know what came.
local results = {}
for at = 10, #ARGV do
  local kept = call('HGET', prefix .. 'q:' .. node, ARGV[at] % 1024)
  local expected = #ARGV[at] .. ':' .. ARGV[at]
  results[#results + 1] = kept and string.sub(kept, 1, #expected) == expected and kept or ''
end
local acting = call('GET', prefix .. 'i:' .. node)
-- A name is a process and a number: a resumption whose answer was lost must not bar the process that it was for.
local function process(name)
  return string.match(name, '^[^#]*')
end
if not acting then
  return {'NONODE', results}
end
if process(acting) ~= process(owner) and process(acting) ~= process(ARGV[8]) then
  return {'STALE', results}
end
call('SET', prefix .. 'i:' .. node, owner)
call('ZADD', prefix .. 'leases', int(now + ARGV[9]), node)
return {'OK', results}
