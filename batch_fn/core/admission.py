"""Which waiting part may go now: a deployment takes only so many enqueued tokens at a time. Pure.

Going over the limit loses nothing, since a refused part goes back to waiting; but each refusal makes everybody wait,
so it pays to know. What is known of a deployment is in one row, `Deployment`: the limit and the count that the service
last told (or our own count where it tells none), how far our estimates were off, and how long to back off.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from batch_fn.core.jobs import Part, Wait

FRESH = timedelta(minutes=2)
"""For how long a count of enqueued tokens is believed: batches end without telling us the new one."""

LEARNING_RATE = 0.3
CORRECTION_RANGE = (0.25, 4.0)
"""How far one look at the headers may move the correction, and how far all together: other clients count as well."""

LEARNING_TOKENS = 1_000
"""Batches smaller than this teach nothing: rounding would drown it."""


class Reason(StrEnum):
    """Why a part may go, or may not."""

    #: It fits beside what is enqueued.
    FITS = "fits"
    #: Nobody has told a limit, so there is nothing to wait for.
    NO_LIMIT_KNOWN = "no_limit_known"
    #: The deployment refused a batch lately; one part at a time finds out whether it takes some again.
    PROBES = "probes"
    #: It does not fit beside what is enqueued now.
    NO_ROOM = "no_room"
    #: An older part has waited so long that nobody may overtake it any more.
    BEHIND = "behind"
    #: The deployment refused a batch; everybody waits until the back-off is over.
    BACK_OFF = "back_off"
    #: It needs more than the whole limit: it has to be split.
    TOO_LARGE = "too_large"


MAY_GO = frozenset({Reason.FITS, Reason.NO_LIMIT_KNOWN, Reason.PROBES})


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a deployment's quota: one row of the ledger. Tokens are the service's own estimate of them."""

    name: str
    limit: int | None = None
    """The last `deployment-maximum-enqueued-tokens` seen."""
    enqueued: int = 0
    """Best knowledge of what is enqueued, parts that were admitted since `counted_at` included."""
    counted_at: datetime | None = None
    seen: int | None = None
    """The last `deployment-enqueued-tokens` seen, and when."""
    seen_at: datetime | None = None
    correction: float = 1.0
    """Tokens of the service for one token of our estimate."""
    refusals: int = 0
    """In a row."""
    refused_at: datetime | None = None
    not_before: datetime | None = None
    oldest_waiting: datetime | None = None
    """Since when the oldest part that the last tick left waiting has waited; who came later stands behind it."""

    def fresh(self, now: datetime) -> bool:
        """Return whether the count of enqueued tokens can be believed."""
        return self.counted_at is not None and now - self.counted_at < FRESH

    def needs(self, part: Part) -> int:
        """Return the tokens that the service will count for a part."""
        return math.ceil(part.estimated_tokens * self.correction)


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a part may go, why, and the numbers that said so."""

    part: Part
    reason: Reason
    needed: int
    limit: int | None
    enqueued: int
    until: datetime | None = None

    @property
    def may_go(self) -> bool:
        """Whether the part may be submitted now."""
        return self.reason in MAY_GO

    @property
    def wait(self) -> Wait:
        """The decision as a waiting part shows it."""
        return Wait(reason=self.reason, needed=self.needed, limit=self.limit, enqueued=self.enqueued, until=self.until)


def decide(
    waiting: Iterable[Part],
    deployment: Deployment,
    *,
    limit: int | None,
    enqueued: int,
    now: datetime,
    patience: timedelta,
) -> list[Decision]:
    """Return a decision for each part that waits for the deployment, the oldest first.

    The oldest that fits goes first. One that has been passed over for longer than `patience` holds the line: nothing
    younger goes before it, so that a large part does not starve behind small ones.
    """
    decisions: list[Decision] = []
    line_held = False
    probing = deployment.refusals > 0
    for part in sorted(waiting, key=lambda part: (part.waiting_since, part.job_id, part.key)):
        reason = _reason(
            part, deployment, limit=limit, enqueued=enqueued, now=now, behind=line_held or (probing and bool(decisions))
        )
        needed = deployment.needs(part)
        until = deployment.not_before if reason is Reason.BACK_OFF else None
        decision = Decision(part=part, reason=reason, needed=needed, limit=limit, enqueued=enqueued, until=until)
        decisions.append(decision)
        if decision.may_go:
            enqueued += needed
        elif reason is Reason.NO_ROOM and now - part.waiting_since > patience:
            line_held = True
    return decisions


def _reason(
    part: Part, deployment: Deployment, *, limit: int | None, enqueued: int, now: datetime, behind: bool
) -> Reason:
    if deployment.not_before is not None and now < deployment.not_before:
        return Reason.BACK_OFF
    if behind:
        return Reason.BEHIND
    if limit is None:
        return Reason.PROBES if deployment.refusals else Reason.NO_LIMIT_KNOWN
    needed = deployment.needs(part)
    if needed > limit and part.requests > 1:
        return Reason.TOO_LARGE
    # A single line over the limit goes when nothing else is enqueued: the service decides, our estimate may be wrong.
    if enqueued + min(needed, limit) > limit:
        return Reason.NO_ROOM
    return Reason.PROBES if deployment.refusals else Reason.FITS


def reserve(deployment: Deployment, decisions: Sequence[Decision], *, enqueued: int, now: datetime) -> Deployment:
    """Return the deployment with the tokens of those that may go counted in, on top of what was enqueued."""
    admitted = sum(decision.needed for decision in decisions if decision.may_go)
    return msgspec.structs.replace(deployment, enqueued=enqueued + admitted, counted_at=now)


def record_queue_head(deployment: Deployment, decisions: Sequence[Decision]) -> Deployment:
    """Return the deployment with a note of who was left waiting: younger parts that come in later stand behind."""
    left = [decision.part.waiting_since for decision in decisions if not decision.may_go]
    return msgspec.structs.replace(deployment, oldest_waiting=min(left, default=None))


def record_headers(
    deployment: Deployment, *, estimate: int, enqueued: int | None, limit: int | None, now: datetime
) -> Deployment:
    """Return the deployment after a create's headers were read; the part was estimated at `estimate` tokens."""
    if enqueued is None:
        return msgspec.structs.replace(deployment, limit=limit) if limit is not None else deployment
    return msgspec.structs.replace(
        deployment,
        limit=deployment.limit if limit is None else limit,
        enqueued=enqueued,
        counted_at=now,
        seen=enqueued,
        seen_at=now,
        correction=_corrected(deployment, estimate, enqueued, now),
    )


