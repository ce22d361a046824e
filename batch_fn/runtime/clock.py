"""What time it is: the one place that the app asks, so that a test can tell it another."""

from datetime import UTC, datetime, timedelta


def now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


def after(seconds: float) -> datetime:
    """Return the time that many seconds from now, in UTC."""
    return now() + timedelta(seconds=seconds)
