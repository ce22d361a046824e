"""What may happen to a process at any of its calls: it dies, the call fails, or it is held up while others go on."""

import contextlib
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Protocol


class Death(BaseException):
    """The process is gone. No `except Exception` gets to see it."""


class Fate(StrEnum):
    """What happens at one call."""

    DIES_BEFORE = "the process dies before the call has done anything"
    DIES_AFTER = "the process dies after the call has done its work"
    BUSY = "the other side says that it is busy, and does nothing"
    LOST_BEFORE = "the request is lost on its way"
    LOST_AFTER = "the answer is lost on its way back"
    REPEATED = "the answer is lost, and the SDK quietly makes the call again"
    STALLS = "the process is held up before the call, while others go on"


ON_WRITES = frozenset({Fate.DIES_BEFORE, Fate.DIES_AFTER, Fate.LOST_AFTER, Fate.REPEATED})
"""What makes no difference at a call that only reads: that is skipped, and strikes at the next one that writes."""


class Hand(Protocol):
    """What a turn has to know of the fake whose call it decides on."""

    once: frozenset[str]
    """The calls that the SDK is told never to repeat."""

    def busy(self) -> Exception:
        """Return what is raised when the other side is busy."""

    def lost(self, name: str) -> Exception:
        """Return what is raised when the call of that name got no answer."""


class Turn:
    """One process at work: it counts calls, and one of them meets a fate."""

    def __init__(self, fate: Fate | None = None, at: int = 0) -> None:
        self.fate = fate
        self.calls_left = at
        self.disturbed = False
        """The fate has struck; only then may a step fail."""
        self.strand: Strand | None = None

    def meet(self, hand: Hand, name: str, effect: Callable[[], Any], *, writes: bool) -> Any:
        """Make one call."""
        if self.fate is None or self.disturbed or (self.fate in ON_WRITES and not writes):
            return effect()
        self.calls_left -= 1
        if self.calls_left >= 0:
            return effect()
        self.disturbed = True
        match self.fate:
            case Fate.DIES_BEFORE:
                raise Death
            case Fate.BUSY:
                raise hand.busy()
            case Fate.LOST_BEFORE:
                raise hand.lost(name)
            case Fate.STALLS:
                assert self.strand is not None
                self.strand.hold(name)
                return effect()
            case Fate.REPEATED if name in hand.once:
                return effect()
        with contextlib.suppress(Exception):
            effect()
        if self.fate is Fate.DIES_AFTER:
            raise Death
        if self.fate is Fate.LOST_AFTER:
            raise hand.lost(name)
        return effect()


class Strand:
    """A step in a thread of its own, so that it can be held at a call. Only one thread ever runs: it has the baton."""

    def __init__(self, step: Callable[[], None]) -> None:
        self._step = step
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._dies = False
        self.held_since = datetime.min.replace(tzinfo=UTC)
        self.held_at: str | None = None
        """The call that it is held at; None when it has come to its end."""

    def start(self) -> None:
        """Run the step to where it is held, or to its end."""
        self._thread.start()
        self._stopped.acquire()

    def go_on(self) -> None:
        """Run the rest of the step."""
        self.held_at = None
        self._go.release()
        self._thread.join()

    def die(self) -> None:
        """End the process where it is held."""
        self._dies = True
        self.go_on()

    def hold(self, name: str) -> None:
        """Give the baton back until told to go on. For the step's own thread."""
        self.held_at = name
        self._stopped.release()
        self._go.acquire()
        if self._dies:
            raise Death

    def _run(self) -> None:
        try:
            self._step()
        finally:
            self._stopped.release()
