"""What must be true when all is quiet again, whatever went wrong before: rules 1 to 5 of the design, seen from outside.

`look` reads everything there is to see, once; `broken_promises` names each promise that is broken, in a sentence.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from azure.core.exceptions import ResourceNotFoundError
from azure.data.tables import TableEntity, TableServiceClient

from batch_fn.core.names import part_key
from batch_fn.settings import Settings
from devkit.azure_openai.process import AzureOpenAI
from devkit.user import User
from tests.reliability.drops import Drop, Dropped, Fate, Former

GONE = "drop_gone"
"""The finding of a version that was overwritten while it was read."""


@dataclass(frozen=True)
class Place:
    """Where an app works: its storage, under the names of its settings, and its service."""

    connection_string: str
    settings: Settings
    service: AzureOpenAI

    @property
    def user(self) -> User:
        """Somebody with access to the storage."""
        return User(self.connection_string, self.settings)


@dataclass(frozen=True)
class Evidence:
    """Everything that there is to see from outside."""

    reports: dict[str, dict[str, Any]]
    """By path."""
    results: dict[str, bytes]
    """Each blob that holds results or an archived drop, by its place."""
    history: dict[str, list[str]]
    """The status of each row of a finished job, by job id."""
    messages: dict[str, list[dict[str, Any]]]
    """The completion messages, by job id."""
    runs: dict[str, tuple[int, int]]
    """How often the service ran a line, and how often it answered it, by custom_id."""
    batches: dict[str, dict[str, str]]
    """The metadata of each batch at the service, by its id."""
    leftovers: list[str]
    """What ought to be gone."""


def look(place: Place) -> Evidence:
    """Read everything."""
    settings, user = place.settings, place.user
    reports = _blobs(user, settings.reports_container)
    results: dict[str, bytes] = {}
    for container in (settings.output_container, settings.errors_container, settings.archive_container):
        results |= {f"{container}/{name}": content for name, content in _blobs(user, container).items()}
    tables = TableServiceClient.from_connection_string(place.connection_string)
    history = defaultdict(list)
    for row in tables.get_table_client(settings.jobs_table).list_entities():
        history[str(row["job_id"])].append(str(row["status"]))
    return Evidence(
        reports={name.removesuffix(".json"): json.loads(content) for name, content in reports.items()},
        results=results,
        history=history,
        messages=_messages(user),
        runs={run["custom_id"]: (run["count"], run["succeeded"]) for run in place.service.executions()},
        batches={batch["id"]: batch["metadata"] or {} for batch in place.service.batches()},
        leftovers=list(work_left(place)),
    )


def work_left(place: Place) -> Iterator[str]:
    """Yield what is not there any more once every job is done."""
    settings, user = place.settings, place.user
    for name in user.inbox():
        yield f"{name} lies in the inbox"
    for name in user.blobs.get_container_client(settings.work_container).list_blob_names():
        yield f"the blob {name} is left in {settings.work_container}"
    work = TableServiceClient.from_connection_string(place.connection_string).get_table_client(settings.work_table)
    for row in work.list_entities():
        yield f"the row {row['RowKey']} of {row['PartitionKey']} is left in {settings.work_table}: {row.get('state')}"
    for file in place.service.files():
        yield f"the file {file['filename']} is left at the service"
    for batch in place.service.batches():
        if batch["status"] not in {"completed", "failed", "expired", "cancelled"}:
            yield f"the batch {batch['id']} is {batch['status']} at the service"


def work_rows(place: Place, job_id: str) -> list[TableEntity]:
    """Return the rows of a job that is in hand."""
    work = TableServiceClient.from_connection_string(place.connection_string).get_table_client(
        place.settings.work_table
    )
    return list(work.query_entities("PartitionKey eq @job", parameters={"job": job_id}))


def as_it_stands(place: Place, dropped: Dropped) -> Former:
    """Return what a job that has a report has come to."""
    report = place.user.report(dropped.path) or {}
    return Former(report, place.user.lines(report["outputs"]["output"]), cancelled=dropped.cancel is not None)


def stands(place: Place, dropped: Dropped) -> bool:
    """Return whether a job that is retried has a report: the former one, or a new one."""
    report, former = place.user.report(dropped.path), dropped.former[-1].report
    return report is not None and (report == former or report["times"]["retried"] != former["times"]["retried"])


def broken_promises(evidence: Evidence, dropped: Sequence[Dropped]) -> list[str]:
    """Return each promise that is broken, in a sentence; none if all is well."""
    known = {each.path for each in dropped}
    strangers = [f"there is a report {path} that no drop asked for" for path in evidence.reports.keys() - known]
    of_jobs = [
        f"{each.drop.name}, job {each.job_id}: {sentence}" for each in dropped for sentence in _of_job(evidence, each)
    ]
    return [*evidence.leftovers, *strangers, *of_jobs]


def _of_job(evidence: Evidence, dropped: Dropped) -> Iterator[str]:
    report = evidence.reports.get(dropped.path)
    if report is None:
        if dropped.overwritten:
            yield from _nothing_ran(evidence, dropped.drop, "but it was overwritten before it was a job")
        else:
            yield "it has no report"
        return
    yield from _told(evidence, dropped, report)
    yield from _archived(evidence, dropped, report)
    if report["status"] == "rejected":
        yield from _rejected(evidence, dropped, report)
    elif dropped.drop.spoiled:
        yield f"it is {report['status']}, but must be rejected"
    else:
        yield from _answered(evidence, dropped, report)
        yield from _of_cancel(evidence, dropped, report)
        yield from _of_retries(evidence, dropped, report)


def _told(evidence: Evidence, dropped: Dropped, report: dict[str, Any]) -> Iterator[str]:
    """One row in the history that says what the report says, and at least one message of each run."""
    rows = evidence.history.get(dropped.job_id, [])
    if rows != [report["status"]]:
        yield f"its rows in the history say {rows}, its report says {report['status']}"
    messages = evidence.messages.get(dropped.job_id, [])
    ended = [*(former.report["status"] for former in dropped.former), report["status"]]
    told = Counter(message["status"] for message in messages)
    if not Counter(ended) <= told or not told.keys() <= set(ended):
        yield f"it ended as {ended}, and its completion messages say {dict(told)}"
    for message in messages:
        if not message["report"].endswith(f"/{dropped.path}.json"):
            yield f"its completion message is wrong: {message}"


def _archived(evidence: Evidence, dropped: Dropped, report: dict[str, Any]) -> Iterator[str]:
    archive = report["outputs"]["archive"]
    if archive is None and dropped.overwritten:
        return
    if evidence.results.get(archive or "") != dropped.drop.content:
        yield f"its archive {archive} is not what was dropped"


def _rejected(evidence: Evidence, dropped: Dropped, report: dict[str, Any]) -> Iterator[str]:
    """No line was run, and errors has the findings."""
    gone = [finding["code"] for finding in report["findings"]] == [GONE]
    if not dropped.drop.spoiled and not (gone and dropped.overwritten):
        yield f"it was rejected: {report['findings'][:3]}"
    findings = _lines(evidence, report["outputs"]["errors"])
    if len(findings) != report["finding_count"] or findings[:100] != report["findings"]:
        yield "its errors are not the findings of its report"
    yield from _nothing_ran(evidence, dropped.drop, "but it was rejected")


def _nothing_ran(evidence: Evidence, drop: Drop, why: str) -> Iterator[str]:
    for line in drop.lines:
        if line.custom_id in evidence.runs:
            yield f"{line.custom_id} was run, {why}"


def _answered(evidence: Evidence, dropped: Dropped, report: dict[str, Any]) -> Iterator[str]:
    """Every line is in exactly one of output and errors, in input order, the right one, and was paid for once."""
    output = [line["custom_id"] for line in _lines(evidence, report["outputs"]["output"])]
    errors = [line["custom_id"] for line in _lines(evidence, report["outputs"]["errors"])]
    lines = dropped.drop.lines
    for ids, blob in ((output, "output"), (errors, "errors")):
        if ids != [line.custom_id for line in lines if line.custom_id in set(ids)]:
            yield f"{blob} is not a part of the drop in its order: {ids}"
        if bool(ids) != (report["outputs"][blob] is not None):
            yield f"its {blob} is {report['outputs'][blob]}, with {len(ids)} lines"
    counts = {"requests": len(lines), "succeeded": len(output), "failed": len(errors)}
    if report["counts"] != counts:
        yield f"its report counts {report['counts']}, its files {counts}"
    for line in lines:
        places = [(line.custom_id in output, "output"), (line.custom_id in errors, "errors")]
        found = [place for there, place in places if there]
        if len(found) != 1:
            yield f"{line.custom_id} is in {' and '.join(found) or 'neither output nor errors'}"
            continue
        if found[0] not in _due_places(line.fate, dropped):
            yield f"{line.custom_id} must be {line.fate}, but is in {found[0]}"
        runs, answers = evidence.runs.get(line.custom_id, (0, 0))
        if answers != (found == ["output"]):
            yield f"{line.custom_id} was answered {answers} times by the service, and is in {found[0]}"
        due = line.executions_after(len(dropped.former))
        if runs > due:
            yield f"{line.custom_id} was run {runs} times, {due} at most are its due"


def _due_places(fate: Fate, dropped: Dropped) -> set[str]:
    """Return where a line may be; it need not be answered if the job was cancelled."""
    if fate is Fate.FAILED or (fate is Fate.MENDED and not dropped.former):
        return {"errors"}
    stopped = dropped.cancel or (fate is Fate.MENDED and any(former.cancelled for former in dropped.former))
    return {"output", "errors"} if stopped else {"output"}


def _of_cancel(evidence: Evidence, dropped: Dropped, report: dict[str, Any]) -> Iterator[str]:
    """It is cancelled if somebody was told so, and nothing was sent from then on but what was on its way."""
    if (report["status"] == "cancelled") != (dropped.cancel is not None):
        yield f"it is {report['status']}, and its cancel was answered with {'yes' if dropped.cancel else 'no'}"
    if dropped.cancel is None:
        return
    for batch_id, metadata in evidence.batches.items():
        late = metadata.get("job") == dropped.job_id and batch_id not in dropped.cancel.batches
        if late and part_key(int(metadata["part"]), int(metadata["attempt"])) not in dropped.cancel.on_their_way:
            yield f"the batch {batch_id} of {metadata} was made after it was cancelled"


def _of_retries(evidence: Evidence, dropped: Dropped, report: dict[str, Any]) -> Iterator[str]:
    """Every answer and every batch of a former run is still there; no blob is there that the report does not name."""
    output = _lines(evidence, report["outputs"]["output"])
    for former in dropped.former:
        if former.cancelled != (former.report["status"] == "cancelled"):
            yield f"it was {former.report['status']} before its retry, cancelled: {former.cancelled}"
        lost = [line["custom_id"] for line in former.output if line not in output]
        if lost:
            yield f"it was retried, and the answers of before are lost: {lost}"
        if any(batch not in report["batches"] for batch in former.report["batches"]):
            yield "it was retried, and its report does not tell the batches of before"
    named = set(report["outputs"].values())
    for place in evidence.results:
        if place.endswith(f"/{dropped.path}.jsonl") and place not in named:
            yield f"{place} is there, and its report does not name it"


def _lines(evidence: Evidence, place: str | None) -> list[dict[str, Any]]:
    return [json.loads(line) for line in evidence.results.get(place or "", b"").splitlines()]


def _blobs(user: User, container: str) -> dict[str, bytes]:
    client = user.blobs.get_container_client(container)
    found = {}
    for name in list(client.list_blob_names()):
        try:
            found[name] = client.get_blob_client(name).download_blob().readall()
        except ResourceNotFoundError:
            continue
    return found


def _messages(user: User) -> dict[str, list[dict[str, Any]]]:
    messages = defaultdict(list)
    for message in user.messages():
        messages[message["job"]["job_id"]].append(message["job"])
    return messages
