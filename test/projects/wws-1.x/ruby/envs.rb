def worker(req)
  Response.new(ENV["MESSAGE"])
end
