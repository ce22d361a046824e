"""Storage: each container, queue and table is there, and the identity may do what the app does to it."""

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Self

from batch_fn.app import App
from batch_fn.core.checkup import Check, State, sentence
from batch_fn.core.cures import cure_of
from batch_fn.storage.probe import StorageRefusedError

EVENT_SECONDS = 60.0
EVENTS = "storage: events of the inbox"
MAX_SKEW = timedelta(minutes=2)


def check_storage(app: App, *, changing: bool) -> Iterator[Check]:
    """Yield a check for each container, queue and table; `changing`: write, read and delete in each as well."""
    settings, probe = app.settings, app.storage_probe
    yield _identity(app)
    tries: dict[str, tuple[tuple[str, ...], Callable[[str], None]]] = {
        "container": (settings.containers, probe.container),
        "queue": (settings.queues, probe.queue),
        "table": (settings.tables, probe.table),
    }
    answering = True
    for kind, (names, change) in tries.items():
        for name in names:
            try:
                yield _check(f"storage: {kind} {name}", kind, name, app, change if changing else None)
            except StorageRefusedError as error:
                yield refused(f"storage: {kind} {name}", error)
                if error.unreachable:
                    answering = False
                    break  # the others of its kind are at the same address
    if answering:
        yield from _check_account(app, changing=changing)


def _check_account(app: App, *, changing: bool) -> Iterator[Check]:
    settings, probe = app.settings, app.storage_probe
    if changing:
        try:
            probe.copy(settings.input_container, settings.archive_container)
            yield Check("storage: copy to the archive", State.OK, "A blob can be copied within the account.")
        except StorageRefusedError as error:
            yield refused("storage: copy to the archive", error)
    try:
        yield skew("storage: clock", "storage", probe.clock_skew(settings.input_container))
    except StorageRefusedError as error:
        yield refused("storage: clock", error)


class EventWatch:
    """Whether the event of a blob in the inbox arrives: a marker is written at once, and its event waited for later."""

    def __init__(self, app: App, seconds: float = EVENT_SECONDS) -> None:
        self._app, self._inbox, self._seconds = app, app.settings.input_container, seconds
        self._end = 0.0
        self._marker = ""
        self._refused: Check | None = None

    def __enter__(self) -> Self:
        self._marker = self._app.storage_probe.marker()
        try:
            self._app.checkups.expect_marker(self._marker)
            self._app.storage_probe.put_marker(self._inbox, self._marker)
        except StorageRefusedError as error:
            self._refused = refused(EVENTS, error)
        self._end = time.monotonic() + self._seconds
        return self

    def __exit__(self, *_: object) -> None:
        self._app.storage_probe.remove_marker(self._inbox, self._marker)
        with contextlib.suppress(StorageRefusedError):
            self._app.checkups.forget_marker(self._marker)

    def check(self) -> Check:
        """Wait until the event is there or has had time enough."""
        if self._refused is not None:
            return self._refused
        while not (seen := self._app.checkups.marker_seen(self._marker)) and time.monotonic() < self._end:
            time.sleep(0.5)
        if seen:
            return Check(EVENTS, State.OK, "The event of a blob in the inbox reached the app.")
        saw = f"No event of a blob in the inbox came in {self._seconds:.0f} seconds: only the tick finds drops."
        cure = "Make the event subscription: azd hooks run postdeploy."
        if self._app.settings.trigger_source != "EventGrid":
            cure = "See that the host runs: it lists the inbox itself, as DROP_SOURCE says."
        return Check(EVENTS, State.WARNING, saw, cure)


def refused(name: str, error: StorageRefusedError) -> Check:
    """Return the check of something that storage refused."""
    cure = cure_of(error.code, error.message)
    meaning = cure.meaning if cure else error.message
    saw = sentence(f"{error.doing} failed with {error.code}. {meaning}")
    return Check(name, State.WRONG, saw, cure.cure if cure else "Look the code up in Azure Storage's error codes.")


def skew(name: str, whose: str, ahead: timedelta) -> Check:
    """Return whether a clock agrees with ours."""
    seconds = int(ahead.total_seconds())
    if abs(ahead) <= MAX_SKEW:
        return Check(name, State.OK, f"The clock of {whose} is within {int(MAX_SKEW.total_seconds())} seconds of ours.")
    direction = "ahead of" if seconds > 0 else "behind"
    saw = f"The clock of {whose} is {abs(seconds)} seconds {direction} ours."
    return Check(name, State.WRONG, saw, "Correct the clock of this machine: the app compares times of both.")


def _identity(app: App) -> Check:
    name, whom = "storage: identity", app.storage_identity()
    if whom is not None:
        return Check(name, State.OK, f"Looking as {whom}.")
    cure = "From here, sign in with az login; in Azure, see that BatchStorage__clientId names an identity of the app."
    return Check(name, State.WRONG, "No identity can sign in.", cure)


def _check(name: str, kind: str, thing: str, app: App, change: Callable[[str], None] | None) -> Check:
    if not app.storage_probe.is_there(kind, thing):
        cure = f"Create the {kind}, or deploy again (azd provision); a setting may name another one."
        return Check(name, State.WRONG, f"The {kind} does not exist.", cure)
    if change is None:
        return Check(name, State.OK, "It is there.")
    change(thing)
    return Check(name, State.OK, "It is there, and can be written and read.")
