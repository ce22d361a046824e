"""The doctor's blobs in the inbox become no job by any way in; every other name is a drop."""

import json
from datetime import timedelta

import pytest

from batch_fn.app import App
from batch_fn.runtime import clock
from batch_fn.settings import Settings
from batch_fn.steps import polling
from batch_fn.steps.intake import ingest
from batch_fn.steps.poison import poisoned_event
from batch_fn.storage.probe import FOLDER, is_over, is_reserved
from batch_fn.storage.rows import FinishedJob
from devkit.azurite import Azurite
from devkit.stack import provision

HEX = "0123456789abcdef"
MARKER, TRY = f"{FOLDER}/marker-{HEX}", f"{FOLDER}/try-{HEX}"


@pytest.fixture
def app(azurite: Azurite, settings: Settings) -> App:
    provision(azurite.connection_string, settings)
    return App(settings)


def put(app: App, name: str) -> None:
    app.blobs.drop_client(name).upload_blob(b"doctor", overwrite=True)


def inbox(app: App) -> list[str]:
    return [drop.name for drop in app.blobs.inbox()]


def test_the_event_of_a_marker_is_recorded_and_the_marker_deleted(app: App) -> None:
    app.checkups.expect_marker(MARKER)
    put(app, MARKER)
    assert not app.checkups.marker_seen(MARKER)
    ingest(app, MARKER)
    assert app.checkups.marker_seen(MARKER)
    assert inbox(app) == []
    assert [*app.tables.active_jobs()] == []
    app.checkups.forget_marker(MARKER)
    put(app, MARKER)
    ingest(app, MARKER)  # too late: nobody waits for it
    assert not app.checkups.marker_seen(MARKER)


def test_a_try_is_left_to_who_wrote_it_until_it_must_have_been_left_behind(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(app, TRY)
    ingest(app, TRY)
    assert inbox(app) == [TRY]
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now + timedelta(minutes=11))
    polling.tick(app)
    assert inbox(app) == []
    assert [*app.tables.active_jobs()] == []


def test_the_tick_does_not_take_a_marker_for_its_event(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    app.checkups.expect_marker(MARKER)
    put(app, MARKER)
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now + timedelta(minutes=11))
    polling.tick(app)
    assert inbox(app) == []
    assert not app.checkups.marker_seen(MARKER)


def test_a_poison_message_of_a_marker_makes_no_job(app: App) -> None:
    put(app, MARKER)
    drop = app.blobs.drop(MARKER)
    assert drop is not None
    message = {"FunctionId": "x", "ContainerName": drop.container, "BlobName": MARKER, "ETag": drop.etag}
    poisoned_event(app, json.dumps(message).encode())
    assert [*app.tables.active_jobs()] == []


@pytest.mark.parametrize(
    "name",
    [
        f"{MARKER}.jsonl",
        f"{FOLDER}/x.jsonl",
        f"a/{MARKER}",
        f"{FOLDER}/marker-{HEX[:-1]}",
        f"{FOLDER}/marker-{HEX[:-1]}G",
    ],
)
def test_every_other_name_is_a_drop(app: App, name: str) -> None:
    assert not is_reserved(name)
    put(app, name)
    ingest(app, name)
    (job,) = app.tables.history(FinishedJob)  # rejected: it has no requests
    assert job.name == name


def test_a_marker_is_over_at_once_and_a_try_after_ten_minutes() -> None:
    now = clock.now()
    assert is_over(MARKER, now)
    assert not is_over(TRY, now - timedelta(minutes=9))
    assert is_over(TRY, now - timedelta(minutes=11))
