"""What is dropped, and what must come of it: each line knows whether it ends answered, and how often it may be run."""

import itertools
import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from batch_fn.settings import Settings

MAX_ATTEMPTS = Settings().max_attempts

_numbers = itertools.count(1)


class Fate(StrEnum):
    """Where a line must end."""

    #: In output, with the service's answer.
    ANSWERED = "answered"
    #: In errors.
    FAILED = "failed"
    #: In errors, and in output when its job was retried.
    MENDED = "mended"


@dataclass(frozen=True)
class Line:
    """One request of a drop. No two have the same custom_id, in whatever drop: by it the service's count is read."""

    custom_id: str
    raw: bytes
    fate: Fate
    executions: int
    """How often the service may run it at most, if nobody retries its job; it may answer it once."""

    def executions_after(self, retries: int) -> int:
        """How often the service may run it at most, if its job was retried so often."""
        match self.fate:
            case Fate.ANSWERED:
                return self.executions
            case Fate.FAILED:
                return self.executions * (1 + retries)
            case Fate.MENDED:
                return min(1 + retries, 2)


@dataclass(frozen=True)
class Drop:
    """One file, as a user makes it."""

    name: str
    lines: tuple[Line, ...]
    spoiled: bool = False
    """It has a line that is wrong, so that it must be rejected."""

    @property
    def content(self) -> bytes:
        """The bytes to drop."""
        wrong = b"this is no JSON\n" if self.spoiled else b""
        return b"".join(line.raw + b"\n" for line in self.lines) + wrong


@dataclass(frozen=True)
class Cancel:
    """A cancel that was answered with yes, and what there was then."""

    batches: frozenset[str]
    """The ids of all batches at the service."""
    on_their_way: frozenset[str] = frozenset()
    """The parts that somebody was sending just then."""


@dataclass(frozen=True)
class Former:
    """What a job had come to before it was retried."""

    report: dict[str, Any]
    output: list[dict[str, Any]]
    cancelled: bool
    """A cancel was answered with yes."""


@dataclass
class Dropped:
    """One version of a file in the inbox; `path` is where its results will be."""

    drop: Drop
    path: str
    overwritten: bool = False
    """A newer version followed at once: this one may be gone before anybody saw it."""
    cancel: Cancel | None = None
    """Of its last run."""
    former: list[Former] = field(default_factory=list)
    """Its runs before that one: it was retried so often."""

    @property
    def job_id(self) -> str:
        """The job that it becomes."""
        return self.path.rpartition("/")[2]


def good(text: str = "Hello") -> Line:
    """Return a line that the service answers."""
    return _line(text, Fate.ANSWERED, executions=1)


def wrong() -> Line:
    """Return a line that the service refuses for good: it must not be tried again."""
    return _line("[[status 400]]", Fate.FAILED, executions=1)


def mended() -> Line:
    """Return a line that the service refuses the first time; it must be tried again only if somebody asks for it."""
    return _line("[[status 400 x1]]", Fate.MENDED, executions=1)


def unlucky(status: int = 500, times: int = 1) -> Line:
    """Return a line that fails so often in a way worth trying again, and is then answered."""
    return _line(f"[[status {status} x{times}]]", Fate.ANSWERED, executions=times + 1)


def hopeless() -> Line:
    """Return a line that fails in a way worth trying again, always."""
    return _line("[[status 503]]", Fate.FAILED, executions=MAX_ATTEMPTS)


def left_out() -> Line:
    """Return a line that is in neither of the first batch's files, and is answered by the second."""
    return _line("[[missing x1]]", Fate.ANSWERED, executions=1)


def ends_its_batch(how: str) -> Line:
    """Return a line whose first batch ends so: `expired`, `cancelled`, `failed-late`, or `failed` with a code."""
    return _line(f"[[batch {how} x1]]", Fate.ANSWERED, executions=1)


def _line(text: str, fate: Fate, *, executions: int) -> Line:
    custom_id = f"line-{next(_numbers)}"
    body = {"model": "global-batch", "messages": [{"role": "user", "content": text}]}
    request = {"custom_id": custom_id, "method": "POST", "url": "/chat/completions", "body": body}
    return Line(custom_id, json.dumps(request).encode(), fate, executions)
