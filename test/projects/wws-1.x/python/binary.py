def worker(request):
    return Response(bytes([0x89]) + b"PNG")
