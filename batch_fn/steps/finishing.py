"""A job ends: output, errors and report are written, whoever waits is told, and what is not needed any more is deleted.

The order is the promise: where the report stands, the job's results are whole; and nothing is deleted before its copy
is durable. Every step may be done again.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from batch_fn.app import App
from batch_fn.core.jobs import Job, JobState, Outcome, Part, outcome
from batch_fn.core.report import is_of, report, service_findings
from batch_fn.core.results import Final, merge, unpack
from batch_fn.runtime import log
from batch_fn.steps.ownership import _finishing, is_over
from batch_fn.storage.blob_streams import LEAST_CHUNK_BYTES, BlobChangedError
from batch_fn.storage.blobs import DropGoneError
from batch_fn.storage.rows import ConflictError, Finished, Held, Work
from batch_fn.validation.findings import REPORTED_FINDINGS

if TYPE_CHECKING:
    from batch_fn.validation.findings import Findings


KEPT_CHUNK_BYTES = 512 * 1024
"""How much of kept results is read at a time: they are cut into lines whole, while output and errors are written."""


class DoesNotAddUpError(Exception):
    """The results of a job are not exactly its requests; it is not finished, and somebody has to look."""


def finish_rejected(app: App, held: Held[Job], findings: "Findings") -> None:
    """Write what is wrong with a drop, and close its job."""
    with _finishing(app, held) as job:
        if job is None:
            return
        written = app.containers.report(job.row.path)
        document = written or _write_findings(app, job.row, findings)
        work = app.ledger.work(job.row.job_id) or Work(job)
        _conclude(app, work, document, again=written is not None)


def finish(app: App, work: Work, last: tuple[Part, Iterator[Final]] | None = None) -> bool:
    """Bring the results of all parts together and close the job. Return False if another instance is at it.

    `last` is the part whose results are still at hand here and were not kept in the work container, with its results.

    Raises:
        DoesNotAddUpError: if the results are not exactly the job's requests.
    """
    try:
        with _finishing(app, work.job) as job:
            if job is None:
                return False
            _finish(app, job, work, last)
    except (BlobChangedError, ConflictError):
        log.warn("job_overtaken", job_id=work.job.row.job_id)  # if it was not, the tick sends for it again
        return False
    return True


def _finish(app: App, job: Held[Job], work: Work, last: tuple[Part, Iterator[Final]] | None) -> None:
    # Reports are written by jobs that finish: one that was not at it yet, and never retried, has none to look for.
    begun = work.job.row.state is JobState.FINISHING or job.row.retried_at is not None
    # What is written goes over what is there now: whoever stops in the midst of it must not go on over a retry's.
    over = _versions(app, job.row) if begun else _Versions()
    found = app.containers.report(job.row.path) if begun else None
    if found is not None and is_of(job.row, found):
        document = found
    else:
        parts = _settled(work, last[0] if last else None)
        document = _write_results(app, job.row, parts, last, former=found, over=over)
    _conclude(app, Work(job, work.parts), document, again=document is found)


class _Versions(NamedTuple):
    """The versions of a job's blobs; None for one that is not there."""

    output: str | None = None
    errors: str | None = None
    report: str | None = None


def _versions(app: App, job: Job) -> _Versions:
    settings, version = app.settings, app.containers.version
    return _Versions(
        output=version(settings.output_container, f"{job.path}.jsonl"),
        errors=version(settings.errors_container, f"{job.path}.jsonl"),
        report=version(settings.reports_container, f"{job.path}.json"),
    )


def _write_findings(app: App, job: Job, findings: "Findings") -> dict[str, Any]:
    """Write errors and report of a rejected drop. Return the report."""
    errors = app.containers.write(app.settings.errors_container, f"{job.path}.jsonl", findings.lines())
    try:
        app.containers.keep(job.container, job.name, job.etag, job.path)
        archive: str | None = app.containers.kept(job.path)
    except DropGoneError:
        archive = None
    document = report(
        job,
        status=Outcome.REJECTED,
        succeeded=0,
        failed=0,
        findings=findings.first,
        finding_count=findings.count,
        outputs={"output": None, "errors": errors, "archive": archive},
    )
    app.containers.write_report(job.path, document)
    return document


def _settled(work: Work, last: Part | None) -> list[Part]:
    """Return every attempt as it is when all are settled, in the order of parts and attempts."""
    parts = {held.row.key: held.row for held in work.parts}
    if last is not None:
        parts[last.key] = last
    return sorted(parts.values(), key=lambda part: (part.number, part.attempt))


