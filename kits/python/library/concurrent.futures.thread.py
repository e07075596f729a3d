"""Stands for `concurrent.futures.thread`, which CPython for WASI does not have: executors can be made, but start nothing."""

from concurrent.futures import _base


class BrokenThreadPool(_base.BrokenExecutor):
    pass


class ThreadPoolExecutor(_base.Executor):
    def __init__(self, max_workers=None, thread_name_prefix="", initializer=None, initargs=()):
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        self._max_workers = max_workers or 1

    def submit(self, fn, /, *args, **kwargs):
        raise RuntimeError("can't start new thread: a worker has one; call the function itself")

    def shutdown(self, wait=True, *, cancel_futures=False):
        pass
