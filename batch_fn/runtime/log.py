"""The app's log: one JSON object per record, with its job id; never a key, a token or a line's content."""

import json
import logging
from collections.abc import Callable
from datetime import datetime

_log = logging.getLogger("batch_fn")

type Listener = Callable[[str, str | None, dict[str, object]], None]
_listener: Listener | None = None


def set_listener(listener: Listener | None) -> None:
    """Pass each record to `listener` as well, as event, job id and facts; None: no listener."""
    global _listener
    _listener = listener


def info(event: str, *, job_id: str | None = None, **facts: object) -> None:
    """Write a record of a normal event."""
    _write(logging.INFO, event, job_id, facts)


def warning(event: str, *, job_id: str | None = None, **facts: object) -> None:
    """Write a record of an event that may need attention."""
    _write(logging.WARNING, event, job_id, facts)


def _write(level: int, event: str, job_id: str | None, facts: dict[str, object]) -> None:
    record = {"event": event, "job_id": job_id, **facts}
    _log.log(level, json.dumps({name: _plain(fact) for name, fact in record.items() if fact is not None}))
    if _listener is not None:
        _listener(event, job_id, facts)


def _plain(fact: object) -> object:
    if isinstance(fact, datetime):
        return fact.isoformat(timespec="seconds")
    return fact if isinstance(fact, int | float | bool) else str(fact)
