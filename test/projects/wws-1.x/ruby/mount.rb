def worker(req)
  Response.new(File.read("/mnt/assets/page.txt").strip)
end
