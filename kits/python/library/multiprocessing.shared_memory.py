"""Stands for `multiprocessing.shared_memory`, which CPython for WASI does not have."""

from multiprocessing import _refuse


class SharedMemory:
    __init__ = _refuse


class ShareableList:
    __init__ = _refuse
