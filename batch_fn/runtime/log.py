"""The app's log: one JSON object a record, with the job it is about; never a key, a token or a line's content."""

import json
import logging
from collections.abc import Callable
from datetime import datetime

_log = logging.getLogger("batch_fn")

type Listener = Callable[[str, str | None, dict[str, object]], None]
_listener: Listener | None = None


def set_listener(listener: Listener | None) -> None:
    """Have each record told to `listener` as well, as event, job id and facts; None: to nobody."""
    global _listener
    _listener = listener


def info(event: str, *, job_id: str | None = None, **facts: object) -> None:
    """Record that something happened as it should."""
    _write(logging.INFO, event, job_id, facts)


def warning(event: str, *, job_id: str | None = None, **facts: object) -> None:
    """Record that something happened that somebody may want to look into."""
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
