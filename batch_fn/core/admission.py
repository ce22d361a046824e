"""Which waiting part may go now: a deployment takes only so many enqueued tokens at a time. Pure.

Going over the limit loses nothing, since a refused part waits again; but each refusal delays every part of the
deployment, so the limit is kept. What is enqueued is counted from the rows of the parts, and kept nowhere else.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from batch_fn.core.deployments import LONE_REFUSALS, Deployment, Load, seems_too_large
from batch_fn.core.jobs import Part, PartState
from batch_fn.core.waits import Wait

HOPELESS_AFTER = timedelta(days=1)
"""How long a single request is tried that is refused alone, where no limit explains it: others' batches may fill the
deployment, and a batch takes about a day at most."""


HOLDS_FOR = timedelta(days=1)
"""How long a refused part may keep others waiting until the deployment is empty."""


class Reason(StrEnum):
    """Why a part may go, or may not."""

    #: It fits beside what is enqueued.
    FITS = "fits"
    #: No limit is known, so there is nothing to wait for.
    NO_LIMIT_KNOWN = "no_limit_known"
    #: The deployment refused a batch lately; one part at a time tests whether it accepts batches again.
    PROBES = "probes"
    #: It does not fit beside what is enqueued now.
    NO_ROOM = "no_room"
    #: Another part has precedence: it has waited too long to be overtaken, or it is the probe.
    BEHIND = "behind"
    #: The deployment refused a batch; every part waits until the back-off is over.
    BACK_OFF = "back_off"
    #: It needs more than the deployment accepts at all: it has to be split.
    TOO_LARGE = "too_large"
    #: It is a single request, and needs more than the deployment accepts at all.
    NEVER_FITS = "never_fits"


MAY_GO = frozenset({Reason.FITS, Reason.NO_LIMIT_KNOWN, Reason.PROBES})


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a part may go, why, and the numbers behind it."""

    part: Part
    reason: Reason
    needed: int
    limit: int | None
    enqueued: int | None = None
    """None where it did not matter."""
    until: datetime | None = None
    cut_to: int | None = None
    """The most tokens of each piece, for a part that has to be split."""

    @property
    def may_go(self) -> bool:
        """Whether the part may be submitted now."""
        return self.reason in MAY_GO

    @property
    def wait(self) -> Wait:
        """The decision as a waiting part shows it."""
        return Wait(reason=self.reason, needed=self.needed, limit=self.limit, enqueued=self.enqueued, until=self.until)


def holds_tokens(part: Part) -> bool:
    """Return whether a part's tokens are enqueued, may be, or are reserved: admitted, on its way, or with the service.

    A part of a bundle holds none: the bundle's own part does.
    """
    if part.state is PartState.WAITING:
        return part.admitted_at is not None or part.create_intent_at is not None
    return part.state in {PartState.CLAIMED, PartState.OPEN}


def load_of(parts: Iterable[Part], *, now: datetime, patience: timedelta) -> Load:
    """Return what these parts of one deployment have enqueued, or may have."""
    holding = [part for part in parts if holds_tokens(part)]
    return Load(
        parts=len(holding),
        tokens=sum(part.estimated_tokens for part in holding),
        undecided=sum(_undecided(part, now, patience) for part in holding),
    )


def _undecided(part: Part, now: datetime, patience: timedelta) -> bool:
    """Return whether the service may still refuse the part; no other part waits for longer than `patience` for that."""
    if part.state is PartState.OPEN and part.batch_status != "validating":
        return False
    since = part.created_at or part.create_intent_at
    return since is None or now - since < patience


