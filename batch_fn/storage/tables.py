"""Table storage: the truth about every job and part. Each change is conditional on the ETag that was read.

Three tables. *Work* has a partition for each active job, with the job's row and a row for each attempt of its parts, so
that one query reads a whole job and one transaction can change several of its rows. *Jobs* has one row for each
finished job, for ever. The rows of a finished job are deleted from work, so the cost of reading it (the tick does,
every minute) grows with active jobs and not with history. *Deployments* has what is known of each deployment's quota,
and the time of the last tick.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from batch_fn.core.deployments import Deployment
from batch_fn.core.jobs import Job, Part
from batch_fn.storage.rows import (
    DAY_DIGITS,
    JOB_ROW,
    TRANSACTION_LIMIT,
    ActiveJob,
    Change,
    ConflictError,
    FinishedJob,
    FinishedSummary,
    FinishedUsage,
    Row,
    Stored,
    from_entity,
    history_key,
    inverted_seconds,
    partition_and_row,
    safe_key,
    stored_from_entity,
    to_columns,
    to_entity,
    to_operation,
    transactions,
)

if TYPE_CHECKING:
    from azure.data.tables import TableServiceClient


HISTORY_PAGE = 1_000  # rows: the most that one call gives


class Tables:
    """Typed access to the three tables."""

    def __init__(
        self, tables: "TableServiceClient", *, jobs_table: str, work_table: str, deployments_table: str
    ) -> None:
        self._jobs = tables.get_table_client(jobs_table)
        self._work = tables.get_table_client(work_table)
        self._deployments = tables.get_table_client(deployments_table)

    def insert_if_absent(self, job: Job) -> Stored[Job]:
        """Insert the job's row if it is absent. Return the row in the table: this one, or an earlier one."""
        from azure.core.exceptions import ResourceExistsError

        try:
            answer = self._work.create_entity(to_entity(job))
        except ResourceExistsError:
            entity = self._work.get_entity(job.job_id, JOB_ROW)
            return stored_from_entity(Job, entity)
        return Stored(job, str(answer["etag"]))

    def finished(self, job_id: str) -> FinishedJob | None:
        """Return the finished job with that id, None if it is not (or not yet) in the history."""
        from azure.core.exceptions import ResourceNotFoundError

        try:
            return from_entity(FinishedJob, self._jobs.get_entity(*partition_and_row(job_id)))
        except ResourceNotFoundError:
            return None

    def active_job(self, job_id: str) -> ActiveJob | None:
        """Return the active job with that id and its parts, None if there is none."""
        query = self._work.query_entities("PartitionKey eq @job", parameters={"job": job_id})
        job: Stored[Job] | None = None
        parts: list[Stored[Part]] = []
        for entity in query:
            if entity["RowKey"] == JOB_ROW:
                job = stored_from_entity(Job, entity)
            else:
                parts.append(stored_from_entity(Part, entity))
        if job is None:
            return None
        # Parts of an earlier run were inserted late, before a transaction that then failed.
        return ActiveJob(job, [stored for stored in parts if stored.row.attempts_before == job.row.attempts_before])

    def due(self, now: datetime) -> Iterator[Stored[Job] | Stored[Part]]:
        """Yield every active row that is due at `now`."""
        for entity in self._work.query_entities("due le @now", parameters={"now": now}):
            if entity["RowKey"] == JOB_ROW:
                yield stored_from_entity(Job, entity)
            else:
                yield stored_from_entity(Part, entity)

    def active_jobs(self) -> Iterator[Job]:
        """Yield every unfinished job."""
        for entity in self._work.query_entities("RowKey eq @job", parameters={"job": JOB_ROW}):
            yield from_entity(Job, entity)

    def history[T: FinishedJob | FinishedSummary | FinishedUsage](
        self,
        kind: type[T],
        *,
        after: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        page: int = HISTORY_PAGE,
    ) -> Iterator[T]:
        """Yield the finished jobs, the last dropped first; each page is read when the one before it is used up.

        Only the columns of `kind` are read: thousands of rows may be read to show fifty. `after` is the id of a job,
        finished or not, after which to start. Both times are inclusive.
        """
        bounds = ["PartitionKey ge @low_day", "RowKey gt @low"]
        given = {"low_day": "0", "low": "0"}
        lows = [*([history_key(after)] if after else []), *([inverted_seconds(until)] if until else [])]
        if lows:
            given |= {"low_day": max(lows)[:DAY_DIGITS], "low": max(lows)}
        if since:
            high = f"{inverted_seconds(since)}-~"  # after every id
            bounds += ["PartitionKey le @high_day", "RowKey lt @high"]
            given |= {"high_day": high[:DAY_DIGITS], "high": high}
        found = self._jobs.query_entities(
            " and ".join(bounds), parameters=given, results_per_page=page, select=[*kind.__struct_fields__]
        )
        for entity in found:
            yield from_entity(kind, entity)

    def parts_of(self, deployment: str) -> Iterator[Part]:
        """Yield the parts of a deployment that hold tokens of its quota (see `admission.holds_tokens`)."""
        reserved = [f"{column} ge datetime'2000-01-01T00:00:00Z'" for column in ("admitted_at", "create_intent_at")]
        waiting = f"state eq 'waiting' and ({' or '.join(reserved)})"  # an absent column matches nothing
        query = f"deployment eq @deployment and (state eq 'open' or state eq 'claimed' or ({waiting}))"
        for entity in self._work.query_entities(query, parameters={"deployment": deployment}):
            yield from_entity(Part, entity)

    def active_parts(self) -> Iterator[Part]:
        """Yield the waiting, claimed and open parts."""
        query = "state eq 'waiting' or state eq 'open' or state eq 'claimed'"
        for entity in self._work.query_entities(query):
            yield from_entity(Part, entity)

    def bundleable(self, part: Part) -> Iterator[Stored[Part]]:
        """Yield the waiting parts, `part` among them, that may share a batch with it."""
        query = "bundles eq true and state eq 'waiting' and deployment eq @deployment and url eq @url"
        for entity in self._work.query_entities(query, parameters={"deployment": part.deployment, "url": part.url}):
            yield stored_from_entity(Part, entity)

    def bundle_members(self, bundle_id: str) -> Iterator[Stored[Part]]:
        """Yield the parts that are claimed for a bundle."""
        query = "state eq 'bundled' and bundle eq @bundle"
        for entity in self._work.query_entities(query, parameters={"bundle": bundle_id}):
            yield stored_from_entity(Part, entity)

    def deployment(self, name: str) -> Deployment:
        """Return what is known of a deployment; an empty row for one that was never used."""
        return self._deployment(name)[0]

    def deployments(self) -> Iterator[Deployment]:
        """Yield what is known of each deployment that was ever used."""
        for entity in self._deployments.query_entities("PartitionKey eq 'deployment'"):
            yield from_entity(Deployment, entity)

    def record_tick(self, at: datetime) -> None:
        """Record when a tick finished."""
        from azure.data.tables import UpdateMode

        self._deployments.upsert_entity({"PartitionKey": "tick", "RowKey": "last", "at": at}, UpdateMode.REPLACE)

    def last_tick(self) -> datetime | None:
        """Return when the last tick finished, None if none has yet."""
        from azure.core.exceptions import ResourceNotFoundError

        try:
            at = self._deployments.get_entity("tick", "last")["at"]
        except ResourceNotFoundError:
            return None
        return datetime.fromtimestamp(at.timestamp(), UTC)

    def update_deployment(self, name: str, change: Callable[[Deployment], Deployment]) -> Deployment:
        """Replace the row of a deployment with what `change` returns for it; after a conflict `change` is called again.

        Returns:
            The row as it is now; nothing is written if it has not changed.
        """
        while True:
            known, etag = self._deployment(name)
            new = change(known)
            if new == known or self._put_deployment(new, etag):
                return new

    def _deployment(self, name: str) -> tuple[Deployment, str | None]:
        from azure.core.exceptions import ResourceNotFoundError

        try:
            entity = self._deployments.get_entity("deployment", safe_key(name))
        except ResourceNotFoundError:
            return Deployment(name=name), None
        return from_entity(Deployment, entity), str(entity.metadata["etag"])

    def _put_deployment(self, deployment: Deployment, etag: str | None) -> bool:
        """Write the row on condition that it has not changed since it was read. Return whether it was written."""
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
        from azure.data.tables import UpdateMode

        entity = {"PartitionKey": "deployment", "RowKey": safe_key(deployment.name), **to_columns(deployment)}
        try:
            if etag is None:
                self._deployments.create_entity(entity)
            else:
                self._deployments.update_entity(
                    entity, UpdateMode.REPLACE, etag=etag, match_condition=MatchConditions.IfNotModified
                )
        except (ResourceExistsError, ResourceModifiedError, ResourceNotFoundError):
            return False
        return True

    def update[T: Row](self, stored: Stored[T], row: T) -> Stored[T]:
        """Replace the stored row with `row`. Return it with its new ETag.

        Raises:
            ConflictError: if the row has changed, or is gone, since it was read.
        """
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceModifiedError, ResourceNotFoundError
        from azure.data.tables import UpdateMode

        try:
            answer = self._work.update_entity(
                to_entity(row), UpdateMode.REPLACE, etag=stored.etag, match_condition=MatchConditions.IfNotModified
            )
        except (ResourceModifiedError, ResourceNotFoundError) as error:
            raise ConflictError from error
        return Stored(row, str(answer["etag"]))

    def change(self, changes: Iterable[Change]) -> None:
        """Apply all the changes to rows of one job, or none.

        Inserts beyond a transaction's limit are written before it, and have no effect until it succeeds. Rows that
        exist already, from a run that died or from a concurrent one, are left as they are: they may have moved on.

        Raises:
            ConflictError: if one of the rows has changed since it was read, or one to be inserted exists.
        """
        ahead, together = transactions([*changes])
        for some in ahead:
            with contextlib.suppress(ConflictError):
                self._transact([to_operation(change) for change in some])
        self._transact([to_operation(change) for change in together])

    def finish(self, finished: FinishedJob) -> None:
        """Insert the job into the history; repeating it changes nothing.

        Raises:
            ConflictError: if a later run of the job, after a retry, is in the history already.
        """
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceExistsError, ResourceModifiedError
        from azure.data.tables import UpdateMode

        partition, row = partition_and_row(finished.job_id)
        entity = {"PartitionKey": partition, "RowKey": row, **to_columns(finished)}
        while True:
            with contextlib.suppress(ResourceExistsError):
                self._jobs.create_entity(entity)
                return
            found = self._jobs.get_entity(partition, row)
            if from_entity(FinishedJob, found).attempts > finished.attempts:
                raise ConflictError
            etag, if_still = found.metadata["etag"], MatchConditions.IfNotModified
            with contextlib.suppress(ResourceModifiedError):
                # Replaced, not merged: columns that only the run before a retry has must go.
                self._jobs.update_entity(entity, UpdateMode.REPLACE, etag=etag, match_condition=if_still)
                return

    def delete_active(self, active: ActiveJob) -> None:
        """Delete the job's rows from work, the job row last: as long as it exists, the others can be found.

        If it has changed since it was read, another instance works on the job, and it stays.
        """
        from azure.core import MatchConditions

        condition = {"etag": active.job.etag, "match_condition": MatchConditions.IfNotModified}
        keys = [stored.row.key for stored in active.parts] + [JOB_ROW]
        for start in range(0, len(keys), TRANSACTION_LIMIT):
            some = keys[start : start + TRANSACTION_LIMIT]
            entities = [{"PartitionKey": active.job.row.job_id, "RowKey": key} for key in some]
            try:
                self._transact(
                    [("delete", each, *([condition] if each["RowKey"] == JOB_ROW else ())) for each in entities]
                )
            except ConflictError:
                return  # another instance has deleted it

    def delete_orphaned_parts(self, finished: FinishedJob) -> None:
        """Delete parts of a finished job that were inserted, before a transaction, after its rows had been deleted.

        Parts of higher attempts stay: the job is being retried.
        """
        from azure.core.exceptions import ResourceNotFoundError

        for entity in self._work.query_entities("PartitionKey eq @job", parameters={"job": finished.job_id}):
            if entity["RowKey"] != JOB_ROW and from_entity(Part, entity).attempt <= finished.attempts:
                with contextlib.suppress(ResourceNotFoundError):
                    self._work.delete_entity(entity)

    def _transact(self, operations: list[Any]) -> None:
        from azure.data.tables import TableTransactionError

        try:
            self._work.submit_transaction(operations)
        except TableTransactionError as error:
            if error.status_code in {404, 409, 412}:
                raise ConflictError from error
            raise
