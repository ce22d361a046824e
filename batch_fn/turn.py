"""In one process, one step at a time works on many bytes: memory is then the same for any number of parts."""

import contextlib
import threading
from collections.abc import Iterator

from batch_fn.heap import give_back

MANY_BYTES = 4 * 1024 * 1024

_turn = threading.RLock()  # whoever has the turn already goes on: nobody can wait for himself


@contextlib.contextmanager
def turn(size: int) -> Iterator[bool]:
    """Wait for the turn of a step that works on `size` bytes, and keep it; one that works on few does not wait.

    Gives whether it came at once: else what was read before may be out of date.
    """
    if size < MANY_BYTES:
        yield True
        return
    at_once = _turn.acquire(blocking=False)
    if not at_once:
        _turn.acquire()
    try:
        give_back()  # what steps before have left free counts into the peak of this one
        yield at_once
    finally:
        _turn.release()
