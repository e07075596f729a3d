"""What Python workers are written with: `import wws`, or use the names as they are, which every worker has.

    def worker(request):
        return Response("Hello, " + request.query.get("name", "you") + "!")

A worker is loaded once, when the server starts: its imports and its module's body run then. Every request begins in a copy of the state
that this left, and what it changes is gone when it has been answered.
"""

from __future__ import annotations

# Only what the interpreter has loaded anyway: `json`, `typing` or `traceback` take longer than all the rest of a start. They are loaded
# where a worker's own text asks for them.
import gc
import io
import os
import sys
import time
import types
from _collections_abc import Iterable, Mapping
from _frozen_importlib import ModuleSpec, spec_from_loader
from _frozen_importlib_external import PathFinder
from _json import encode_basestring, make_encoder, make_scanner
from _weakrefset import WeakSet

TYPE_CHECKING = False
if TYPE_CHECKING:  # For editors: `typing` takes longer to load than all the rest.
    import logging
    import random
    from typing import Any, Optional, Sequence, Union

    Body = Union[str, bytes, bytearray, memoryview, Iterable[Union[str, bytes]], None]

__all__ = ["Request", "Response", "WebSocket", "Headers", "Cache", "fetch", "FetchResponse", "FetchError", "StoreError", "log"]


# -- The conversation with the host: a line of JSON, and the bytes that its "body" says. ---------------------------------------

_pread, _pwrite = os.pread, os.pwrite


class _Json:
    """What the interpreter's own scanner wants to know."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int, parse_constant = float, int, float


_scan = make_scanner(_Json)
_chunks = make_encoder(None, None, encode_basestring, None, ":", ",", False, False, True)


def _encode(value: dict) -> str:
    return "".join(_chunks(value, 0))


def _tell(message: dict, body: bytes = b"") -> None:
    if body:
        message["body"] = len(body)
    # What is no Unicode (half of a surrogate pair) cannot be sent.
    data = _encode(message).encode("utf-8", "replace") + b"\n" + body
    done = _pwrite(1, data, 0)
    while done < len(data):
        data = memoryview(data)[done:]
        done = _pwrite(1, data, 0)


def _ask(message: dict, body: bytes = b"", first: int = 4096) -> tuple[dict, bytes]:
    _tell(message, body)
    data = _pread(0, first, 0)
    end = data.find(b"\n")
    while end < 0:
        more = _pread(0, 1 << 16, 0)
        if not more:
            raise RuntimeError("the host gave no answer")
        data += more
        end = data.find(b"\n")
    line, _ = _scan(data[:end].decode(), 0)
    missing = line.get("body", 0) - (len(data) - end - 1)
    if missing <= 0:
        return line, data[end + 1 :]
    parts = [data[end + 1 :]]
    while missing > 0:
        more = _pread(0, missing, 0)
        if not more:
            raise RuntimeError("the host's answer broke off")
        parts.append(more)
        missing -= len(more)
    return line, b"".join(parts)


def _process_time_ns() -> int:
    """CPU time. The interpreter's own function counts time that passes, and takes nanoseconds for hundredths of a second."""
    return _ask({"op": "cpu_time"})[0]["ns"]


time.process_time_ns = _process_time_ns
time.process_time = lambda: _process_time_ns() / 1e9


# -- Requests and responses ----------------------------------------------------------------------------------------------------


class Headers(dict):
    """Header values by name, where upper and lower case are the same. A name that came in several lines has one value, joined by `, `."""

    def __init__(self, lines: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__()
        self._lines = [(name.lower(), value) for name, value in lines]
        has, get, put = super().__contains__, super().__getitem__, super().__setitem__
        for name, value in self._lines:
            put(name, get(name) + ("; " if name == "cookie" else ", ") + value if has(name) else value)

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name.lower() if isinstance(name, str) else name)

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name.lower(), value)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name.lower())

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)

    def pop(self, name: str, *default: Any) -> Any:
        return super().pop(name.lower(), *default)

    def get_all(self, name: str) -> list[str]:
        """The values of all lines of that name."""
        name = name.lower()
        return [value for key, value in self._lines if key == name]

    def _pairs(self) -> list[tuple[str, str]]:
        """All lines; of a name that was set anew the new value."""
        pairs = []
        came = Headers(self._lines)
        for name, value in self.items():
            same = dict.get(came, name) == value
            pairs.extend((name, line) for line in (self.get_all(name) if same else [value]))
        return pairs


# Most chunks of a body fit into this, in bytes.
_CHUNK = 1 << 17


