def worker(req)
  Response.new("Hello by #{req.method}: #{req.body}", 201, { "x-made-by" => "ruby" })
end
