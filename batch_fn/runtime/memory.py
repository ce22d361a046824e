"""In one process, one step at a time works on many bytes: memory is then the same for any number of parts."""

import contextlib
import ctypes
import functools
import sys
import threading
from collections.abc import Iterator

_M_ARENA_MAX = -8  # source: malloc.h

LARGE_BYTES = 4 * 1024 * 1024

_turn = threading.RLock()  # whoever has the turn already goes on: nobody can wait for himself


@contextlib.contextmanager
def large_step_lock(size: int) -> Iterator[bool]:
    """Wait for the turn of a step that works on `size` bytes, and keep it; one that works on few does not wait.

    Gives whether it came at once: else what was read before may be out of date.
    """
    if size < LARGE_BYTES:
        yield True
        return
    at_once = _turn.acquire(blocking=False)
    if not at_once:
        _turn.acquire()
    try:
        trim_malloc()  # what steps before have left free counts into the peak of this one
        yield at_once
    finally:
        _turn.release()


def limit_malloc_arenas() -> None:
    """Have threads that begin from now on share a heap."""
    if (library := _glibc()) is not None:
        library.mallopt(_M_ARENA_MAX, 1)


def trim_malloc() -> None:
    """Return what is free to the system."""
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    """Return the C library, None if it is another one."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
