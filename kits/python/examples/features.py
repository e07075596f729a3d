"""Every feature of a worker; kits/README.md says what each answers."""

import os

COUNT = 0


def worker(request):
    feature = request.params["feature"]
    answer = FEATURES.get(feature)
    if answer is None:
        response = Response(f"no such feature: {feature}", 404)
    else:
        response = answer(request)
    if not isinstance(response, Response):
        response = Response(response)
    response.headers.setdefault("content-type", "text/plain; charset=utf-8")
    return response


def hello(request):
    return f"Hello, {request.query['name']}!"


def variable(request):
    return os.environ["GREETING"]


def count(request):
    return str(Cache.increment("count"))


def forget(request):
    Cache.delete("count")
    return "forgotten"


def keep(request):
    if request.method == "POST":
        Cache.set("kept", request.text())
    return Cache.get("kept")


def read(request):
    with open("/data/in.txt") as file:
        return file.read()


def write(request):
    with open("/data/out.txt", "wb") as file:
        file.write(request.bytes)
    with open("/data/out.txt") as file:
        return file.read()


def echo(request):
    return Response(request.bytes, headers={"content-type": request.headers.get("content-type", "text/plain")})


def headers(request):
    lines = request.headers.get_all("x-in")
    return Response("|".join(lines), headers={"x-out": lines, "set-cookie": ["a=1", "b=2; Path=/"]})


def status(request):
    code = request.query["code"]
    return Response(code, int(code), {"x-code": code})


def outgoing(request):
    try:
        answer = fetch(request.query["url"], request.method, [("x-sent", "yes"), ("x-sent", "again")], request.bytes)
    except FetchError as error:
        return Response(str(error), 502)
    return Response(answer.bytes, answer.status, {"x-from": answer.headers.get_all("x-from")})


def fail(request):
    raise ValueError("features: failed on purpose")


def line(request):
    log("features: a líne in the log")
    return "logged"


def add(request):
    global COUNT
    COUNT += 1
    return str(COUNT)


def bytes_of_chance(request):
    return os.urandom(16).hex()


def loop(request):
    while True:
        pass


def eat(request):
    held = []
    while True:
        held.append(bytearray(1 << 20))


def recurse(request):
    return recurse(request) + "."


FEATURES = {
    "hello": hello,
    "vars": variable,
    "count": count,
    "forget": forget,
    "keep": keep,
    "read": read,
    "write": write,
    "echo": echo,
    "headers": headers,
    "status": status,
    "fetch": outgoing,
    "fail": fail,
    "log": line,
    "global": add,
    "random": bytes_of_chance,
    "loop": loop,
    "eat": eat,
    "recurse": recurse,
}