class _Body:
    """The body of a request, or of an answer to `fetch`: there as a whole, or read as it comes."""

    __slots__ = ("_whole", "_number", "_failed", "_is_read", "_error")

    def __init__(self, whole: Optional[bytes], number: int = 0, failed: Any = None) -> None:
        self._whole = whole
        self._number = number
        self._failed = failed
        self._is_read = False
        self._error: Optional[BaseException] = None

    def whole(self) -> bytes:
        if self._whole is None:
            if self._is_read and self._error is None:
                raise RuntimeError("the body was read in chunks, or closed: it is not kept")
            self._is_read = True
            self._whole = self._read("read_all")
        return self._whole

    def chunk(self) -> bytes:
        """The next chunk of a body that is not there as a whole. Empty at its end."""
        self._is_read = True
        return self._read("read")

    def close(self) -> None:
        """No more of it is wanted."""
        if self._whole is None:
            self._is_read = True
            _tell({"op": "close", "id": self._number})

    def _read(self, op: str) -> bytes:
        if self._error is None:
            line, data = _ask({"op": op, "id": self._number}, first=_CHUNK)
            error = line.get("error")
            if not error:
                return data
            self._error = self._failed(error["kind"], error["message"])
        raise self._error


class _Chunks:
    """The chunks of a body as bytes, for `for` and `async for`."""

    def __init__(self, body: _Body) -> None:
        self._body = body
        self._whole = body._whole

    def _next(self) -> bytes:
        if self._whole is None:
            return self._body.chunk()
        whole, self._whole = self._whole, b""
        return whole

    def __iter__(self) -> _Chunks:
        return self

    def __next__(self) -> bytes:
        chunk = self._next()
        if not chunk:
            raise StopIteration
        return chunk

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> bytes:
        import asyncio

        # Other tasks have a turn before this one waits.
        await asyncio.sleep(0)
        chunk = self._next()
        if not chunk:
            raise StopAsyncIteration
        return chunk


def _text_or_bytes(data: bytes) -> Union[str, bytes]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


class _Received:
    """What came with a body: a request, or what another server answered."""

    _body: _Body

    @property
    def body(self) -> Union[str, bytes]:
        """The body as text, or as bytes if it is not UTF-8."""
        return _text_or_bytes(self._body.whole())

    @property
    def bytes(self) -> bytes:
        """The body, byte for byte."""
        return self._body.whole()

    def text(self) -> str:
        """The body as text; bytes that are not UTF-8 become U+FFFD."""
        return self._body.whole().decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON. Raises ValueError if it is none."""
        import json

        return json.loads(self._body.whole())


class Request(_Received):
    """A request that a worker answers."""

    method: str
    url: str
    headers: Headers
    params: dict[str, str]
    """The parameters of the route: of `[id].py` the key `id`."""

    def __init__(self, method: str, url: str, headers: Any = (), body: Union[str, bytes, _Body] = b"", params: Optional[dict] = None) -> None:
        self.method = method
        self.url = url
        self.headers = Headers(headers.items() if isinstance(headers, Mapping) else headers)
        self.params = params or {}
        self._body = body if type(body) is _Body else _Body(body.encode() if isinstance(body, str) else body)

    @classmethod
    def _received(cls, line: dict, body: Union[bytes, _Body]) -> Request:
        """The request that is answered. Its headers are made when somebody asks for them."""
        request = cls.__new__(cls)
        request.method = line["method"]
        request.url = line["url"]
        request._lines = line["headers"]
        request.params = line["params"]
        request._body = body if type(body) is _Body else _Body(body)
        return request

    def __getattr__(self, name: str) -> Any:
        if name != "headers" or "_lines" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        self.headers = Headers(self.__dict__.pop("_lines"))
        return self.headers

    def stream(self) -> _Chunks:
        """The body in chunks of bytes as they come, for `for` or `async for`. What was read so is not kept: there is no `body` then."""
        return _Chunks(self._body)

    @property
    def path(self) -> str:
        """The path of the URL, as it was sent."""
        import urllib.parse

        return urllib.parse.urlsplit(self.url).path

    @property
    def query(self) -> dict[str, str]:
        """The URL's query, the last value of each name."""
        return dict(self.query_list)

    @property
    def query_list(self) -> list[tuple[str, str]]:
        """The URL's query, in order."""
        import urllib.parse

        return urllib.parse.parse_qsl(urllib.parse.urlsplit(self.url).query, keep_blank_values=True)

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.url}>"