def _write_results(
    app: App,
    job: Job,
    parts: list[Part],
    last: tuple[Part, Iterator[Final]] | None,
    *,
    former: dict[str, Any] | None,
    over: _Versions,
) -> dict[str, Any]:
    """Write output, errors and report; `former` is the report before the job was retried. Return the report."""
    settings, containers = app.settings, app.containers
    output = containers.writer(settings.output_container, f"{job.path}.jsonl", over=over.output)
    errors = containers.writer(settings.errors_container, f"{job.path}.jsonl", over=over.errors)
    previous = 0
    with errors, output:  # the output comes first: a retry makes more of it, and may leave no errors
        for final in merge(_streams(app, parts, last)):
            if final.line <= previous:
                raise DoesNotAddUpError(f"Line {final.line} of job {job.job_id} has two results.")
            previous = final.line
            (output if final.succeeded else errors).write(final.raw + b"\n")
        if output.lines + errors.lines != job.requests:
            raise DoesNotAddUpError(
                f"Job {job.job_id} has {job.requests} requests, but {output.lines} succeeded and {errors.lines} failed."
            )
    findings = service_findings(parts)
    document = report(
        job,
        status=outcome(succeeded=output.lines, failed=errors.lines, cancelled=job.cancelled),
        succeeded=output.lines,
        failed=errors.lines,
        findings=findings[:REPORTED_FINDINGS],
        finding_count=len(findings),
        outputs={"output": output.place, "errors": errors.place, "archive": containers.kept(job.path)},
        parts=parts,
        former=former,
        prices=settings.prices,
    )
    try:
        containers.write_report(job.path, document, over.report)
    except BlobChangedError:
        if errors.version is not None and is_over(app, job):  # a retry has left none: these are of before
            containers.remove(settings.errors_container, f"{job.path}.jsonl", errors.version)
        raise
    return document


def _streams(
    app: App, parts: list[Part], last: tuple[Part, Iterator[Final]] | None
) -> Iterator[tuple[int, Iterator[Final]]]:
    """Yield the results of each attempt, with a line that none of them is before.

    The parts of a drop mostly follow one another, and are then read so; those that are read side by side share a chunk.
    """
    first_lines: dict[int, int] = {}
    for part in parts:
        first_lines.setdefault(part.number, part.source.first_line)  # lines of it are what later attempts have
    side_by_side = max(Counter(first_lines[part.number] for part in parts if part.results).values(), default=1)
    chunk_bytes = max(LEAST_CHUNK_BYTES, KEPT_CHUNK_BYTES // side_by_side)
    for part in parts:
        if last is not None and part.key == last[0].key:
            yield first_lines[part.number], last[1]
        elif part.results:
            chunks = app.containers.read(app.settings.work_container, part.results, chunk_bytes=chunk_bytes)
            yield first_lines[part.number], map(unpack, _split(chunks))


def _split(chunks: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole


def _conclude(app: App, work: Work, document: dict[str, Any], *, again: bool) -> None:
    """Do what comes after the report: tell, empty the inbox, enter the history, delete what is not needed any more."""
    job = work.job.row
    place = f"{app.settings.reports_container}/{job.path}.json"
    if job.retried_at is not None and document["outputs"]["errors"] is None:
        app.containers.remove(app.settings.errors_container, f"{job.path}.jsonl")  # of the former attempt
    if not again or not is_over(app, job):
        app.queues.completed(job.job_id, document["status"], place)
        app.containers.take_out(job.container, job.name, job.etag)
        attempts = max((held.row.attempt for held in work.parts), default=1)
        app.ledger.finish(_history(job, document, place, attempts))
    _clean_up(app, work)
    app.ledger.forget(work)
    counts = document["counts"]
    log.note("job_finished", job_id=job.job_id, status=document["status"], **counts)


def _clean_up(app: App, work: Work) -> None:
    """Delete the job's files at the service and its blobs in the work container: what they held is in the results."""
    if app.settings.delete_service_files:
        for held in work.parts:
            app.service.delete_files_of(held.row)
    # Known to the ledger or not: whoever wrote a blob may have died before it said so.
    app.containers.clear_work(work.job.row.work_folder)


def _history(job: Job, document: dict[str, Any], place: str, attempts: int) -> Finished:
    document = msgspec.to_builtins(document)
    return Finished(
        job_id=job.job_id,
        status=Outcome(document["status"]),
        container=job.container,
        name=job.name,
        etag=job.etag,
        bytes=job.bytes,
        requests=document["counts"]["requests"],
        succeeded=document["counts"]["succeeded"],
        failed=document["counts"]["failed"],
        finding_count=document["finding_count"],
        total_tokens=document["usage"]["total_tokens"],
        prompt_tokens=document["usage"]["prompt_tokens"],
        completion_tokens=document["usage"]["completion_tokens"],
        cost=document["cost"],
        accepted_at=_time(document["times"]["accepted"]),
        submitted_at=_time(document["times"]["submitted"]),
        dropped_at=job.dropped_at,
        finished_at=job.finished_at or job.dropped_at,
        report=place,
        attempts=attempts,
    )


def _time(stamped: str | None) -> datetime | None:
    return datetime.fromisoformat(stamped) if stamped else None
