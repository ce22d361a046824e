"""What the doctor found: one check for each thing that a job needs. Pure."""

from collections.abc import Iterable
from enum import StrEnum

import msgspec


class State(StrEnum):
    """How one check ended, from best to worst."""

    OK = "ok"
    #: It could not be seen from here.
    UNKNOWN = "unknown"
    #: Jobs run, but not as well as they could, or not for long.
    WARNING = "warning"
    #: Jobs will fail or wait.
    WRONG = "wrong"


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    name: str
    """The area and the thing: `storage: container batch-input`."""
    state: State
    saw: str
    """What was seen, in one sentence."""
    cure: str = ""
    """What to do, in one sentence; empty if all is well."""


def worst(checks: Iterable[Check]) -> State:
    """Return the worst state of all, ok if there is no check."""
    order = list(State)
    return max((check.state for check in checks), key=order.index, default=State.OK)
