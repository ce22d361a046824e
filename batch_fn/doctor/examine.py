"""The whole examination: everything that a job needs, in the order in which a job needs it."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping

from batch_fn.app import App
from batch_fn.core.checkup import Check, State
from batch_fn.doctor.configuration import check_settings
from batch_fn.doctor.host import check_host
from batch_fn.doctor.service import check_deployments, check_service
from batch_fn.doctor.storage import EVENT_SECONDS, EVENTS, EventWatch, check_storage


def examine(
    app: App,
    environment: Mapping[str, str] = os.environ,
    *,
    changing: bool = True,
    deployed: bool = True,
    event_seconds: float = EVENT_SECONDS,
) -> Iterator[Check]:
    """Yield every check. Nothing is raised, and nothing that was written is left behind.

    `changing`: also write, copy, upload and delete; without, only read. `deployed`: this process is the app's own.
    """
    with contextlib.ExitStack() as stack:
        watch: EventWatch | None = None
        yield from _guarded("settings", lambda: check_settings(environment))
        if changing:  # its event may take a minute: all else is looked at meanwhile
            watch = stack.enter_context(EventWatch(app, event_seconds))
        yield from _guarded("storage", lambda: check_storage(app, changing=changing))
        yield from _guarded("service", lambda: check_service(app, changing=changing))
        yield from _guarded("deployments", lambda: check_deployments(app))
        yield from _guarded("host", lambda: check_host(app, deployed=deployed))
        if watch is not None:
            yield from _guarded(EVENTS, lambda: iter((watch.check(),)))


def _guarded(name: str, look: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """Yield the checks of one room; one thing that cannot be looked at must not hide the others."""
    try:
        yield from look()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is reported, and the next area is examined
        saw = f"It could not be looked at: {type(error).__name__}."
        yield Check(name, State.UNKNOWN, saw, "Cure what is wrong above, then look again.")
