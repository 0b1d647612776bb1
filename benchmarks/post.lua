-- wrk -s post.lua URL -- FOLDER: sends the encoded requests FOLDER/0.request, FOLDER/1.request, ... in turn, and prints
-- one line of JSON at the end. Times are in microseconds.

local requests, turn = {}, 0

local function read(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local content = file:read("*a")
  file:close()
  return content
end

function init(args)
  local content = read(args[1] .. "/0.request")
  while content do
    requests[#requests + 1] = content
    content = read(args[1] .. "/" .. #requests .. ".request")
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "slowest_us": %d, "bad_status": %d, "broken": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency.max,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
