"""Stands for `multiprocessing.connection`, which CPython for WASI does not have."""

from multiprocessing import _refuse


class Connection:
    __init__ = _refuse


class Client:
    __init__ = _refuse


class Listener:
    __init__ = _refuse
