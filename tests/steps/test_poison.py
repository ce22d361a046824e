"""The tick tells of what stays in a poison queue, on Azurite's queues."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from azure.storage.queue import QueueClient

from batch_fn.app import App
from batch_fn.runtime import clock, log
from batch_fn.settings import Settings
from batch_fn.steps.poison import STALE, warn_of_poison
from devkit.azurite import Azurite
from devkit.stack import provision

LATER = STALE + timedelta(seconds=30)


@pytest.fixture
def app(azurite: Azurite, settings: Settings) -> App:
    provision(azurite.connection_string, settings)
    return App(settings)


@pytest.fixture
def told() -> Iterator[list[object]]:
    """The queues that the log names as keeping a message."""
    told: list[object] = []
    log.set_listener(lambda event, _, facts: told.append(facts["queue"]) if event == "poison_stays" else None)
    yield told
    log.set_listener(None)


@pytest.fixture
def poison(settings: Settings) -> QueueClient:
    queue = QueueClient.from_connection_string(settings.storage or "", f"{settings.submit_queue}-poison")
    queue.create_queue()
    return queue


def test_what_no_function_can_decode_is_told_of_after_a_while(
    app: App, poison: QueueClient, told: list[object]
) -> None:
    poison.send_message("not base64!")
    warn_of_poison(app, clock.now())
    assert told == []
    warn_of_poison(App(app.settings), clock.now() + LATER)  # of any process
    assert told == [poison.queue_name]


def test_what_is_hidden_at_each_look_is_told_of_too(app: App, poison: QueueClient, told: list[object]) -> None:
    """The host hides a message that fails on a poison queue for ten minutes: peeking does not show it."""
    poison.send_message("not base64!")
    assert poison.receive_message(visibility_timeout=600)
    assert poison.peek_messages() == []
    warn_of_poison(app, clock.now())
    warn_of_poison(app, clock.now() + LATER)
    assert told == [poison.queue_name]


def test_what_has_come_and_gone_is_not_told_of(app: App, poison: QueueClient, told: list[object]) -> None:
    now = clock.now()
    for looks in range(3):
        poison.send_message("now and then")
        assert poison.receive_message(visibility_timeout=600)
        warn_of_poison(app, now + looks * timedelta(minutes=12))
        poison.clear_messages()
        warn_of_poison(app, now + looks * timedelta(minutes=12) + timedelta(minutes=6))
    assert told == []
