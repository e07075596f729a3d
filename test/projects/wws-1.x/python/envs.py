import os

def worker(request):
    return Response(os.getenv("MESSAGE"))
