"""`.devkit/run.json`: how `make drop` finds the stack that `make run` keeps up.

The file is locked for as long as its stack runs. A lock ends with the process that holds it, however that one ends:
a file that nobody holds was left behind, and is not believed.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec

FOLDER = Path(os.environ.get("DEVKIT_FOLDER", Path(__file__).parents[1] / ".devkit"))
"""Everything that `make run` keeps. The tests have one of their own, so that they leave a developer's alone."""
RUN_FILE = FOLDER / "run.json"


class NotRunningError(Exception):
    """There is no stack to be found; the message says what to do."""


class AlreadyRunningError(Exception):
    """Another `make run` holds the folder."""


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be known of a running stack."""

    pid: int
    environment: dict[str, str]
    """The settings that the app runs with."""
    service_url: str
    host_url: str
    log: str


class RunFile:
    """The run file, held by this process."""

    def __init__(self, file: IO[bytes], *, left_behind: bool) -> None:
        self._file = file
        self.left_behind = left_behind
        """Whether an earlier stack had not put its file away: it was killed."""

    def write(self, running: Running) -> None:
        """Let others find the stack."""
        self._file.truncate(0)
        self._file.write(msgspec.json.format(msgspec.json.encode(running), indent=2) + b"\n")
        self._file.flush()


@contextlib.contextmanager
def hold() -> Iterator[RunFile]:
    """Hold the run file; it is gone when the context ends. Raises: AlreadyRunningError."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with RUN_FILE.open("ab") as file:
        if not _lock(file, fcntl.LOCK_EX):
            raise AlreadyRunningError("`make run` is up already, in another terminal; stop that one first (Ctrl-C).")
        left_behind = RUN_FILE.stat().st_size > 0
        file.truncate(0)
        try:
            yield RunFile(file, left_behind=left_behind)
        finally:
            RUN_FILE.unlink(missing_ok=True)


def find() -> Running:
    """Return the stack that runs now. Raises: NotRunningError."""
    try:
        with RUN_FILE.open("rb") as file:
            content, held = file.read(), not _lock(file, fcntl.LOCK_SH)
    except FileNotFoundError:
        raise NotRunningError(
            "There is no stack to drop into: start one with `make run`, in another terminal."
        ) from None
    if not held:
        raise NotRunningError("The last `make run` was killed, nothing runs any more: start it again with `make run`.")
    if not content:
        raise NotRunningError("`make run` is still starting: try again in a few seconds.")
    return msgspec.json.decode(content, type=Running)


def _lock(file: IO[bytes], kind: int) -> bool:
    """Lock the file until it is closed; False if somebody else has it."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
