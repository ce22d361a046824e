"""What keeps the results of an ended batch from being collected, and for how long that is tried. Pure."""

import errno
from datetime import datetime, timedelta

import msgspec

MIN_TRIES = 10
"""Tries before anything is given up, however much time has passed: the app may have been stopped meanwhile."""

MAX_PAUSE = timedelta(minutes=10)
"""Between two tries, where the service does not ask for more."""

MAX_RETRY_AFTER = timedelta(hours=1)
"""What the service may ask for at most."""

FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT})


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """Why an ended part could not be settled yet."""

    since: datetime
    """The first time that it could not."""
    tries: int = 1
    missing_since: datetime | None = None
    """The first time that results were missing, or fewer than the service counts."""

    def again(self, now: datetime, *, missing: bool) -> "Trouble":
        """Return the trouble after one try more."""
        missing_since = self.missing_since or (now if missing else None)
        return Trouble(since=self.since, tries=self.tries + 1, missing_since=missing_since)

    def is_exhausted(self, now: datetime, max_wait_seconds: int) -> bool:
        """Return whether it has been tried often enough, for long enough."""
        return self.tries >= MIN_TRIES and now - self.since >= timedelta(seconds=max_wait_seconds)

    def pause(self, first_seconds: float, retry_after: float | None = None) -> timedelta:
        """Return how long to wait before the next try: twice as long each time, or what the service asks for."""
        if retry_after is not None:
            return min(timedelta(seconds=retry_after), MAX_RETRY_AFTER)
        return min(timedelta(seconds=first_seconds * float(2 ** min(self.tries - 1, 10))), MAX_PAUSE)


def met(known: Trouble | None, now: datetime, *, missing: bool = False) -> Trouble:
    """Return the trouble that was met now; `known` is that of the tries before."""
    if known is not None:
        return known.again(now, missing=missing)
    return Trouble(since=now, missing_since=now if missing else None)
