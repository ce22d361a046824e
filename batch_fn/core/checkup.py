"""What the doctor found: one check for each thing that a job needs. Pure."""

from collections.abc import Iterable
from datetime import datetime
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


class Examination(msgspec.Struct, frozen=True):
    """All checks of one look at the app."""

    id: str
    asked_at: datetime
    ended_at: datetime | None = None
    """None: it is not done yet."""
    checks: list[Check] = []


def sentence(text: str) -> str:
    """Return the text with a capital at its begin and one full stop at its end."""
    return f"{text[:1].upper()}{text[1:].rstrip('. ')}."


def worst(checks: Iterable[Check]) -> State:
    """Return the worst state of all, ok if there is no check."""
    order = list(State)
    return max((check.state for check in checks), key=order.index, default=State.OK)


def troubles(checks: Iterable[Check]) -> list[Check]:
    """Return the checks that somebody should act upon."""
    return [check for check in checks if check.state in {State.WARNING, State.WRONG}]


def fitting(checks: list[Check], characters: int) -> list[Check]:
    """Return as many checks as fit into that many characters of JSON, the worst before the others, in their order."""
    order = list(State)
    by_weight = sorted(range(len(checks)), key=lambda index: -order.index(checks[index].state))
    kept, used = set[int](), 0
    for index in by_weight:
        used += len(msgspec.json.encode(checks[index]).decode()) + 1
        if used > characters:
            break
        kept.add(index)
    return [check for index, check in enumerate(checks) if index in kept]
