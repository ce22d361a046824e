"""Limits on memory: one large step at a time in a process, and free memory returned to the system."""

import contextlib
import ctypes
import functools
import sys
import threading
from collections.abc import Iterator

_M_ARENA_MAX = -8  # source: malloc.h

LARGE_BYTES = 4 * 1024 * 1024

_turn = threading.RLock()  # reentrant: a nested step must not deadlock


@contextlib.contextmanager
def large_step_lock(size: int) -> Iterator[bool]:
    """Hold the lock for a step that works on `size` bytes; a small step does not wait for it.

    Yields whether it was acquired immediately: if not, rows read before may be out of date.
    """
    if size < LARGE_BYTES:
        yield True
        return
    at_once = _turn.acquire(blocking=False)
    if not at_once:
        _turn.acquire()
    try:
        trim_malloc()  # memory that earlier steps freed counts into the peak of this one
        yield at_once
    finally:
        _turn.release()


def limit_malloc_arenas() -> None:
    """Let threads share one malloc arena: with one each, fragmented free memory is not returned."""
    if (library := _glibc()) is not None:
        library.mallopt(_M_ARENA_MAX, 1)


def trim_malloc() -> None:
    """Return free memory to the system."""
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    """Return glibc, None if the C library is another one."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