class Response:
    """What a worker answers. `body` is text, bytes, or parts of either (a generator, say). `headers` is a dictionary or pairs; a header's
    value may be a list: a line for each. One that is None is left out."""

    def __init__(self, body: Body = "", status_code: int = 200, headers: Any = None, *, status: Optional[int] = None) -> None:
        self.body = body
        self.status_code = status_code if status is None else status
        self.headers = {} if headers is None else _header_dict(headers)

    @property
    def status(self) -> int:
        return self.status_code

    @status.setter
    def status(self, status: int) -> None:
        self.status_code = status

    @classmethod
    def json(cls, value: Any, status: int = 200, headers: Any = None) -> Response:
        """A response with the value as JSON."""
        import json

        headers = _header_dict(headers or {})
        if all(name.lower() != "content-type" for name in headers):
            headers["content-type"] = "application/json"
        return cls(json.dumps(value), status, headers)

    @classmethod
    def redirect(cls, url: str, status: int = 302) -> Response:
        """A response that leads elsewhere."""
        return cls("", status, {"location": url})

    def __repr__(self) -> str:
        return f"<Response {self.status_code}>"


class WebSocket:
    """Accepts the WebSocket that the client asks for: `return WebSocket(handler)`, where `handler(socket)` runs as long as the socket is
    open. When it returns, the socket is closed with the code 1000; when it raises, with 1011.

        def worker(request):
            return WebSocket(chat)

        def chat(socket):
            for message in socket:  # a str or bytes; ends when the client closes
                socket.send(message)
    """

    def __init__(self, handler: Any, protocol: Optional[str] = None, headers: Optional[Any] = None) -> None:
        if not callable(handler):
            raise TypeError(f"the handler of a WebSocket is a function, not {type(handler).__name__}")
        self._handler = handler
        self._headers = _header_lines(headers or {})
        if protocol is not None:
            self._headers.append(("sec-websocket-protocol", protocol))


class _Socket:
    """The socket that a handler gets."""

    def __init__(self, headers: list) -> None:
        # How the socket was closed, once it is.
        self.close_code: Optional[int] = None
        self.close_reason = ""
        self.was_clean = False
        self._is_closing = not self._say({"op": "socket_accept", "headers": headers})

    @property
    def is_open(self) -> bool:
        """Whether messages can still come."""
        return self.close_code is None

    def send(self, message: Union[str, bytes]) -> None:
        """Sends a text or bytes, and waits while the client does not read. To a client that is gone, nothing is sent."""
        if isinstance(message, str):
            kind, data = "text", message.encode("utf-8")
        elif isinstance(message, (bytes, bytearray, memoryview)):
            kind, data = "binary", bytes(message)
        else:
            raise TypeError(f"a message is a str or bytes, not {type(message).__name__}")
        if not self._is_closing and not self._say({"op": "socket_send", "name": kind}, data):
            self._is_closing = True

    def receive(self, timeout: Optional[float] = None) -> Optional[Union[str, bytes]]:
        """The next message: a str or bytes. None if the socket is closed (`is_open` is False then), or after so many seconds."""
        if self.close_code is not None:
            return None
        limit = -1 if timeout is None else max(0, int(timeout * 1000))
        line, data = _ask({"op": "socket_receive", "timeout": limit})
        if "error" in line:
            raise OSError(line["error"]["message"])
        kind = line["kind"]
        if kind == "text":
            return data.decode("utf-8")
        if kind == "binary":
            return data
        if kind == "close":
            self.close_code, self.close_reason, self.was_clean = line["code"], line["reason"], line["clean"]
            self._is_closing = True
        return None

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Closes the socket. Messages that come from then on are dropped."""
        if not self._is_closing:
            self._say({"op": "socket_close", "status": code, "message": reason})
            self._is_closing = True

    def __iter__(self) -> Any:
        while True:
            message = self.receive()
            if message is None:
                return
            yield message

    def _say(self, message: dict, data: bytes = b"") -> bool:
        line, _ = _ask(message, data)
        if "error" in line:
            error = line["error"]
            raise (ValueError if error["kind"] == "invalid" else OSError)(error["message"])
        return line["open"]


def _to_bytes(body: Body, what: str) -> bytes:
    if isinstance(body, str):
        return body.encode("utf-8", "replace")
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    if body is None:
        return b""
    if isinstance(body, Iterable) and not isinstance(body, Mapping):
        return b"".join(_to_bytes(part, "a part of " + what) for part in body)
    raise TypeError(f"{what} is text, bytes or parts of either, not {type(body).__name__}; for JSON there is Response.json(value)")


def _header_pairs(headers: Any) -> Iterable[tuple[str, Any]]:
    if type(headers) is dict:
        return headers.items()
    if isinstance(headers, Headers):
        return headers._pairs()
    # Not every class with names and values (wsgiref's, say) is a Mapping.
    return headers.items() if hasattr(headers, "items") else headers


def _header_dict(headers: Any) -> dict:
    """Headers by name: a list where several lines have that name."""
    if type(headers) is dict:
        return dict(headers)
    named: dict = {}
    names: dict = {}
    for pair in _header_pairs(headers):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"headers are a dictionary or pairs of name and value, not {pair!r}")
        name, value = pair
        name = names.setdefault(str(name).lower(), str(name))
        if name not in named:
            named[name] = value
        else:
            before = named[name]
            named[name] = [*(before if isinstance(before, list) else [before]), *(value if isinstance(value, (list, tuple)) else [value])]
    return named


def _header_lines(headers: Any) -> list[tuple[str, str]]:
    lines = []
    for name, values in _header_pairs(headers):
        if type(values) is str:
            lines.append((str(name), values))
            continue
        for value in values if isinstance(values, (list, tuple)) else [values]:
            if value is not None:
                lines.append((str(name), value if isinstance(value, str) else str(value)))
    return lines


# -- The key/value store -------------------------------------------------------------------------------------------------------


class StoreError(Exception):
    """The key/value store did not do what it was asked."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def _store(message: dict) -> dict:
    line, _ = _ask(message)
    error = line.get("error")
    if error:
        raise StoreError(error["kind"], error["message"])
    return line


