"""The peer of Python workers, for gunicorn: the same answer."""


def app(environ, start_response):
    body = b"Hello from a worker\n"
    start_response("200 OK", [("content-type", "text/plain"), ("content-length", str(len(body)))])
    return [body]
