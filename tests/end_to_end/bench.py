"""The devkit's stack, with what a test wants to do and to see: drop a file, look into every place the app writes to."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from azure.data.tables import TableServiceClient

from batch_fn.app import App
from devkit.stack import Stack

PATIENCE = 60  # seconds

NO_WINDOW = {"BUNDLE_SECONDS": "3600"}
"""Small drops wait for company longer than any test: they go when the test lets them (`Bench.send_waiting`)."""

SETTINGS = {
    "TICK_SCHEDULE": "* * * * * *",
    "RESEND_SECONDS": "3",
    "EMPTY_DROP_SECONDS": "3",
    "TROUBLE_SECONDS": "1",
    "SETTLE_SECONDS": "2",
    "QUOTA_BACKOFF_SECONDS": "1",
    "MAX_PART_REQUESTS": "100",
    "MIXED_FILES": "reject",
    "MAX_DROP_REQUESTS": "1000",
    "MAX_LINE_BYTES": "100000",
    "MAX_DROP_BYTES": "10000000",
    "DOCTOR_SECONDS": "0",
}
"""What takes minutes in Azure takes seconds here, and small files go over the limits."""


def wait_for[T](look: Callable[[], T], what: str) -> T:
    """Return what `look` returns as soon as it is true."""
    end = time.monotonic() + PATIENCE
    while not (seen := look()):
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.1)
    return seen


class Bench(Stack):
    """A stack with quick settings, seen from everywhere."""

    def __init__(
        self,
        settings: Mapping[str, str] | None = None,
        *,
        service: Mapping[str, object] | None = None,
        host: Mapping[str, str | float | bool] | None = None,
    ) -> None:
        super().__init__(
            {**SETTINGS, **(settings or {})},
            service={"speed": 2000, **(service or {})},
            host={"event_seconds": 0.2, "max_poll_seconds": 0.5, **(host or {})},
        )
        self._messages: list[dict[str, Any]] = []
        self._sent: set[tuple[str, str]] = set()

    def drop(self, name: str, content: bytes, *, deployment: str | None = None) -> "Dropped":
        """Drop a file into the inbox."""
        return Dropped(self, name, content, self.user.drop(name, content, deployment=deployment))

    def messages(self, job_id: str) -> list[dict[str, Any]]:
        """Return the completion messages of the job so far. To read the queue is to empty it: all are kept here."""
        self._messages += self.user.messages()
        return [message for message in self._messages if message["job"]["job_id"] == job_id]

    def work(self, job_id: str) -> list[dict[str, Any]]:
        """Return the rows of the job that is in hand."""
        table = self._tables.get_table_client(self.settings.work_table)
        return [dict(row) for row in table.query_entities("PartitionKey eq @job", parameters={"job": job_id})]

    def send_together(self, drops: Sequence["Dropped"]) -> None:
        """Return when the drops share a bundle: it is gathered when all of them wait for company, and not before."""
        wait_for(lambda: all(self.waiting(dropped) for dropped in drops), "the drops to wait for company")
        self.service.hold()  # no member is done before the last one is seen in the bundle
        self.send_waiting(drops[:1])
        wait_for(lambda: all(self.bundle(dropped) for dropped in drops), "the bundle")
        assert len({self.bundle(dropped) for dropped in drops}) == 1
        self.service.release()

    def send_waiting(self, drops: Sequence["Dropped"]) -> None:
        """Let the time be over that parts of these drops wait for company: their messages come now, each once."""
        for dropped in drops:
            for key in self.waiting(dropped):
                if (dropped.job_id, key) not in self._sent:
                    self._sent.add((dropped.job_id, key))
                    self._app.queues.submit(dropped.job_id, key)

    def bundle(self, member: "Dropped") -> str:
        """Return the bundle that a part of the drop rides in; empty if none does."""
        return next((row["bundle"] for row in self.work(member.job_id) if row.get("bundle")), "")

    def waiting(self, dropped: "Dropped") -> list[str]:
        """Return the parts of an accepted drop that wait for company."""
        rows = self.work(dropped.job_id)
        if not any(row.get("accepted_at") for row in rows):
            return []
        return [row["RowKey"] for row in rows if row.get("state") == "waiting" and row.get("bundles")]

    def wait_for_wait(self, job_id: str) -> str:
        """Return why a part of the job waits, as soon as one does."""
        return wait_for(
            lambda: next((json.loads(row["wait"])["reason"] for row in self.work(job_id) if "wait" in row), ""),
            "a wait",
        )

    def history(self, job_id: str) -> list[dict[str, Any]]:
        """Return the rows of the finished job."""
        table = self._tables.get_table_client(self.settings.jobs_table)
        return [dict(row) for row in table.query_entities("job_id eq @job", parameters={"job": job_id})]

    @contextmanager
    def broken_history(self) -> Iterator[None]:
        """Have a row in the history that the app cannot read."""
        table = self._tables.get_table_client(self.settings.jobs_table)
        row = {"PartitionKey": "000000", "RowKey": "00000000001"}
        table.create_entity(row)
        try:
            yield
        finally:
            table.delete_entity(row)

    def batches(self, job_id: str) -> list[dict[str, Any]]:
        """Return the batches that the service has of the job, oldest first."""
        return [each for each in reversed(self.service.batches()) if (each["metadata"] or {}).get("job") == job_id]

    def files(self, job_id: str) -> list[str]:
        """Return the names of the files that the service has of the job."""
        owners = (job_id, *(batch["id"] for batch in self.batches(job_id)))
        return [file["filename"] for file in self.service.files() if file["filename"].startswith(owners)]

    def names(self, container: str, beginning: str) -> list[str]:
        """Return the names of the blobs in a container that begin so."""
        return list(self.user.blobs.get_container_client(container).list_blob_names(name_starts_with=beginning))

    @cached_property
    def _app(self) -> App:
        return App(self.settings)

    @cached_property
    def _tables(self) -> TableServiceClient:
        return TableServiceClient.from_connection_string(self.azurite.connection_string)


@dataclass(frozen=True)
class Dropped:
    """One version of a file that was dropped; `path` is where its results will be."""

    bench: Bench
    name: str
    content: bytes
    path: str

    @property
    def job_id(self) -> str:
        """The job that it becomes."""
        return self.path.rpartition("/")[2]

    def wait(self) -> dict[str, Any]:
        """Return the report as soon as the job is done, everything after the report included."""
        report = self.bench.user.wait(self.path, PATIENCE)
        wait_for(lambda: self.bench.history(self.job_id) and not self.bench.work(self.job_id), "the job to leave work")
        return report

    def batches(self, count: int = 1) -> list[dict[str, Any]]:
        """Return the service's batches of the job as soon as there are so many, oldest first."""
        enough = wait_for(
            lambda: found if len(found := self.bench.batches(self.job_id)) >= count else None, f"{count} batches"
        )
        assert enough is not None
        return enough
