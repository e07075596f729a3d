"""Stands for `concurrent.futures.process`, which CPython for WASI does not have: executors can be made, but start nothing."""

from concurrent.futures import _base


class BrokenProcessPool(_base.BrokenExecutor):
    pass


class ProcessPoolExecutor(_base.Executor):
    def __init__(self, max_workers=None, mp_context=None, initializer=None, initargs=(), *, max_tasks_per_child=None):
        self._max_workers = max_workers or 1

    def submit(self, fn, /, *args, **kwargs):
        raise OSError("a worker starts no processes: call the function itself")

    def shutdown(self, wait=True, *, cancel_futures=False):
        pass
