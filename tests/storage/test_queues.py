"""Messages as the host and other listeners read them: base64, with one outer member."""

import base64
import json
from typing import Any

import msgspec
import pytest
from azure.storage.queue import QueueClient
from hypothesis import given
from hypothesis import strategies as st

from batch_fn.app import App
from batch_fn.settings import Settings
from batch_fn.storage.queues import Message, Queues, encode, parse_message
from devkit.azurite import Azurite
from devkit.stack import provision
from tests.conftest import JOB_ID

ODD_NAME = "a b/größer 東京 🙂 #1?.jsonl"


@pytest.fixture
def queues(azurite: Azurite, settings: Settings) -> Queues:
    provision(azurite.connection_string, settings)
    return App(settings).queues


def only_message(settings: Settings, queue: str) -> bytes:
    """What the only message of a queue holds; it is taken from the queue."""
    client = QueueClient.from_connection_string(settings.storage or "", queue)
    (message,) = client.receive_messages()
    client.delete_message(message)
    return base64.b64decode(message.content, validate=True)


def is_empty(settings: Settings, queue: str) -> bool:
    return not QueueClient.from_connection_string(settings.storage or "", queue).peek_messages()


@pytest.mark.parametrize(
    ("queue", "arguments", "body", "errand"),
    [
        ("drop", (JOB_ID, ODD_NAME), {"job_id": JOB_ID, "name": ODD_NAME}, Message(JOB_ID, name=ODD_NAME)),
        (
            "submit",
            (JOB_ID, "part-00001-01"),
            {"job_id": JOB_ID, "part": "part-00001-01"},
            Message(JOB_ID, part="part-00001-01"),
        ),
        ("collect", (JOB_ID,), {"job_id": JOB_ID}, Message(JOB_ID)),
    ],
)
def test_an_errand_goes_to_its_own_queue_and_comes_back_as_it_was(
    queues: Queues, settings: Settings, queue: str, arguments: tuple[str, ...], body: dict[str, Any], errand: Message
) -> None:
    getattr(queues, queue)(*arguments)
    sent = only_message(settings, getattr(settings, f"{queue}_queue"))
    assert json.loads(sent) == {"job": body}
    assert parse_message(sent) == errand
    assert all(is_empty(settings, name) for name in settings.queues)


def test_the_message_of_a_finished_job_says_how_it_ended_and_where_its_report_is_and_never_expires(
    queues: Queues, settings: Settings
) -> None:
    place = f"batch-reports/{ODD_NAME}/{JOB_ID}.json"
    queues.completed(JOB_ID, "succeeded", place)
    client = QueueClient.from_connection_string(settings.storage or "", settings.completed_queue)
    (message,) = client.peek_messages()
    assert message.expires_on is not None
    assert message.expires_on.year == 9999
    assert json.loads(only_message(settings, settings.completed_queue)) == {
        "job": {"job_id": JOB_ID, "status": "succeeded", "report": place}
    }


@given(st.builds(Message, st.text(), part=st.text(), name=st.text()))
def test_every_errand_comes_back_as_it_was(errand: Message) -> None:
    body = encode(errand).encode()
    assert list(json.loads(body)) == ["job"]
    assert parse_message(body) == errand


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"{}", b'{"job": null}', b'{"job": {}}', b'{"job": {"job_id": 7}}', b'{"job_id": "a"}', b"\xff"],
)
def test_a_message_that_is_not_ours_is_no_errand(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        parse_message(body)
