"""The current time: the only clock of the app, so that a test can replace it."""

from datetime import UTC, datetime, timedelta


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


def after(seconds: float) -> datetime:
    """Return the time that many seconds from now in UTC."""
    return now() + timedelta(seconds=seconds)
