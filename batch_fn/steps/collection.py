"""The results of ended batches are fetched: each part of the job is settled, and after the last the job is finished."""

import contextlib
import tempfile
from pathlib import Path
from typing import Any

from batch_fn.app import App
from batch_fn.core import troubles
from batch_fn.core.batches import ServiceCallError, TransientServiceError, blames_no_line, failed_for_good
from batch_fn.core.jobs import Job, JobState, Part, PartState
from batch_fn.core.members import is_pending_member, with_bundle_batch
from batch_fn.core.report import report_is_current
from batch_fn.core.troubles import FULL_DISK, Trouble
from batch_fn.core.waits import Wait
from batch_fn.runtime import clock, log
from batch_fn.runtime.memory import large_step_lock
from batch_fn.steps import part_moves
from batch_fn.steps.answers import BatchResults, ResultsNotReadyError
from batch_fn.steps.bundling import dissolve, forget_bundle
from batch_fn.steps.finishing import finish
from batch_fn.steps.settlement import PartSettlement
from batch_fn.storage.rows import ActiveJob, ConflictError, Stored


def collect(app: App, job_id: str) -> None:
    """Settle every ended part of the job, and finish the job if none is left to wait for."""
    active = app.tables.active_job(job_id)
    if active is None or active.job.row.accepted_at is None:
        return
    with large_step_lock(max(active.job.row.bytes, sum(stored.row.bytes for stored in active.parts))) as at_once:
        if at_once:
            _collect(app, active)
        else:  # one message comes for each part: the step that held the lock may have settled them all
            collect(app, job_id)


def _collect(app: App, active: ActiveJob) -> None:
    job, job_id = active.job.row, active.job.row.job_id
    if job.bundle and job.state is JobState.FINISHING:
        forget_bundle(app, job_id)
        return
    # With the report written, results may be deleted at the service already: there is nothing to collect any more.
    reported = job.state is JobState.FINISHING and report_is_current(job, app.blobs.report(job.path))
    if reported or not job.parts_left:
        finish(app, active)
        return
    errors = []
    for stored in active.parts:
        part = stored.row
        if part.state is PartState.ENDED and (part.not_before is None or part.not_before <= clock.now()):
            try:
                _try_to_settle(app, job, stored)
            except Exception as error:  # noqa: BLE001 - raised when every part has been tried
                errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ExceptionGroup(f"Not every part of job {job_id} could be settled.", errors)


def _try_to_settle(app: App, job: Job, stored: Stored[Part]) -> None:
    """Settle an ended part; if that is not possible now, leave it alone for a while, and show why.

    What was tried often enough, for ENVIRONMENT_WAIT_SECONDS, is settled with what can be fetched.
    """
    part, now = stored.row, clock.now()
    try:
        _settle(app, job, stored)
    except ConflictError:
        raise
    except Exception as error:
        trouble = troubles.met(part.collect_trouble, now, missing=isinstance(error, ResultsNotReadyError))
        if trouble.is_exhausted(now, app.settings.environment_wait_seconds):
            log.warning("collect_given_up", job_id=job.job_id, part=part.key, tries=trouble.tries, error=error)
            _settle(app, job, stored, give_up=True)
            return
        reason, retry_after = _reason(error)
        until = error.until if isinstance(error, ResultsNotReadyError) else None
        until = until or now + trouble.pause(app.settings.trouble_seconds, retry_after)
        why = Wait(reason=reason or "error", message=str(error) if reason else type(error).__name__)
        with contextlib.suppress(ConflictError):
            part_moves.postpone_collect(
                app, stored, until, why, collect_trouble=trouble, **_ended_anew(app, part, trouble)
            )
        if reason is None:
            raise


def _reason(error: Exception) -> tuple[str | None, float | None]:
    """Return why a part waits that met this error, and for how many seconds the service asks; None if unforeseen."""
    match error:
        case ResultsNotReadyError():
            return "results_missing", None
        case TransientServiceError():
            return "service", error.retry_after
        case ServiceCallError():
            return "service", None
        case OSError():
            return "disk_full" if error.errno in FULL_DISK else "disk", None
        case ExceptionGroup():
            reasons = [_reason(each) for each in error.exceptions]
            return next((each for each in reasons if each[0] is None), reasons[0])
    return None, None


def _ended_anew(app: App, part: Part, trouble: Trouble) -> dict[str, Any]:
    """Return what the service says now of an ended batch whose results are missing: fields may arrive late."""
    if trouble.missing_since is None or not part.batch_id or trouble.tries == 1:
        return {}
    try:
        batch = app.openai.retrieve(part.batch_id)
    except ServiceCallError as error:
        log.warning("batch_not_read", job_id=part.job_id, part=part.key, batch=part.batch_id, error=error)
        return {}
    if not batch.terminal:
        return {}
    told = {
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "output_blob": batch.output_blob,
        "error_blob": batch.error_blob,
        "total": batch.total,
        "completed": batch.completed,
        "failed_so_far": batch.failed,
    }
    return {name: value for name, value in told.items() if value}


def _settle(app: App, job: Job, stored: Stored[Part], *, give_up: bool = False) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        BatchResults(app, stored.row, Path(folder), members=len(job.members), give_up=give_up) as answers,
    ):
        part = part_moves.leave_results(app, stored) if answers.left else stored.row
        if not job.members:
            PartSettlement(app, job, part, answers, Path(folder), give_up=give_up).run()
        elif not answers and not blames_no_line(part.errors) and (failed_for_good(part.errors) or not part.batch_id):
            dissolve(app, job, part)
        else:
            _settle_members(app, job, part, answers, Path(folder), give_up=give_up)


def _settle_members(
    app: App, bundle: Job, bundle_part: Part, answers: BatchResults, folder: Path, *, give_up: bool
) -> None:
    """Give each member of a bundle its own results, then forget the bundle."""
    durable, errors = True, []
    for number, member in enumerate(bundle.members):
        active = app.tables.active_job(member.job_id)
        stored = active.part(member.part) if active else None
        if active is None or stored is None or not is_pending_member(bundle, stored.row):
            continue  # it has its results
        part = with_bundle_batch(stored.row, bundle_part)
        try:
            settlement = PartSettlement(app, active.job.row, part, answers, folder, member=number, give_up=give_up)
            durable &= settlement.run()
        except Exception as error:  # noqa: BLE001 - raised when every member has been tried
            errors.append(error)
    if errors:
        raise ExceptionGroup(f"Not every member of bundle {bundle.job_id} could be settled.", errors)
    if durable:
        forget_bundle(app, bundle.job_id)
