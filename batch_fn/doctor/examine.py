"""The whole examination: everything that a job needs, in the order in which a job needs it."""

import os
from collections.abc import Iterator, Mapping

from batch_fn.app import App
from batch_fn.core.checkup import Check, State
from batch_fn.doctor.configuration import check_settings
from batch_fn.doctor.host import check_host
from batch_fn.doctor.service import check_deployments, check_service
from batch_fn.doctor.storage import check_events, check_storage


def examine(
    app: App, environment: Mapping[str, str] = os.environ, *, changing: bool = True, deployed: bool = True
) -> Iterator[Check]:
    """Yield every check. Nothing is raised, and nothing that was written is left behind.

    `changing`: also write, copy, upload and delete; without, only read. `deployed`: this process is the app's own.
    """
    parts = (
        ("settings", lambda: check_settings(environment)),
        ("storage", lambda: check_storage(app, changing=changing)),
        ("service", lambda: check_service(app, changing=changing)),
        ("deployments", lambda: check_deployments(app)),
        ("host", lambda: check_host(app, deployed=deployed)),
        ("storage: events of the inbox", lambda: iter((check_events(app),) if changing else ())),
    )
    for name, look in parts:
        try:
            yield from look()
        except Exception as error:  # noqa: BLE001 - one thing that cannot be looked at must not hide the others
            saw = f"It could not be looked at: {type(error).__name__}."
            yield Check(name, State.UNKNOWN, saw, "Cure what is wrong above, then look again.")
