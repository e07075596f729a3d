def worker(request):
    name = request.query.get("name", "you")
    return Response(f"Hello {name}\n")
