"""The event loop of workers. There is one thread and no socket to wait for: all that comes is time, and what tasks do themselves."""

import asyncio
import errno
import time
from asyncio import base_events, events, runners

_NO_SOCKETS = "a worker has no sockets: use fetch(), and [features.http_requests] in the worker's TOML"


class _Clock:
    """Where other loops ask for sockets that are ready."""

    def select(self, timeout):
        if timeout is None:
            raise RuntimeError("all tasks wait for something that never comes")
        if timeout > 0:
            time.sleep(timeout)
        return ()


class WorkerLoop(base_events.BaseEventLoop):
    def __init__(self):
        super().__init__()
        self._selector = _Clock()

    def _process_events(self, event_list):
        pass

    def _write_to_self(self):
        pass

    def run_in_executor(self, executor, func, *args):
        raise RuntimeError("can't start new thread: a worker has one; call the function itself")

    async def _no_sockets(self, *args, **options):
        raise OSError(errno.ENOTSUP, _NO_SOCKETS)

    create_connection = create_datagram_endpoint = create_server = getaddrinfo = getnameinfo = _no_sockets
    create_unix_connection = create_unix_server = connect_accepted_socket = _no_sockets

    async def _no_processes(self, *args, **options):
        raise NotImplementedError("a worker starts no processes")

    subprocess_exec = subprocess_shell = _no_processes


class _Policy(events.BaseDefaultEventLoopPolicy):
    _loop_factory = WorkerLoop


def run(answer, begin):
    """Awaits what a worker returned. Sends the body if its parts are awaited, and returns None then."""
    events.set_event_loop(_loop)
    try:
        return _loop.run_until_complete(_answered(answer, begin))
    finally:
        runners._cancel_all_tasks(_loop)
        if _loop._asyncgens:
            _loop.run_until_complete(_loop.shutdown_asyncgens())
        events.set_event_loop(None)


async def _answered(answer, begin):
    if hasattr(type(answer), "__await__"):
        answer = await answer
    body = getattr(answer, "body", None)
    if not hasattr(type(body), "__aiter__"):
        return answer
    sending = begin(answer)
    try:
        if sending.is_open:
            async for part in body:
                if not sending.send(part):
                    break
                # Other tasks have a turn.
                await asyncio.sleep(0)
    finally:
        if hasattr(body, "aclose"):
            await body.aclose()
    sending.end()
    return None


asyncio.set_event_loop_policy(_Policy())
# Made where the worker is loaded, so that no request has to.
_loop = WorkerLoop()
