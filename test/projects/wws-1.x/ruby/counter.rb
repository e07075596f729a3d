def worker(req)
  counter = (Cache.get("counter") || "0").to_i + 1
  Cache.set("counter", counter.to_s)
  Response.new("Counter: #{counter}")
end
