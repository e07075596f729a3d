"""Stands for `multiprocessing.pool`, which CPython for WASI does not have."""

from multiprocessing import _refuse


class Pool:
    __init__ = _refuse


class ThreadPool:
    __init__ = _refuse


class AsyncResult:
    __init__ = _refuse
