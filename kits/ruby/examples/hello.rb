# The smallest worker: `hello.rb` answers `/hello`.
def worker(req)
  Response.new("Hello #{req.query["name"] || "you"}\n", 200, { "content-type" => "text/plain" })
end
