"""Stands for `multiprocessing.managers`, which CPython for WASI does not have."""

from multiprocessing import _refuse


class BaseManager:
    __init__ = _refuse


class SyncManager:
    __init__ = _refuse


class BaseProxy:
    __init__ = _refuse


class Namespace:
    def __init__(self, /, **values):
        self.__dict__.update(values)
