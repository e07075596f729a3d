"""Stands for `multiprocessing.process`, which CPython for WASI does not have."""

from multiprocessing import BaseProcess, active_children, current_process, parent_process
