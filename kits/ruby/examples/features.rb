# One route for each thing that a worker can do: every kit has this example. kits/README.md lists the routes.
require "securerandom"

TYPE = { "content-type" => "text/plain; charset=utf-8" }.freeze

$calls = 0

def text(body, status = 200, headers = {}) = Response.new(body, status, TYPE.merge(headers))

def worker(req)
  case feature = req.params["feature"]
  when "hello" then text("Hello, #{req.query["name"]}!")
  when "vars" then text(ENV.fetch("GREETING"))
  when "count" then text(Cache.increment("count").to_s)
  when "forget"
    Cache.delete("count")
    text("forgotten")
  when "keep"
    Cache.set("kept", req.body) if req.method == "POST"
    text(Cache.get("kept") || "")
  when "read" then text(File.read("/data/in.txt"))
  when "write"
    File.write("/data/out.txt", req.body)
    text(File.read("/data/out.txt"))
  when "echo" then Response.new(req.body, 200, { "content-type" => req.headers["content-type"] })
  when "headers"
    lines = req.header_values("x-in")
    text(lines.join("|"), 200, "x-out" => lines, "set-cookie" => ["a=1", "b=2; Path=/"])
  when "status"
    code = req.query["code"]
    text(code, Integer(code), "x-code" => code)
  when "fetch" then forward(req)
  when "fail" then raise "features: failed on purpose"
  when "log"
    warn "features: a líne in the log"
    text("logged")
  when "global" then text(($calls += 1).to_s)
  when "random" then text(SecureRandom.hex(16))
  when "loop" then loop { nil }
  when "eat" then eat
  when "recurse" then text(recurse(0).to_s)
  else text("no such feature: #{feature}", 404)
  end
end

def forward(req)
  body = req.body.empty? ? nil : req.body
  answer = fetch(req.query["url"], method: req.method, headers: { "x-sent" => %w[yes again] }, body:)
  text(answer.body, answer.status, "x-from" => answer.header_values("x-from"))
rescue Wws::FetchError => e
  text("#{e.kind}: #{e.message}", 502)
end

def eat
  all = []
  loop { all << ("x" * 1_000_000) }
end

def recurse(depth) = recurse(depth + 1) + 1
