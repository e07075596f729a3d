"""Stands for `multiprocessing`, which CPython for WASI does not have: a worker is one process, and starts no other."""

import sys

_NO_PROCESSES = "a worker starts no processes: call the function itself"


class ProcessError(Exception):
    pass


class BufferTooShort(ProcessError):
    pass


class TimeoutError(ProcessError):
    pass


class AuthenticationError(ProcessError):
    pass


class BaseProcess:
    name, daemon, pid, ident, exitcode = "MainProcess", False, 1, 1, None

    def __init__(self, group=None, target=None, name=None, args=(), kwargs={}, *, daemon=None):
        self.name = name or "Process-1"

    def is_alive(self):
        return False

    def start(self):
        raise OSError(_NO_PROCESSES)

    run = join = start


class Process(BaseProcess):
    pass


_main = BaseProcess(name="MainProcess")


def current_process():
    return _main


def parent_process():
    return None


def active_children():
    return []


def cpu_count():
    return 1


def freeze_support():
    pass


def allow_connection_pickling():
    pass


def get_all_start_methods():
    return []


def get_start_method(allow_none=False):
    return None


def set_start_method(method, force=False):
    pass


def get_logger():
    import logging

    return logging.getLogger("multiprocessing")


def get_context(method=None):
    return sys.modules[__name__]


def _refuse(*args, **options):
    raise OSError(_NO_PROCESSES)


Array = Barrier = BoundedSemaphore = Condition = Event = JoinableQueue = Lock = Manager = Pipe = Pool = Queue = RLock = _refuse
RawArray = RawValue = Semaphore = SimpleQueue = Value = _refuse
