"""Whether everything that the app depends on works."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from batch_fn.app import App
from batch_fn.core.checkup import State, troubles
from batch_fn.runtime import clock
from batch_fn.storage.checkups import LAST

HEALTH_SECONDS = 10
TICK_LATE_SECONDS = 600
"""The tick runs every minute; the alert for a missing tick waits as long."""


def check_health(app: App) -> dict[str, Any]:
    """Return the result of a check of each dependency, made now."""
    checks = {
        "blob": _blob,
        "queue": _queue,
        "table": _table,
        "service": _service,
        "tick": _tick,
        "poison": _poison,
        "doctor": _doctor,
    }
    pool = ThreadPoolExecutor(len(checks))
    asked = {name: pool.submit(check, app) for name, check in checks.items()}
    end = time.monotonic() + HEALTH_SECONDS
    found = {name: _found(answer, end) for name, answer in asked.items()}
    pool.shutdown(wait=False, cancel_futures=True)  # do not wait for a check that hangs
    return {"status": "healthy" if all(each["ok"] for each in found.values()) else "unhealthy", "checks": found}


def _found(answer: Future[dict[str, Any]], end: float) -> dict[str, Any]:
    try:
        return answer.result(max(0, end - time.monotonic()))
    except TimeoutError:
        return {"ok": False, "detail": f"no answer within {HEALTH_SECONDS} seconds"}
    except Exception as error:  # noqa: BLE001 - any error means unhealthy
        return {"ok": False, "detail": type(error).__name__}  # the message may contain an address


def _blob(app: App) -> dict[str, Any]:
    next(app.blobs.inbox(), None)
    return {"ok": True, "detail": None}


def _queue(app: App) -> dict[str, Any]:
    app.queues.poisoned()
    return {"ok": True, "detail": None}


def _table(app: App) -> dict[str, Any]:
    app.tables.last_tick()
    return {"ok": True, "detail": None}


def _service(app: App) -> dict[str, Any]:
    next(app.openai.pages(), None)
    return {"ok": True, "detail": None}


def _tick(app: App) -> dict[str, Any]:
    last = app.tables.last_tick()
    if last is None:
        return {"ok": False, "age_seconds": None, "detail": "no tick has finished yet"}
    age = max(0, int((clock.now() - last).total_seconds()))
    late = age > TICK_LATE_SECONDS
    return {"ok": not late, "age_seconds": age, "detail": "the tick does not run" if late else None}


def _doctor(app: App) -> dict[str, Any]:
    """Return what the doctor found last: the tick has it look once an hour, and anybody may ask it."""
    last = app.checkups.read(LAST)
    if last is None or not app.settings.doctor_seconds:
        return {"ok": True, "detail": None, "age_seconds": None, "findings": []}
    found = troubles(last.checks)
    wrong = [check for check in found if check.state is State.WRONG]
    detail = " ".join(f"{check.name}: {check.saw}" for check in wrong) or None
    age = max(0, int((clock.now() - last.asked_at).total_seconds()))
    return {"ok": not wrong, "detail": detail, "age_seconds": age, "findings": found}


def _poison(app: App) -> dict[str, Any]:
    counts = app.queues.poisoned()
    return {"ok": not any(counts.values()), "queues": counts}