def _text_of(value: Any) -> str:
    return value.decode() if isinstance(value, (bytes, bytearray)) else str(value)


def _ttl(ttl: Optional[float]) -> dict:
    if ttl is None:
        return {}
    if not ttl > 0:
        raise ValueError("the time to live must be a number of seconds above 0")
    return {"ttl": float(ttl)}


class Cache:
    """The worker's key/value store: `[data.kv]` in its TOML. Keys and values are text. What a request sets is stored when it has been answered."""

    @staticmethod
    def get(key: str) -> Optional[str]:
        """The value of a key, or None."""
        try:
            return _store({"op": "kv_get", "key": str(key)})["value"]
        except StoreError as error:
            # Without a store nothing is there, as it always was.
            if error.kind == "no-store":
                return None
            # Nor where the worker is loaded.
            if error.kind == "loading":
                log(f"Cache.get({key!r}) is None where the worker is loaded: ask in worker()", level="warn")
                return None
            raise

    @staticmethod
    def set(key: str, value: Any, ttl: Optional[float] = None) -> None:
        """Sets the value of a key, for `ttl` seconds if they are given. What is no text is stored as `str(value)`."""
        _store({"op": "kv_set", "key": str(key), "value": _text_of(value), **_ttl(ttl)})

    @staticmethod
    def delete(key: str) -> None:
        """Removes a key. One that is not there is no error."""
        _store({"op": "kv_delete", "key": str(key)})

    @staticmethod
    def increment(key: str, by: int = 1) -> int:
        """Adds to a number at once, also among requests that run at the same time. Returns the sum."""
        return _store({"op": "kv_increment", "key": str(key), "by": int(by)})["value"]

    @staticmethod
    def compare_and_set(key: str, expected: Optional[str], value: Any, ttl: Optional[float] = None) -> bool:
        """Sets a key at once if its value is `expected`, or if there is no such key and `expected` is None. Returns whether it was."""
        known = None if expected is None else _text_of(expected)
        return _store({"op": "kv_compare_and_set", "key": str(key), "expected": known, "value": _text_of(value), **_ttl(ttl)})["value"]

    @staticmethod
    def list(prefix: str = "", after: Optional[str] = None, limit: int = 1000) -> Sequence[str]:
        """The keys with a prefix in the order of their bytes, after the key `after`: at most `limit`. None is the end."""
        if limit < 1:
            raise ValueError("the limit must be 1 or more")
        start = None if after is None else str(after)
        return _store({"op": "kv_list", "prefix": str(prefix), "after": start, "limit": min(int(limit), 1000)})["keys"]


# -- Outgoing requests -----------------------------------------------------------------------------------------------------------


class FetchError(OSError):
    """A request that was not sent or not answered. `kind` is `not-allowed`, `timeout`, `invalid-request`, `internal-error`, ..."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = message


class FetchResponse(_Received):
    """What another server answered."""

    def __init__(self, status: int, url: str, headers: Headers, body: Union[bytes, _Body], redirected: bool = False) -> None:
        self.status = self.status_code = status
        self.url = url
        self.redirected = redirected
        self.headers = headers
        self._body = body if type(body) is _Body else _Body(body)

    @property
    def ok(self) -> bool:
        """The status is from 200 to 299."""
        return 200 <= self.status < 300

    def iter_bytes(self) -> _Chunks:
        """The body in chunks of bytes as they come, for `for` or `async for`. What was read so is not kept."""
        return _Chunks(self._body)

    def close(self) -> None:
        """Ends the connection if the body was not read to its end."""
        self._body.close()


def _dumps(value: Any) -> str:
    import json

    return json.dumps(value)


def fetch(url: str, method: str = "GET", headers: Optional[Any] = None, body: Body = None, json: Any = None) -> FetchResponse:
    """Sends a request to another server: `[features.http_requests]` in the worker's TOML says which. Raises FetchError."""
    lines = _header_lines(headers or {})
    if json is not None:
        body = _dumps(json)
        if all(name.lower() != "content-type" for name, _ in lines):
            lines.append(("content-type", "application/json"))
    line, answer = _ask({"op": "http", "method": method.upper(), "url": url, "headers": lines}, _to_bytes(body, "the body"))
    error = line.get("error")
    if error:
        raise FetchError(error["kind"], error["message"])
    content = _Body(None, line["stream"], FetchError) if "stream" in line else answer
    return FetchResponse(line["status"], line.get("url") or url, Headers(line["headers"]), content, line.get("redirected", False))


