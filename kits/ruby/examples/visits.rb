# Counts its visits in the store, and says where each came from in the log.
#
# visits.toml:
#   version = "1"
#   [data.kv]
#   namespace = "visits"
def worker(req)
  visits = Cache.increment("visits")
  Wws.logger.info("visit #{visits} of #{req.headers["user-agent"] || "nobody"}")
  Response.json({ visits: })
end
