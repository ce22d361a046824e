"""What is known of a deployment's token quota, and what headers and refusals teach of it. Pure.

The row of a deployment holds what the rows of the parts cannot tell: the limit, how far the estimates were off, tokens
of other clients, and the back-off after a refusal. What is enqueued is counted from the rows of the parts (`Load`).
"""

import math
from collections.abc import Mapping
from datetime import datetime, timedelta

import msgspec

from batch_fn.core.jobs import Part
from batch_fn.core.waits import Refusals

EXTRA_FOR = timedelta(minutes=5)
"""How long tokens that only the service has counted are added to ours: other clients' batches end without a message."""

LEARNING_RATE = 0.3
CORRECTION_RANGE = (1.0, 4.0)
"""Never below 1: whether a header that is lower than our own count includes the new batch is not documented."""

LEARNING_TOKENS = 1_000
"""Smaller batches do not correct the estimate: rounding would dominate."""

LONE_REFUSALS = 3
"""Refusals of a part, with nothing else of ours enqueued, after which it counts as too large for its deployment."""

LARGEST_FLOOR = 10_000
"""A refused part whose half is smaller says nothing of other parts: the smallest known quota is 90,000 tokens."""

LARGEST_FOR = timedelta(days=1)
"""How long other parts are kept below the size that was refused."""

MAX_DOUBLINGS = 4
"""A back-off grows up to sixteenfold."""


