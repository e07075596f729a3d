"""Stands for `multiprocessing.queues`, which CPython for WASI does not have."""

from multiprocessing import _refuse


class Queue:
    __init__ = _refuse


class SimpleQueue:
    __init__ = _refuse


class JoinableQueue:
    __init__ = _refuse
