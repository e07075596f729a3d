"""Answers by the last segment of the path: `hello`, `echo` (the body as it comes), `clock?count=5&ms=1000` (server-sent events)."""

import time
from urllib.parse import parse_qs, urlsplit

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports.streams import OutputStream, StreamError_Closed
from wit_world.imports.types import Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam

# The most that one `blocking-write-and-flush` takes.
PART = 4096


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        url = urlsplit(request.path_with_query() or "/")
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        match url.path.rsplit("/", 1)[-1]:
            case "echo":
                kind, parts = "application/octet-stream", body_of(request)
            case "clock":
                kind, parts = "text/event-stream", clock(int(query.get("count", 5)), int(query.get("ms", 1000)))
            case _:
                kind, parts = "text/plain", [b"Hello from a Python component\n"]
        response = OutgoingResponse(Fields.from_list([("content-type", kind.encode())]))
        body = response.body()
        ResponseOutparam.set(response_out, Ok(response))
        with body.write() as stream:
            for part in parts:
                write(stream, part)
        OutgoingBody.finish(body, None)


def write(stream: OutputStream, part: bytes) -> None:
    for start in range(0, len(part), PART):
        stream.blocking_write_and_flush(part[start : start + PART])


def body_of(request: IncomingRequest):
    """The parts of the body as they come."""
    with request.consume() as body, body.stream() as stream:
        while True:
            try:
                yield stream.blocking_read(64 * 1024)
            except Err as error:
                if isinstance(error.value, StreamError_Closed):
                    return
                raise


def clock(count: int, pause: int):
    """As many events, with pauses of so many milliseconds."""
    for tick in range(count):
        if tick:
            time.sleep(pause / 1000)
        yield f"id: {tick}\ndata: {time.time():.3f}\n\n".encode()