class Load(msgspec.Struct, frozen=True):
    """What of a deployment's parts is enqueued, or may be; counted from their rows."""

    parts: int = 0
    tokens: int = 0
    """The sum of their estimates."""
    undecided: int = 0
    """Parts that the service has neither accepted nor refused yet."""


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a deployment's quota: one row of the tables. Tokens are the service's own estimate of them."""

    name: str
    limit: int | None = None
    """The last `deployment-maximum-enqueued-tokens` received."""
    correction: float = 1.0
    """Tokens of the service for one token of our estimate."""
    extra: int = 0
    """By how much the last `deployment-enqueued-tokens` was above our own count; it counts until `extra_until`."""
    extra_until: datetime | None = None
    largest: int | None = None
    """The most tokens that a part may have until `largest_until`: half of what was refused `LONE_REFUSALS` times."""
    largest_until: datetime | None = None
    refusals: int = 0
    """In a row."""
    refused_at: datetime | None = None
    not_before: datetime | None = None
    oldest_waiting: datetime | None = None
    """Since when the oldest part has waited that the last tick left waiting; younger parts queue behind it."""
    admissions: int = 0
    """Counts admissions: of two that counted the same rows at the same time, only one can write its own."""

    def needs(self, part: Part) -> int:
        """Return the tokens that the service will count for a part."""
        return self.corrected(part.estimated_tokens)

    def corrected(self, estimate: int) -> int:
        """Return the tokens that the service counts where we estimate so many."""
        return math.ceil(estimate * self.correction)

    def enqueued(self, load: Load, now: datetime) -> int:
        """Return the tokens that are enqueued: our own count, and what the service lately counted beyond it."""
        fresh = self.extra_until is not None and now < self.extra_until
        return self.corrected(load.tokens) + (self.extra if fresh else 0)

    def largest_part(self, now: datetime) -> int | None:
        """Return the most tokens that a part may have as far as refusals have shown, None if they have not."""
        return self.largest if self.largest_until is not None and now < self.largest_until else None


def admitted(deployment: Deployment) -> Deployment:
    """Return the deployment after an admission: an instance that counted the rows before this write counts again."""
    return msgspec.structs.replace(deployment, admissions=deployment.admissions + 1)


def record_headers(
    deployment: Deployment, part: Part, *, told: int | None, limit: int | None, load: Load, now: datetime
) -> Deployment:
    """Return the deployment after the headers of a part's create were read; `load` is what else of ours is enqueued.

    `told` may be the tokens of the deployment, or of the new file only; it is not documented which. So it counts only
    where it is above our own count, which includes the part: under both readings more is enqueued then than we know.
    """
    known = deployment if limit is None else msgspec.structs.replace(deployment, limit=limit)
    if told is None:
        return known
    if not load.parts:
        known = msgspec.structs.replace(known, correction=_corrected(known, part.estimated_tokens, told))
    extra = max(0, told - known.corrected(load.tokens + part.estimated_tokens))
    return msgspec.structs.replace(known, extra=extra, extra_until=now + EXTRA_FOR if extra else None)


def _corrected(deployment: Deployment, estimate: int, told: int) -> float:
    """Return the correction after the service counted `told` tokens with only one part of ours enqueued.

    A count out of range says nothing of the estimate: other clients have batches there, or the part is not in it.
    """
    low, high = CORRECTION_RANGE
    if estimate < LEARNING_TOKENS or not low <= told / estimate <= high:
        return deployment.correction
    return (1 - LEARNING_RATE) * deployment.correction + LEARNING_RATE * told / estimate


def refused(part: Part, *, alone: bool, now: datetime) -> Refusals:
    """Return the refusals of a part after one more; `alone`: nothing else of ours was enqueued."""
    before = part.refusals or Refusals(at=now)
    return Refusals(
        at=now,
        count=before.count + 1,
        alone=before.alone + alone,
        alone_since=before.alone_since or (now if alone else None),
    )


def record_refusal(deployment: Deployment, part: Part, *, first_wait: timedelta, now: datetime) -> Deployment:
    """Return the deployment after it refused a part, whose own `refusals` have this one already.

    The wait is doubled with each refusal, at most sixteenfold. Batches that were on their way together are refused
    together; that counts once.
    Source: how-to, "Queueing batch jobs": the documentation's own advice is exponential back-off.
    """
    half = deployment.needs(part) // 2
    if part.requests > 1 and half >= LARGEST_FLOOR and seems_too_large(part, deployment):
        largest = min(half, deployment.largest_part(now) or half)
        deployment = msgspec.structs.replace(deployment, largest=largest, largest_until=now + LARGEST_FOR)
    if deployment.not_before is not None and now < deployment.not_before:
        return deployment
    until = now + _backoff(first_wait, deployment.refusals)
    return msgspec.structs.replace(deployment, refusals=deployment.refusals + 1, refused_at=now, not_before=until)


def wait_of(deployment: Deployment, refusals: Refusals, *, alone: bool, first_wait: timedelta) -> datetime:
    """Return until when a part waits that was refused: as long as all do; longer if it was refused beside others.

    Else each of its tries would delay the parts that the deployment accepts.
    """
    until = deployment.not_before or refusals.at
    return until if alone else max(until, refusals.at + _backoff(first_wait, refusals.count - 1))


def _backoff(first_wait: timedelta, refusals_before: int) -> timedelta:
    return first_wait * (1 << min(refusals_before, MAX_DOUBLINGS))


def clear_backoff(deployment: Deployment, part: Part) -> Deployment:
    """Return the deployment after it was seen to work on a part's batch: refusals before its creation are over."""
    if deployment.largest is not None and deployment.needs(part) > deployment.largest:
        deployment = msgspec.structs.replace(deployment, largest=None, largest_until=None)
    refused_at = deployment.refused_at
    if not deployment.refusals or part.created_at is None or (refused_at and part.created_at <= refused_at):
        return deployment
    return msgspec.structs.replace(deployment, refusals=0, refused_at=None, not_before=None)


def seems_too_large(part: Part, deployment: Deployment) -> bool:
    """Return whether refusals show that a part never fits, unless the service's own limit says that it must."""
    alone = part.refusals.alone if part.refusals else 0
    must_fit = (
        deployment.limit is not None and math.ceil(part.estimated_tokens * CORRECTION_RANGE[1]) <= deployment.limit
    )
    return alone >= LONE_REFUSALS and not must_fit


def limit_of(known: Deployment, token_limits: Mapping[str, int]) -> int | None:
    """Return the deployment's limit in tokens: the setting TOKEN_LIMITS, else the last one that the service named."""
    return token_limits.get(known.name) or known.limit


def most_tokens(known: Deployment, token_limits: Mapping[str, int], now: datetime) -> int | None:
    """Return the most tokens that one part of the deployment may have, None if nothing limits it."""
    return min(filter(None, (limit_of(known, token_limits), known.largest_part(now))), default=None)
