def worker(request):
    with open("/mnt/assets/page.txt") as page:
        return Response(page.read().strip())