def decide(
    waiting: Iterable[Part],
    deployment: Deployment,
    *,
    limit: int | None,
    load: Load,
    now: datetime,
    patience: timedelta,
) -> list[Decision]:
    """Return a decision for each part that waits for the deployment, the oldest first.

    The oldest that fits goes first. One that has been passed over for longer than `patience` holds the line: no
    younger part goes before it, so that a large part does not starve behind small ones. After a refusal one part at a
    time goes, each in its turn.
    """
    decisions: list[Decision] = []
    probing, enqueued, under_way = deployment.refusals > 0, deployment.enqueued(load, now), load.parts
    behind = probing and load.undecided > 0
    for part in sorted(waiting, key=lambda part: _precedence(part, now, patience, probing=probing)):
        needed = deployment.needs(part)
        reason, cut_to = Reason.BEHIND, None
        if deployment.not_before is not None and now < deployment.not_before:
            reason = Reason.BACK_OFF
        elif not behind:
            cut_to = _cut_to(part, deployment, limit, now)
            reason = Reason.TOO_LARGE if cut_to is not None else _reason(part, deployment, limit, enqueued, now)
            if _goes_alone(part, now, patience) and under_way and reason in MAY_GO:
                reason = Reason.NO_ROOM
        decision = Decision(
            part=part,
            reason=reason,
            needed=needed,
            limit=limit,
            enqueued=enqueued,
            until=deployment.not_before if reason is Reason.BACK_OFF else None,
            cut_to=cut_to,
        )
        decisions.append(decision)
        if decision.may_go:
            enqueued, under_way, behind = enqueued + needed, under_way + 1, probing
        elif reason is Reason.NO_ROOM and now - part.waiting_since > patience:
            behind = True
    return decisions


def _precedence(
    part: Part, now: datetime, patience: timedelta, *, probing: bool
) -> tuple[bool, datetime, datetime, str, str]:
    """Return the sort key of a part: the oldest first; among probes, the one whose last turn was the longest ago."""
    turn = part.refusals.at if probing and part.refusals else part.waiting_since
    waits_its_turn = probing and not _goes_alone(part, now, patience)
    return waits_its_turn, turn, part.waiting_since, part.job_id, part.key


def _goes_alone(part: Part, now: datetime, patience: timedelta) -> bool:
    """Return whether a part that was refused has waited so long that it is tried with nothing else enqueued.

    Where the deployment does not empty within a day, the other parts go for a day, and so on in turn.
    """
    overdue = now - part.waiting_since - patience
    holds = overdue > timedelta() and overdue // HOLDS_FOR % 2 == 0
    return part.refusals is not None and part.refusals.alone < LONE_REFUSALS and holds


def _reason(part: Part, deployment: Deployment, limit: int | None, enqueued: int, now: datetime) -> Reason:
    """Return why a part may go or may not, for one that need not be split and is next."""
    needed = deployment.needs(part)
    if part.requests == 1 and part.refusals is not None and seems_too_large(part, deployment):
        explained = limit is not None and needed > limit
        if explained or now - (part.refusals.alone_since or now) >= HOPELESS_AFTER:
            return Reason.NEVER_FITS
    # A single line over the limit goes when nothing else is enqueued: the service decides, our estimate may be wrong.
    if limit is not None and enqueued + min(needed, limit) > limit:
        return Reason.NO_ROOM
    if deployment.refusals:
        return Reason.PROBES
    return Reason.NO_LIMIT_KNOWN if limit is None else Reason.FITS


def _cut_to(part: Part, deployment: Deployment, limit: int | None, now: datetime) -> int | None:
    """Return the most tokens that each piece of a part may have, None if it need not be split or is a single line."""
    if part.requests == 1:
        return None
    needed = deployment.needs(part)
    sizes = [most for most in (limit, deployment.largest_part(now)) if most is not None and needed > most]
    if seems_too_large(part, deployment):
        sizes.append(needed // 2)
    return min(sizes, default=None)


def record_queue_head(deployment: Deployment, decisions: Sequence[Decision]) -> Deployment:
    """Record since when the oldest waiting part waits; later parts queue behind it."""
    left = [decision.part.waiting_since for decision in decisions if not decision.may_go]
    return msgspec.structs.replace(deployment, oldest_waiting=min(left, default=None))
