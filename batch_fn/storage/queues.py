"""Storage queues: how work moves. A message may be lost, late or repeated; the tables are the truth."""

import contextlib
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from azure.storage.queue import QueueServiceClient

    from batch_fn.settings import Settings


PEEKED = 32  # source: Azure Storage, "Peek Messages"


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """A request to look at a drop, at a job, or at an attempt of one of its parts."""

    job_id: str
    part: str = ""
    name: str = ""
    """The blob in the inbox, for a drop."""


class _Envelope(msgspec.Struct, frozen=True):
    """Every body has one outer member: a top-level member such as `id` would override the trigger's metadata."""

    job: Message


class Queues:
    """The queues that the app sends to."""

    def __init__(self, service: "QueueServiceClient", settings: "Settings") -> None:
        from azure.storage.queue import TextBase64EncodePolicy

        def queue(name: str) -> Any:
            # The host expects base64; the client's own default is plain text.
            return service.get_queue_client(name, message_encode_policy=TextBase64EncodePolicy())

        self._drop = queue(settings.drop_queue)
        self._submit = queue(settings.submit_queue)
        self._collect = queue(settings.collect_queue)
        self._completed = queue(settings.completed_queue)
        names = ("webjobs-blobtrigger", settings.drop_queue, settings.submit_queue, settings.collect_queue)
        self._poison = [service.get_queue_client(f"{name}-poison") for name in names]  # read as they are

    def poisoned(self) -> dict[str, int]:
        """Return about how many messages each poison queue has."""
        from azure.core.exceptions import ResourceNotFoundError

        counts = {}
        for queue in self._poison:
            counts[queue.queue_name] = 0
            with contextlib.suppress(ResourceNotFoundError):  # the host creates it with its first message
                counts[queue.queue_name] = queue.get_queue_properties().approximate_message_count or 0
        return counts

    def poison(self) -> dict[str, tuple[int, datetime | None]]:
        """Return for each poison queue about how many messages it has, and when the oldest visible one was inserted."""
        from azure.core.exceptions import ResourceNotFoundError

        found: dict[str, tuple[int, datetime | None]] = {}
        for queue in self._poison:
            with contextlib.suppress(ResourceNotFoundError):  # the host creates it with its first message
                count = queue.get_queue_properties().approximate_message_count or 0
                # Undecoded: what no function can decode is what stays.
                peeked = queue.peek_messages(PEEKED) if count else []
                found[queue.queue_name] = count, min(filter(None, (each.inserted_on for each in peeked)), default=None)
        return found

    def drop(self, job_id: str, name: str) -> None:
        """Ask for a drop to be ingested whose event was lost, or whose reader stopped."""
        self._drop.send_message(encode(Message(job_id, name=name)))

    def submit(self, job_id: str, part: str, delay: int = 0) -> None:
        """Ask for a part to be submitted, that many seconds from now."""
        self._submit.send_message(encode(Message(job_id, part=part)), visibility_timeout=delay)

    def collect(self, job_id: str) -> None:
        """Ask for the results of a job's ended parts to be collected."""
        self._collect.send_message(encode(Message(job_id)))

    def completed(self, job_id: str, status: str, report: str) -> None:
        """Send the message that a job is finished, with the path of its report."""
        body = {"job": {"job_id": job_id, "status": status, "report": report}}
        self._completed.send_message(msgspec.json.encode(body).decode(), time_to_live=-1)


def parse_message(body: bytes) -> Message:
    """Return what a message of ours asks for. Raises: msgspec.DecodeError."""
    return msgspec.json.decode(body, type=_Envelope).job


def encode(message: Message) -> str:
    """Return the body of a message of ours."""
    return msgspec.json.encode(_Envelope(message)).decode()