# -- The log -----------------------------------------------------------------------------------------------------------------------


def log(*values: Any, level: str = "info") -> None:
    """Writes a line to the log; `level` is `error`, `warn`, `info` or `debug`."""
    text = " ".join(map(str, values)).encode("utf-8", "replace")
    _tell({"op": "log", "level": level}, text or b" ")


class _Stream(io.TextIOBase):
    """Standard output or error: its lines go to the log."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = ""

    def fileno(self) -> int:
        return self._descriptor

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            log(line)
        return len(text)

    def end(self) -> None:
        if self._rest:
            rest, self._rest = self._rest, ""
            log(rest)


class _Then:
    """Loads a module of the library, and does something to it."""

    def __init__(self, loader: Any, then: Any) -> None:
        self._loader = loader
        self._then = then

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        self._loader.exec_module(module)
        self._then(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def _with_logging(module: Any) -> None:
    """Records go to the log with their levels."""

    class Handler(module.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                number = record.levelno
                log(self.format(record), level="error" if number >= 40 else "warn" if number >= 30 else "info" if number >= 20 else "debug")
            except Exception:
                self.handleError(record)

    module.getLogger().addHandler(Handler())
    module.getLogger().setLevel(module.INFO)


# -- Files of the project that a worker imports --------------------------------------------------------------------------------


class _Finder:
    """Finds modules beside the worker, and beneath the project's root."""

    def __init__(self, directory: str) -> None:
        self._directories = [directory, ""] if directory else [""]

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        then = _THEN.get(name)
        if then:
            spec = PathFinder.find_spec(name, path)
            if spec:
                spec.loader = _Then(spec.loader, then)
            return spec
        for base in self._bases(name, path):
            for file, is_package in ((f"{base}/__init__.py", True), (f"{base}.py", False)):
                line, source = _ask({"op": "source", "name": file})
                if "error" not in line:
                    loader = _Loader(file, source)
                    spec = spec_from_loader(name, loader, origin=file, is_package=is_package)
                    if spec and is_package:
                        spec.submodule_search_locations = ["wws:" + base]
                    return spec
        return None

    def _bases(self, name: str, path: Any) -> list[str]:
        """Where the module may lie, without an extension."""
        last = name.rpartition(".")[2]
        directories = self._directories if path is None else [item[4:] for item in path if isinstance(item, str) and item.startswith("wws:")]
        return [f"{directory}/{last}" if directory else last for directory in directories]


class _LastFinder:
    """Asked when all others found nothing: has modules that CPython for WASI lacks, and directories without an `__init__.py` (PEP 420)."""

    def __init__(self, finder: _Finder) -> None:
        self._finder = finder

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] in _STAND_INS:
            line, source = _ask({"op": "library", "name": name})
            if "error" not in line:
                return spec_from_loader(name, _Loader(f"<wws {name}>", source), origin="wws", is_package=name in ("ctypes", "multiprocessing"))
        found = [base for base in self._finder._bases(name, path) if _ask({"op": "directory", "name": base})[0].get("found")]
        if not found:
            return None
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = ["wws:" + base for base in found]
        return spec


_STAND_INS = ("ssl", "ctypes", "multiprocessing", "concurrent")


class _Loader:
    def __init__(self, file: str, source: bytes) -> None:
        self._file = file
        self._source = source

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: Any) -> None:
        module.__file__ = self._file
        exec(_compiled(self._source, self._file), module.__dict__)


# Lines of the project's files, for tracebacks.
_lines: dict[str, list[str]] = {}

# What a text that has one of these words will want: loaded now, it costs no request anything.
_WANTED = ((b"json", "json"), (b"query", "urllib.parse"), (b".path", "urllib.parse"), (b"async def", "asyncio"))


def _compiled(source: bytes, file: str) -> Any:
    _lines[file] = source.decode("utf-8", "replace").splitlines()
    for word, module in _WANTED:
        if word in source:
            __import__(module)
    return compile(source, file, "exec", dont_inherit=True)


# -- Failures ------------------------------------------------------------------------------------------------------------------

# Frames of a traceback, at either end.
_FRAMES = 20


def _own(filename: str) -> bool:
    return filename.startswith(("<wws", "<frozen ")) or filename == "<string>"


