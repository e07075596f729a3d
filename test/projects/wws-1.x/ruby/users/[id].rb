def worker(req)
  Response.ok("user #{req.params["id"]}")
end
