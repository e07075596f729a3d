def worker(req):
    return Response("user " + req.params["id"])