def _frames(error: BaseException) -> list:
    """File, line, column and function of each frame, the kit's own left out."""
    frames = []
    at = error.__traceback__
    while at is not None:
        code = at.tb_frame.f_code
        if not _own(code.co_filename):
            column = 0
            for index, position in enumerate(code.co_positions()):
                if index * 2 == at.tb_lasti:
                    column = position[2] or 0
                    break
            frames.append((code.co_filename, at.tb_lineno or 1, column + 1, code.co_qualname))
        at = at.tb_next
    return frames


def _what(error: BaseException) -> str:
    name = type(error).__qualname__
    if type(error).__module__ not in ("builtins", "worker"):
        name = f"{type(error).__module__}.{name}"
    try:
        text = error.msg if isinstance(error, SyntaxError) else str(error)
    except Exception:
        text = "its text cannot be had"
    return f"{name}: {text}" if text else name


def _traceback(error: BaseException, seen: set) -> str:
    """As `traceback` writes it."""
    seen.add(id(error))
    text = ""
    before, why = error.__cause__, "The above exception was the direct cause of the following exception:"
    if before is None and not error.__suppress_context__:
        before, why = error.__context__, "During handling of the above exception, another exception occurred:"
    if before is not None and id(before) not in seen and len(seen) < _FRAMES:
        text = f"{_traceback(before, seen)}\n{why}\n\n"
    frames = _frames(error)
    if frames:
        text += "Traceback (most recent call last):\n"
    for index, (file, line, _, function) in enumerate(frames):
        if _FRAMES <= index < len(frames) - _FRAMES:
            if index == _FRAMES:
                text += f"  ({len(frames) - 2 * _FRAMES} more frames)\n"
            continue
        text += f'  File "{file}", line {line}, in {function}\n{_line(file, line)}'
    if isinstance(error, SyntaxError) and error.filename:
        text += f'  File "{error.filename}", line {error.lineno}\n{_line(error.filename, error.lineno or 1)}'
    text += _what(error) + "\n"
    for note in getattr(error, "__notes__", ()):
        text += f"{note}\n"
    return text


def _line(file: str, line: int) -> str:
    lines = _lines.get(file, ())
    return f"    {lines[line - 1].strip()}\n" if 0 < line <= len(lines) else ""


def _described(error: BaseException) -> tuple[dict, str]:
    """An error as one line with its place, and its traceback."""
    place = {}
    frames = _frames(error)
    if isinstance(error, SyntaxError) and error.filename and not _own(error.filename):
        place = {"file": error.filename, "line": error.lineno or 1, "column": max(error.offset or 1, 1)}
    elif frames:
        # The user's line rather than that of a library which it called.
        of_project = [frame for frame in frames if frame[0] in _lines]
        file, line, column, _ = of_project[-1] if of_project else frames[-1]
        place = {"file": file, "line": max(line or 1, 1), "column": max(column or 1, 1)}
    what = _what(error).splitlines()
    message = what[0] if what else ""
    # A load problem is this one line.
    if _worker is None and frames and frames[-1][0] not in _lines:
        message += f", raised at {frames[-1][0]}:{frames[-1][1]}"
    return {"op": "fail", "message": message, **place}, _traceback(error, set())


def _fail(error: BaseException) -> None:
    try:
        line, text = _described(error)
    except BaseException as second:
        text = f"{type(error).__name__}, and describing it: {type(second).__name__}"
        line = {"op": "fail", "message": text}
    _tell(line, text.encode("utf-8", "replace"))


# -- Randomness: requests begin in the same state, so what that state draws would be the same in each ---------------------------

_generators: WeakSet = WeakSet()
_urandom = os.urandom
_seed: Any = None


def _with_random(module: Any) -> None:
    """Generators without a seed of their own get another one in each request."""
    global _seed
    _seed = module.Random.seed
    module.Random.seed = _remember_seed
    _generators.add(module._inst)


def _remember_seed(self: random.Random, a: Any = None, version: int = 2) -> None:
    if a is None:
        _generators.add(self)
    else:
        _generators.discard(self)
    _seed(self, a, version)


def _no_urandom(size: int) -> bytes:
    raise RuntimeError(
        "random bytes are drawn where the worker is loaded: every request would have the same; draw them (or import the module that does)"
        " in worker(), or allow it in the worker's TOML: [vars] WWS_RANDOM_AT_LOAD = \"allow\""
    )


# -- Modules of the library that need the server's help ------------------------------------------------------------------------


def _library(name: str, into: dict) -> None:
    line, source = _ask({"op": "library", "name": name})
    if "error" in line:
        raise ImportError(line["error"]["message"])
    exec(compile(source, f"<wws {name}>", "exec", dont_inherit=True), into)


