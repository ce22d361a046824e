"""The host's log, made readable: what the app did and what went wrong, without the coming and going of invocations."""

import json
import re

_LINE = re.compile(
    r"\d{4}-\d\d-\d\d (?P<time>\d\d:\d\d:\d\d),\d+ (?P<who>host|app) .*?(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) "
    r"(?P<text>.*)"
)
_ROUTINE = re.compile(
    r"Executing '|Executed '[^']+' \(Succeeded|root: Auth level is not applied|"
    r'batch_fn: {"event": "tick_done",.* "errors": 0}'
)


def readable(line: str) -> str | None:
    """Return the line as it is to be shown, None if it is not."""
    line = line.rstrip("\n")
    found = _LINE.fullmatch(line)
    if found is None:
        return line or None  # of a traceback
    if _ROUTINE.match(found["text"]):
        return None
    level = "" if found["level"] == "INFO" else f"{found['level']} "
    return f"{found['time']} {level}{_record(found['text'].removeprefix('batch_fn: '))}"


def _record(text: str) -> str:
    """Return a record of the app's log as `event name=fact ...`; any other text as it is."""
    try:
        record = json.loads(text)
    except ValueError:
        return text
    if not isinstance(record, dict) or "event" not in record:
        return text
    event = record.pop("event")
    return " ".join([f"{event:15}", *(f"{name}={fact}" for name, fact in record.items())])
