#!/usr/bin/env python3
"""Serves the example's workers by an instrumented `wws` and sends it the requests whose counts become the profile.

    scripts/pgo-train.py PROGRAM DIRECTORY

DIRECTORY is made anew, with the project. Every kind of work has its part: workers of all languages, components, key/value stores,
streams, WebSockets, outgoing HTTP, assets, HTTP/2, compression, telemetry, logs. What is not asked for here is compiled for size.
"""
import base64
import http.client
import http.server
import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
GUESTS = ROOT / "target/guests"
# Requests of each kind at once, and how long one may take, in seconds.
CLIENTS = 4
PATIENCE = 120
KITS = {"rust": "target/guests/rust-features.wasm", "go": "target/guests/go-features.wasm", "js": "kits/js/examples/features.js",
        "python": "kits/python/examples/features.py", "ruby": "kits/ruby/examples/features.rb"}
SOURCES = {
    "hello-js.js": "export default { fetch() { return new Response('Hello from a worker\\n', { headers: { 'content-type': 'text/plain' } }) } }\n",
    "hello-python.py": "def worker(request):\n    return Response('Hello from a worker\\n', headers={'content-type': 'text/plain'})\n",
    "hello-ruby.rb": 'def worker(request)\n  Response.new("Hello from a worker\\n", 200, { "content-type" => "text/plain" })\nend\n',
    "stream.js": """export default { async fetch(request) {
  const encoder = new TextEncoder();
  let left = 8;
  return new Response(new ReadableStream({ async pull(to) {
    if (left-- === 0) return to.close();
    to.enqueue(encoder.encode(`part ${left} `.repeat(100)));
  } }), { headers: { 'content-type': 'text/plain' } });
} }
""",
}
# Features that fail on purpose by the limits of time and memory: seconds of the guest's own time.
SKIPPED = {"loop", "eat", "recurse"}


