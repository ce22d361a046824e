"""The rows of the tables, and their conversion to and from entities."""

import hashlib
import json
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import UnionType
from typing import Any, NamedTuple, get_args, get_origin

import msgspec

from batch_fn.core.jobs import Job, Outcome, Part
from batch_fn.core.names import dropped_at

TRANSACTION_LIMIT = 100  # source: Azure Tables, "Performing entity group transactions"
JOB_ROW = "job"

LAST_SECOND = 99_999_999_999
DAY_DIGITS = 6
"""Leading digits of the history key that form the partition key: about a day."""


type Row = Job | Part


class ConflictError(Exception):
    """Another instance changed the row since it was read: read it again and decide anew."""


class Stored[T: Row](NamedTuple):
    """A row with its ETag at the time it was read."""

    row: T
    etag: str


@dataclass(frozen=True, slots=True)
class ActiveJob:
    """An active job with all attempts of its parts."""

    job: Stored[Job]
    parts: list[Stored[Part]] = field(default_factory=list)

    def part(self, key: str) -> Stored[Part] | None:
        """Return the attempt with that key, None if there is none."""
        return next((stored for stored in self.parts if stored.row.key == key), None)


class FinishedJob(msgspec.Struct, frozen=True, kw_only=True):
    """A finished job: one row of the history."""

    job_id: str
    status: Outcome
    container: str
    name: str
    etag: str
    bytes: int
    requests: int
    succeeded: int
    failed: int
    finding_count: int
    total_tokens: int
    dropped_at: datetime
    finished_at: datetime
    report: str
    attempts: int = 1
    """The highest attempt of its parts; a retry continues from there."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    accepted_at: datetime | None = None
    submitted_at: datetime | None = None


class FinishedSummary(msgspec.Struct, frozen=True):
    """The columns of a finished job that list filters need."""

    job_id: str
    status: Outcome
    name: str


class FinishedUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Token and cost columns of a finished job."""

    dropped_at: datetime
    succeeded: int
    failed: int
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int
    cost: float | None = None


class Change(NamedTuple):
    """One write of a transaction. `etag` None inserts the row, which must not exist yet."""

    row: Row
    etag: str | None = None


def transactions(changes: list[Change]) -> tuple[list[list[Change]], list[Change]]:
    """Divide the changes into inserts that are written before, and those that go together with the updates."""
    inserts = [change for change in changes if change.etag is None]
    updates = [change for change in changes if change.etag is not None]
    room = TRANSACTION_LIMIT - len(updates)
    early, late = inserts[: max(0, len(inserts) - room)], inserts[max(0, len(inserts) - room) :]
    ahead = [early[start : start + TRANSACTION_LIMIT] for start in range(0, len(early), TRANSACTION_LIMIT)]
    return ahead, late + updates


def to_operation(change: Change) -> Any:
    """Return the change in the form that the SDK takes in a transaction."""
    from azure.core import MatchConditions
    from azure.data.tables import UpdateMode

    if change.etag is None:
        return ("create", to_entity(change.row))
    condition = {"mode": UpdateMode.REPLACE, "etag": change.etag, "match_condition": MatchConditions.IfNotModified}
    return ("update", to_entity(change.row), condition)


def safe_key(name: str) -> str:
    """Return a row key for a user-given name: a key does not allow every character."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def partition_and_row(job_id: str) -> tuple[str, str]:
    """Return partition and row key of a finished job: newest first, about a day to a partition."""
    return history_key(job_id)[:DAY_DIGITS], history_key(job_id)


def history_key(job_id: str) -> str:
    """Return the sort key of a job, in the history and in lists: the last dropped sorts first."""
    return f"{inverted_seconds(dropped_at(job_id))}-{job_id}"


def inverted_seconds(time: datetime) -> str:
    """Return eleven digits that sort later times first (the "log tail pattern" of Azure Tables)."""
    seconds = min(max(math.floor(time.timestamp()), 0), LAST_SECOND)
    return f"{LAST_SECOND - seconds:011d}"


def to_entity(row: Row) -> dict[str, Any]:
    """Return the entity of a job's or part's row."""
    key = row.key if isinstance(row, Part) else JOB_ROW
    return {"PartitionKey": row.job_id, "RowKey": key, **to_columns(row)}


def to_columns(row: msgspec.Struct) -> dict[str, Any]:
    """Return a column for each field: times and text as they are, integers with 64 bits, everything else as JSON."""
    from azure.data.tables import EdmType

    columns: dict[str, Any] = {}
    for name, value in msgspec.structs.asdict(row).items():
        if value is None:
            continue
        if isinstance(value, bool | datetime | float):
            columns[name] = value
        elif isinstance(value, int):
            columns[name] = (value, EdmType.INT64)
        elif isinstance(value, str):
            columns[name] = str(value)
        else:
            columns[name] = msgspec.json.encode(value).decode()
    return columns


def from_entity[T: msgspec.Struct](kind: type[T], entity: Any) -> T:
    """Return the row of an entity that `to_columns` made."""
    values: dict[str, Any] = {}
    for each in msgspec.structs.fields(kind):
        value = entity.get(each.encode_name)
        if value is None:
            continue
        if isinstance(value, tuple):  # a 64-bit integer is returned with its type
            value = value[0]
        if isinstance(value, datetime):
            value = datetime.fromtimestamp(value.timestamp(), UTC)  # the SDK's own subclass does not convert
        elif isinstance(value, str) and _is_json(each.type):
            value = json.loads(value)
        values[each.name] = value
    return msgspec.convert(values, kind)


def stored_from_entity[T: Row](kind: type[T], entity: Any) -> Stored[T]:
    """Return the row of an entity, with the ETag it was read with."""
    return Stored(from_entity(kind, entity), str(entity.metadata["etag"]))


def _is_json(kind: Any) -> bool:
    """Return whether a field of that type is stored as JSON."""
    choices = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    return any(
        get_origin(each) is tuple or (isinstance(each, type) and issubclass(each, msgspec.Struct)) for each in choices
    )
