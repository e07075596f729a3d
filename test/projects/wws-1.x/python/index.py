def worker(request):
    response = Response(f"Hello by {request.method}: {request.body}")
    response.status_code = 201
    response.headers["x-made-by"] = "python"
    return response