class Outside(http.server.BaseHTTPRequestHandler):
    """What the workers' outgoing requests reach, and a collector of telemetry that forgets what it gets."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path.startswith("/v1/"):
            body = b""
        self.send_response(200)
        self.send_header("x-from", "one")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_):
        pass


def project(directory):
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(ROOT / "target/images/user-generation/root", directory, symlinks=True)
    for name, text in SOURCES.items():
        (directory / name).write_text(text)
    shutil.copy(GUESTS / "hello.wasm", directory / "hello.wasm")
    components = {"component.wasm": "component-hello", "component-p3.wasm": "component-hello-p3", "echo.wasm": "component-echo"}
    for name, guest in components.items():
        if (GUESTS / f"{guest}.wasm").exists():
            shutil.copy(GUESTS / f"{guest}.wasm", directory / name)
    settings = (ROOT / "kits/features.toml").read_text()
    for kit, file in KITS.items():
        if not (ROOT / file).exists():
            continue
        (directory / kit / "_data").mkdir(parents=True)
        shutil.copy(ROOT / file, directory / kit / f"[feature]{pathlib.Path(file).suffix}")
        (directory / kit / "[feature].toml").write_text(settings.replace("LANGUAGE", kit).replace("$GREETING", "hello"))
        (directory / kit / "_data/in.txt").write_text("from the host\n")
    for name in ("room.js", "room.toml"):
        shutil.copy(ROOT / "images/chat/root" / name, directory)
    public = directory / "public"
    public.mkdir(exist_ok=True)
    (public / "index.html").write_text("<!doctype html><title>An asset</title><p>" + "text " * 400)
    (public / "small.css").write_text("body { margin: 0 }\n")
    (public / "large.bin").write_bytes(bytes(range(256)) * 4096)


class Client:
    """A connection that is kept open."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)

    def send(self, method, path, headers=(), body=None):
        connection = self.connection
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("content-length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        content = response.read()
        return response.status, dict(response.getheaders()), content


def in_parallel(port, count, send):
    """Calls `send` so many times, by several clients at once."""
    failures = []

    def run():
        try:
            client = Client(port)
            for _ in range(count // CLIENTS):
                send(client)
            client.connection.close()
        except Exception as error:  # noqa: BLE001: reported by the caller
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def get(path, headers=(), statuses=(200,)):
    def send(client):
        status, _, content = client.send("GET", path, headers)
        if status not in statuses:
            raise RuntimeError(f"{path}: status {status}: {content[:200]!r}")

    return send


def value_bytes(value):
    if isinstance(value, str):
        return value.encode()
    once = value["text"].encode() if "text" in value else bytes(value["bytes"])
    return once * value.get("times", 1)


def features(port):
    """The requests that the kits are tested with."""
    cases = json.loads((ROOT / "kits/features.json").read_text())
    for kit, file in KITS.items():
        if not (ROOT / file).exists():
            continue
        client = Client(port)
        for case in cases:
            if case["path"].split("?")[0] in SKIPPED:
                continue
            path = case["path"]
            method = case.get("method", "GET")
            body = value_bytes(case["body"]) if "body" in case else b"" if method in ("POST", "PUT") else None
            for _ in range(2 if "1 MiB" in case["feature"] else 10):
                client.send(method, f"/{kit}/{path}", case.get("headers", ()), body)


def assets(port):
    client = Client(port)
    _, headers, _ = client.send("GET", "/index.html")
    tags = {name.lower(): value for name, value in headers.items()}
    in_parallel(port, 1200, get("/"))
    in_parallel(port, 800, get("/small.css"))
    in_parallel(port, 80, get("/large.bin"))
    in_parallel(port, 200, get("/large.bin", [("range", "bytes=1000-1999")], (206,)))
    if "etag" in tags:
        in_parallel(port, 400, get("/index.html", [("if-none-match", tags["etag"])], (304,)))
    in_parallel(port, 200, get("/nothing-here", (), (404,)))


BROWSER = [("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"), ("accept", "text/html,*/*;q=0.8"),
           ("accept-language", "en-US,en;q=0.5"), ("accept-encoding", "gzip, deflate, br"), ("connection", "keep-alive"),
           ("cookie", "session=0123456789abcdef; theme=dark")]


def workers(port):
    for path, count in (("/hello", 4000), ("/hello-js", 2000), ("/hello-python", 400), ("/hello-ruby", 300), ("/component", 2000),
                        ("/component-p3", 800), ("/stream", 300), ("/rust/count", 800), ("/js/count", 800), ("/python/count", 80),
                        ("/ruby/count", 80)):
        for headers, part in (((), 2), (BROWSER, 2)):
            in_parallel(port, count // part, get(path, headers))

    def upload(client):
        for path in ("/echo", "/echo?by=splice", "/js/echo", "/rust/echo"):
            client.send("POST", path, [("content-type", "application/octet-stream")], b"0123456789abcdef" * 4096)
            client.send("POST", path, [("content-type", "application/json")], b'{"a": [1, 2, 3]}')

    in_parallel(port, 40, upload)
    # Connections that are closed after one request.
    for _ in range(200):
        client = Client(port)
        get("/hello", [("connection", "close")])(client)
        client.connection.close()


def exactly(stream, length):
    content = b""
    while len(content) < length:
        more = stream.recv(length - len(content))
        if not more:
            raise RuntimeError("the connection was closed")
        content += more
    return content


def http2(port, paths, count):
    """Requests over HTTP/2, by prior knowledge: names and values as literals that are not indexed (RFC 7541, 6.2.2)."""
    stream = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)

    def frame(kind, flags, number, content):
        stream.sendall(struct.pack(">I", len(content))[1:] + bytes((kind, flags)) + struct.pack(">I", number) + content)

    def field(name, value):
        return b"\0" + b"".join(bytes((len(text),)) + text.encode() for text in (name, value))

    stream.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    frame(4, 0, 0, b"")
    # Enough for all responses.
    frame(8, 0, 0, struct.pack(">I", 0x3FFFFFFF))
    for number in range(1, 2 * count, 2):
        path = paths[number // 2 % len(paths)]
        pairs = ((":method", "GET"), (":scheme", "http"), (":authority", "localhost"), (":path", path), ("user-agent", "train"))
        frame(1, 0x5, number, b"".join(field(*pair) for pair in pairs))
        while True:
            head = exactly(stream, 9)
            content = exactly(stream, int.from_bytes(head[:3], "big"))
            kind, flags, of = head[3], head[4], int.from_bytes(head[5:9], "big")
            if kind == 4 and not flags & 1:
                frame(4, 1, 0, b"")
            elif kind == 6 and not flags & 1:
                frame(6, 1, 0, content)
            elif kind in (3, 7):
                raise RuntimeError(f"HTTP/2: frame of type {kind}")
            if of == number and kind in (0, 1) and flags & 1:
                break
    stream.close()


def sockets(port):
    """Members of the chat."""
    for member in range(4):
        stream = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        key = base64.b64encode(bytes(16)).decode()
        stream.sendall(f"GET /room?name={member} HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
                       f"sec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += exactly(stream, 1)
        if b" 101 " not in head:
            raise RuntimeError(f"no WebSocket: {head!r}")
        for number in range(20):
            text = f"message {number}".encode()
            stream.sendall(bytes((0x81, 0x80 | len(text))) + bytes(4) + text)
            time.sleep(0.02)
        time.sleep(0.5)
        stream.sendall(bytes((0x88, 0x80)) + bytes(4))
        stream.close()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def serve(program, directory, environment, train):
    """Runs `train` while the project is served."""
    port = free_port()
    log = directory.with_suffix(".log")
    # What a log's lines are copied by is counted, too.
    with log.open("ab") as out:
        server = subprocess.Popen([program, directory, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=out,
                                  env={**os.environ, **environment})
    try:
        until = time.monotonic() + 600
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"the server does not start:\n{log.read_text()[-2000:]}") from None
                time.sleep(0.1)
        train(port)
    finally:
        server.send_signal(signal.SIGTERM)
        status = server.wait(60)
    # Without a regular end, there are no counts.
    if status != 0:
        raise RuntimeError(f"the server ended with {status}:\n{log.read_text()[-2000:]}")


def main():
    program, directory = sys.argv[1], pathlib.Path(sys.argv[2]).resolve()
    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Outside)
    outside = listener.server_address[1]
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    project(directory)

    def everything(port):
        workers(port)
        features(port)
        assets(port)
        http2(port, ["/hello", "/hello-js", "/component", "/index.html", "/stream"], 1000)
        sockets(port)

    def usual(port):
        workers(port)
        assets(port)

    # Nothing is cached for the first one: the compiler is trained, too.
    code = str(directory.with_suffix(".code"))
    shutil.rmtree(code, ignore_errors=True)
    common = {"WWS_CODE_CACHE": code, "WWS_RESOLVE": f"allowed.test=127.0.0.1:{outside}"}
    serve(program, directory, {**common, "WWS_ACCESS_LOG": "false"}, everything)
    serve(program, directory, {**common, "WWS_COMPRESSION": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{outside}",
                               "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1",
                               "OTEL_METRIC_EXPORT_INTERVAL": "1000"}, usual)
    listener.shutdown()


main()
