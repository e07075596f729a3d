def worker(req)
  Response.new("Hello #{req.query["name"] || "you"}\n")
end