def _with_asyncio(module: Any) -> None:
    """A loop without sockets."""
    global _run_awaitable
    names = {"__name__": "wws.asyncio_loop"}
    _library("asyncio_loop", names)
    _run_awaitable = names["run"]


_run_awaitable: Any = None


def _with_hashlib(module: Any) -> None:
    names = {"_ask": _ask, "__name__": "hashlib"}
    _library("hashlib_more", names)
    for name in ("pbkdf2_hmac", "scrypt"):
        if not hasattr(module, name):
            setattr(module, name, names[name])


_NO_SOCKETS = "a worker has no sockets: use fetch(), and [features.http_requests] in the worker's TOML"


def _with_socket(module: Any) -> None:
    """Names are not looked up, and connections are not made."""
    lookup_error = getattr(module, "gaierror", OSError)

    def no_lookup(*args: Any, **options: Any) -> Any:
        raise lookup_error(-4, _NO_SOCKETS)

    for name in ("getaddrinfo", "getnameinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "create_connection", "create_server"):
        setattr(module, name, no_lookup)

    def no_socket(*args: Any, **options: Any) -> Any:
        raise OSError(58, _NO_SOCKETS)

    module.socketpair = no_socket
    if hasattr(module, "socket"):
        module.socket.__init__ = no_socket


def _with_tempfile(module: Any) -> None:
    """Without a directory for temporary files, those without a name are in memory, and others cannot be made."""
    find = module._get_default_tempdir
    file = module.TemporaryFile

    def find_or_say(*args: Any) -> Any:
        try:
            return find(*args)
        except FileNotFoundError:
            raise FileNotFoundError(
                2, "a worker has no directory for temporary files unless its TOML gives one: [[folders]] from = \"./tmp\", to = \"/tmp\""
            ) from None

    def file_or_memory(mode: str = "w+b", buffering: int = -1, encoding: Any = None, newline: Any = None, suffix: Any = None, prefix: Any = None,
                       dir: Any = None, *, errors: Any = None) -> Any:
        try:
            if dir is None:
                module.gettempdir()
        except FileNotFoundError:
            memory = io.BytesIO()
            return memory if "b" in mode else io.TextIOWrapper(memory, encoding, errors, newline)
        return file(mode, buffering, encoding, newline, suffix, prefix, dir, errors=errors)

    module._get_default_tempdir = find_or_say
    module.TemporaryFile = file_or_memory


_THEN = {
    "asyncio": _with_asyncio,
    "hashlib": _with_hashlib,
    "logging": _with_logging,
    "random": _with_random,
    "socket": _with_socket,
    "tempfile": _with_tempfile,
}


# -- Loading and answering -----------------------------------------------------------------------------------------------------------

_worker: Any = None


def _dispatch() -> None:
    try:
        line, body = _ask({"op": "request"})
        for generator in _generators:
            _seed(generator)
        content = _Body(None, line["stream"], _body_error) if "stream" in line else body
        answer = _worker(Request._received(line, content))
        if type(answer) is Response and type(answer.body) in _WHOLE:
            _respond(answer)
            return
        if hasattr(type(answer), "__await__") or _is_awaited(getattr(answer, "body", None)):
            answer = _run(answer)
            if answer is None:
                return
        if type(answer) is WebSocket:
            _serve(answer)
            return
        answer = _response(answer)
        if _is_stream(answer.body):
            _stream(answer)
            return
        _respond(answer)
    except BaseException as error:
        _out.end()
        _err.end()
        _fail(error)


# Types of bodies that are there, and need no look at what else they could be.
_WHOLE = (str, bytes)


def _respond(answer: Any) -> None:
    message = {"op": "response", "status": int(answer.status_code), "headers": _header_lines(answer.headers or {})}
    body = _to_bytes(answer.body, "the body")
    _out.end()
    _err.end()
    _tell(message, body)


def _is_awaited(body: Any) -> bool:
    """Whether the parts of a body can only be awaited."""
    return hasattr(type(body), "__aiter__") and not hasattr(type(body), "__iter__")


def _body_error(kind: str, message: str) -> OSError:
    return OSError(message)


def _serve(answer: WebSocket) -> None:
    socket = _Socket(answer._headers)
    running = answer._handler(socket)
    if hasattr(type(running), "__await__"):
        running.close()
        raise TypeError("the handler of a WebSocket is a plain function: not `async def`")
    _out.end()
    _err.end()


def _response(answer: Any) -> Any:
    if isinstance(answer, (str, bytes)):
        return Response(answer)
    if not (hasattr(answer, "body") and hasattr(answer, "status_code")):
        raise TypeError(f"worker() returns a Response, not {'None' if answer is None else type(answer).__name__}")
    return answer


def _is_stream(body: Any) -> bool:
    """Whether a body is sent part by part: a generator, say. A list is there as a whole."""
    return isinstance(body, Iterable) and not isinstance(body, (str, bytes, bytearray, memoryview, list, tuple, Mapping))


class _Sending:
    """A response that is sent while the worker runs."""

    def __init__(self, answer: Any) -> None:
        self.is_open = self._say({"op": "start", "status": int(answer.status_code), "headers": _header_lines(answer.headers or {})})

    def send(self, part: Any) -> bool:
        """Sends a part. False: the client is gone."""
        data = _to_bytes(part, "a part of the body")
        if data and self.is_open:
            self.is_open = self._say({"op": "piece"}, data)
        return self.is_open

    def end(self) -> None:
        _out.end()
        _err.end()
        if self.is_open:
            self._say({"op": "end"})

    def _say(self, message: dict, data: bytes = b"") -> bool:
        line, _ = _ask(message, data)
        if "error" in line:
            raise OSError(line["error"]["message"])
        return line["open"]


def _stream(answer: Any) -> None:
    parts = answer.body
    try:
        sending = _Sending(answer)
        for part in parts if sending.is_open else ():
            if not sending.send(part):
                break
        sending.end()
    finally:
        # As for any client that is gone: `finally` of a generator runs.
        if hasattr(parts, "close"):
            parts.close()


def _run(answer: Any) -> Any:
    """Runs an `async def worker` in the event loop. None: the parts of its body were sent already."""
    import asyncio  # It brings `_run_awaitable` along.

    return _run_awaitable(answer, lambda answer: _Sending(_response(answer)))


def _warm() -> None:
    """Walks the way of a request. The interpreter specializes code that runs often: in the snapshot once, and not in each request."""
    global _worker, _pread, _pwrite, _generators
    own = _worker, _pread, _pwrite, _generators

    def worker(request: Request) -> Response:
        request.headers.get("accept")
        return Response("warm", 200, {"content-type": "text/plain"})

    question = b'{"method":"GET","url":"http://localhost/","headers":[["host","localhost"],["accept","*/*"]],"params":{}}\n'
    # The host is not asked, and no random numbers are drawn.
    _worker, _pread, _pwrite, _generators = worker, lambda *_: question, lambda _, data, at: len(data), ()
    try:
        for _ in range(64):
            _dispatch()
    finally:
        _worker, _pread, _pwrite, _generators = own


def _main() -> None:
    global _out, _err, _worker
    _out, _err = sys.stdout, sys.stderr = _Stream(1), _Stream(2)
    sys.stdin = io.StringIO()
    module = types.ModuleType("worker")
    try:
        may_draw = os.environ.pop("WWS_RANDOM_AT_LOAD", "") == "allow"
        if not may_draw:
            os.urandom = _no_urandom
        line, source = _ask({"op": "worker"})
        if "error" in line:
            raise ImportError(line["error"]["message"])
        file = line["name"]
        sys.argv = [file]
        sys.path = [item for item in sys.path if item]
        # Before the search of directories, as a script's own directory comes first.
        finder = _Finder(file.rpartition("/")[0])
        sys.meta_path.insert(2, finder)
        sys.meta_path.append(_LastFinder(finder))
        sys.modules["worker"] = module
        sys.modules["poly"] = poly = _Poly("poly")
        module.__file__ = file
        for name in __all__:
            module.__dict__[name] = poly.__dict__[name] = globals()[name]
        # Names that the kit of Wasm Workers Server 1.x brought along.
        module.__dict__["sys"] = poly.__dict__["sys"] = sys
        if b"json" in source:
            module.__dict__["json"] = __import__("json")
        exec(_compiled(source, file), module.__dict__)
        _worker = module.__dict__.get("worker")
        if not callable(_worker):
            raise _Problem(f"it defines no function `worker`: def worker(request): return Response(\"hello\")")
    except _Problem as problem:
        _tell({"op": "fail", "message": str(problem)})
        os._exit(1)
    except BaseException as error:
        _out.end()
        _err.end()
        _fail(error)
        os._exit(1)
    _out.end()
    _err.end()
    os.urandom = _urandom
    if "random" in sys.modules and not may_draw:
        # It has a name of its own for the function.
        sys.modules["random"]._urandom = _urandom
    _warm()
    # What is there now is never collected; a request that makes little garbage has no collection.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    arguments = ()
    _tell({"op": "ready", "function": id(_dispatch), "arguments": id(arguments)})
    # The host leaves here, and calls _dispatch.
    time.time()


class _Poly(types.ModuleType):
    """`poly`, as the kit was called in Wasm Workers Server 1.x. It had `json` and `sys` as well."""

    __all__ = [*__all__, "json", "sys"]

    def __getattr__(self, name: str) -> Any:
        if name == "json":
            return __import__("json")
        raise AttributeError(f"module 'poly' has no attribute {name!r}")


class _Problem(Exception):
    """A text for the operator."""