def _corrected(deployment: Deployment, estimate: int, enqueued: int, now: datetime) -> float:
    """Return the correction after a create raised the service's count from the last one seen to `enqueued`."""
    known = deployment.seen is not None and deployment.seen_at is not None and now - deployment.seen_at < FRESH
    if not known or deployment.seen is None or estimate < LEARNING_TOKENS or enqueued <= deployment.seen:
        return deployment.correction
    low, high = CORRECTION_RANGE
    ratio = min(max((enqueued - deployment.seen) / estimate, low), high)
    return (1 - LEARNING_RATE) * deployment.correction + LEARNING_RATE * ratio


def release_tokens(deployment: Deployment, part: Part) -> Deployment:
    """Return the deployment after a part's batch has ended: its tokens are enqueued no more."""
    if deployment.counted_at is None:
        return deployment
    needed = deployment.needs(part)
    seen = None if deployment.seen is None else max(0, deployment.seen - needed)
    return msgspec.structs.replace(deployment, enqueued=max(0, deployment.enqueued - needed), seen=seen)


def record_refusal(deployment: Deployment, part: Part, *, first_wait: timedelta, now: datetime) -> Deployment:
    """Return the deployment after it refused a part's batch: its tokens were counted in, and are not enqueued.

    The wait is doubled with each refusal, at most sixteenfold. Batches that were on their way together are refused
    together; that counts once.
    Source: how-to, "Queueing batch jobs": the documentation's own advice is exponential back-off.
    """
    enqueued = max(0, deployment.enqueued - deployment.needs(part)) if deployment.counted_at else deployment.enqueued
    deployment = msgspec.structs.replace(deployment, enqueued=enqueued)
    if deployment.not_before is not None and now < deployment.not_before:
        return deployment
    wait = first_wait * (1 << min(deployment.refusals, 4))
    return msgspec.structs.replace(deployment, refusals=deployment.refusals + 1, refused_at=now, not_before=now + wait)


def clear_backoff(deployment: Deployment, created_at: datetime) -> Deployment:
    """Return the deployment after it was seen to work on a batch of that time: refusals before it count no more."""
    if not deployment.refusals or (deployment.refused_at is not None and created_at <= deployment.refused_at):
        return deployment
    return msgspec.structs.replace(deployment, refusals=0, refused_at=None, not_before=None)


def limit_of(known: Deployment, token_limits: Mapping[str, int]) -> int | None:
    """Return the deployment's limit in tokens: the setting TOKEN_LIMITS, else the last one that the service named."""
    return token_limits.get(known.name) or known.limit
