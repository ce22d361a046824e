"""An examination by the deployed app: asked for over HTTP, done by a queue function, remembered in a row."""

import secrets
from datetime import timedelta

import msgspec

from batch_fn.app import App
from batch_fn.core.checkup import Check, Examination, State, troubles, worst
from batch_fn.core.errors import NoSuchExaminationError
from batch_fn.doctor.examine import examine
from batch_fn.runtime import clock, log
from batch_fn.storage.checkups import ASKED, LAST

PATIENCE = timedelta(minutes=15)
"""An examination takes two minutes at most; one that is not there by then was given up."""


def ask(app: App) -> Examination:
    """Ask for an examination; one that runs already is not asked for again. Return it."""
    running = app.checkups.read(ASKED)
    if running is not None and running.ended_at is None and not _given_up(running):
        return running
    examination = Examination(id=secrets.token_hex(8), asked_at=clock.now())
    app.checkups.ask(examination)
    return examination


def run(app: App, examination_id: str) -> None:
    """Do the examination that a message asks for, unless it is done or another was asked for since."""
    asked = app.checkups.read(ASKED)
    if asked is None or asked.id != examination_id or asked.ended_at is not None:
        return
    key = "The request for this examination came with a key that the host took."
    checks = [*examine(app), Check("host: function key", State.OK, key)]
    app.checkups.write(ASKED, msgspec.structs.replace(asked, ended_at=clock.now(), checks=checks))
    app.checkups.remember(checks, asked.asked_at)
    log.info("doctor_done", state=worst(checks), checks=len(checks))


def result(app: App, examination_id: str) -> Examination:
    """Return the examination as far as it is. Raises: NoSuchExaminationError."""
    asked = app.checkups.read(ASKED)
    if asked is None or asked.id != examination_id:
        raise NoSuchExaminationError(examination_id)
    if asked.ended_at is None and _given_up(asked):
        minutes = int(PATIENCE.total_seconds() // 60)
        saw = f"The function `doctor` did not come to its end within {minutes} minutes."
        cure = f"Look at the log of that function, and for messages on the queue {app.settings.doctor_queue}."
        return msgspec.structs.replace(
            asked, ended_at=clock.now(), checks=[Check("host: doctor", State.WRONG, saw, cure)]
        )
    return asked


def look_hourly(app: App) -> None:
    """Look at what can be seen without a change to anything, if it is time, and log what somebody should act upon."""
    now, every = clock.now(), timedelta(seconds=app.settings.doctor_seconds)
    if not every:
        return
    last = app.checkups.read(LAST)
    if last is not None and now - last.asked_at < every:
        return
    # Written first: a look that ends the process is not to be repeated by each tick.
    app.checkups.write(LAST, Examination(id=LAST, asked_at=now, ended_at=now, checks=last.checks if last else []))
    checks = [*examine(app, changing=False)]
    app.checkups.remember(checks, now)
    for check in troubles(checks):
        log.warning("doctor_found", check=check.name, state=check.state, saw=check.saw, cure=check.cure)


def _given_up(asked: Examination) -> bool:
    return clock.now() - asked.asked_at > PATIENCE
