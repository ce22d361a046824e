"""Why a part or a job waits, with the numbers that say so. Pure."""

from datetime import datetime

import msgspec


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """Why a part waits, with the numbers behind it (see admission.py)."""

    reason: str
    message: str = ""
    needed: int | None = None
    """In tokens, like the next two."""
    limit: int | None = None
    enqueued: int | None = None
    until: datetime | None = None


ENVIRONMENT = "environment"
"""The reason of a wait for storage, the service, an identity or disk space."""

OWN_ERROR = "error"
"""The reason of a wait after an error of the app itself on this job."""


class Refusals(msgspec.Struct, frozen=True, kw_only=True):
    """How often a part was refused because its deployment had no room for it."""

    at: datetime
    """The last time."""
    count: int = 0
    alone: int = 0
    """Refusals with nothing else of ours enqueued."""
    alone_since: datetime | None = None
