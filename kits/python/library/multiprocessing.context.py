"""Stands for `multiprocessing.context`, which CPython for WASI does not have."""

from multiprocessing import AuthenticationError, BufferTooShort, Process, ProcessError, TimeoutError, get_context


class BaseContext:
    pass
