def worker(request):
    counter = int(Cache.get("counter") or "0") + 1
    Cache.set("counter", str(counter))
    return Response(f"Counter: {counter}")
