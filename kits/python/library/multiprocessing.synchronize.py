"""Stands for `multiprocessing.synchronize`, which CPython for WASI does not have."""

from multiprocessing import _refuse


class Lock:
    __init__ = _refuse


class RLock:
    __init__ = _refuse


class Semaphore:
    __init__ = _refuse


class BoundedSemaphore:
    __init__ = _refuse


class Condition:
    __init__ = _refuse


class Event:
    __init__ = _refuse


class Barrier:
    __init__ = _refuse
