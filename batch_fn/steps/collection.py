"""An ended batch's results come home: each line of its part is kept as final, or goes into the part's next attempt."""

import os
import tempfile
from array import array
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from batch_fn.app import App
from batch_fn.core.batches import REQUEST_TOO_LARGE, failed_for_good
from batch_fn.core.jobs import (
    CANCELLED,
    InputRange,
    Job,
    JobState,
    Part,
    PartState,
    Usage,
    is_pending_member,
    with_bundle_batch,
)
from batch_fn.core.planning import next_attempt
from batch_fn.core.report import report_is_current
from batch_fn.core.results import NO_RESPONSE, FinalResult, Verdict, no_response, pack, read_result
from batch_fn.runtime import clock, log
from batch_fn.runtime.memory import large_step_lock
from batch_fn.steps import part_moves
from batch_fn.steps.answers import BatchResults, Location, ResultsNotReadyError
from batch_fn.steps.bundling import bundled_id, dissolve, forget_bundle, may_bundle
from batch_fn.steps.finishing import finish
from batch_fn.steps.ownership import delete_orphaned_work
from batch_fn.storage.part_lines import SourceLine, picked, read_lines
from batch_fn.storage.rows import ActiveJob, Change, ConflictError, Stored
from batch_fn.validation.requests import custom_id_of, with_custom_id


def collect(app: App, job_id: str) -> None:
    """Settle every ended part of the job, and finish the job if none is left to wait for."""
    active = app.tables.active_job(job_id)
    if active is None or active.job.row.accepted_at is None:
        return
    with large_step_lock(max(active.job.row.bytes, sum(stored.row.bytes for stored in active.parts))) as at_once:
        if at_once:
            _collect(app, active)
        else:  # one message comes for each part: whoever had the turn may have settled them all
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
    for stored in active.parts:
        if stored.row.state is PartState.ENDED:
            try:
                _settle_ended(app, job, stored.row)
            except ResultsNotReadyError as error:
                log.warning("results_not_yet", job_id=job_id, part=stored.row.key, missing=error, until=error.until)
                part_moves.postpone_collect(app, stored, error.until)


def _settle_ended(app: App, job: Job, part: Part) -> None:
    with tempfile.TemporaryDirectory() as folder, BatchResults(app, part, Path(folder)) as answers:
        if not job.members:
            PartSettlement(app, job, part, answers, Path(folder)).run()
        elif not answers and (failed_for_good(part.errors) or not part.batch_id):
            dissolve(app, job, part)
        else:
            _settle_members(app, job, part, answers, Path(folder))


def _settle_members(app: App, bundle: Job, bundle_part: Part, answers: BatchResults, folder: Path) -> None:
    """Give each member of a bundle its own results, then forget the bundle."""
    durable, errors = True, []
    for number, member in enumerate(bundle.members):
        active = app.tables.active_job(member.job_id)
        stored = active.part(member.part) if active else None
        if active is None or stored is None or not is_pending_member(bundle, stored.row):
            continue  # it has its results
        part = with_bundle_batch(stored.row, bundle_part)
        try:
            durable &= PartSettlement(app, active.job.row, part, answers, folder, member=number).run()
        except Exception as error:  # noqa: BLE001 - raised when all have had their turn
            errors.append(error)
    if errors:
        raise ExceptionGroup(f"Not every member of bundle {bundle.job_id} could be settled.", errors)
    if durable:
        forget_bundle(app, bundle.job_id)


class PartSettlement:
    """Settles one part with its batch's answers: each line is final, or is picked for the next attempt.

    `member` is the part's number in the bundle that it rode in, if it did.
    """

    def __init__(
        self, app: App, job: Job, part: Part, answers: BatchResults, folder: Path, member: int | None = None
    ) -> None:
        self._app, self._job, self._part, self._answers, self._member = app, job, part, answers, member
        self._picks = folder / "picks"
        self._finals = FinalResults(answers, folder / "made")
        self._usage = Usage() if member is not None else answers.usage

    def run(self) -> bool:
        """Sort the part's lines, and write down what came of it. Return whether that is durable now."""
        self._sort()
        if self._member is None:  # nobody else asks, and the job may now be finished, which takes memory of its own
            self._answers.forget_places()
        return self._persist()

    def _sort(self) -> None:
        """Go through the part's lines in order: each is final, or is picked for the next attempt."""
        self.succeeded = self.failed = self.again = self.again_characters = 0
        settings = self._app.settings
        with self._finals as finals, self._picks.open("wb") as picks:
            for source in read_lines(self._app.blobs, self._part.source, settings.max_line_bytes):
                succeeded = self._decide(source, finals)
                if succeeded is None:
                    picks.write(picked(source))
                    self.again += 1
                    self.again_characters += len(source.raw)
                else:
                    self.succeeded += succeeded
                    self.failed += not succeeded

    def _decide(self, source: SourceLine, finals: "FinalResults") -> bool | None:
        """Note the line's final result, and return whether it succeeded; None if it is to be tried again."""
        custom_id = custom_id_of(source.raw)
        place = self._answers.place(custom_id if self._member is None else bundled_id(self._member, source.line))
        unanswered = not self._answers.output_lost if place is None else place.verdict is Verdict.RETRY
        if unanswered and self._may_try_again():
            return None
        if place is None:
            finals.make(source.line, no_response(custom_id, *self._why()), succeeded=False)
            return False
        succeeded = place.verdict is Verdict.SUCCEEDED
        if self._member is None:
            finals.note(source.line, place)
            return succeeded
        raw = with_custom_id(self._answers.read(place), custom_id)
        result = read_result(raw)
        self._usage += result.usage if result else Usage()
        finals.make(source.line, raw, succeeded=succeeded)
        return succeeded

    def _may_try_again(self) -> bool:
        attempts_left = self._part.attempt - self._part.attempts_before < self._app.settings.max_attempts
        # A job that was being finished had no line left to try: one that misses its result now has lost it since.
        decided = self._job.cancelled or self._job.state is JobState.FINISHING
        return attempts_left and not decided and not failed_for_good(self._part.errors)

    def _why(self) -> tuple[str, str]:
        """Return why there is no response, in a sentence and as a code."""
        part = self._part
        if any(error.code == CANCELLED for error in part.errors):
            return f"The job was cancelled before this request was sent on attempt {part.attempt}.", NO_RESPONSE
        if not part.batch_id and part.errors and part.errors[0].code == REQUEST_TOO_LARGE:
            return part.errors[0].message, REQUEST_TOO_LARGE
        said = "; ".join(f"{error.code}: {error.message}" for error in part.errors[:3])
        if self._answers.output_lost:
            said = "its output is gone from the service"
        how = f"The batch ended as {part.batch_status}" if part.batch_id else "The service refused the batch"
        said = f" ({said})" if said else ""
        return f"{how}{said}, with no response to this request, on attempt {part.attempt}.", NO_RESPONSE

    def _persist(self) -> bool:
        """Finish the job if this was the last part to wait for; else keep the results and tell the ledger."""
        while True:
            active = self._app.tables.active_job(self._job.job_id)
            stored = active.part(self._part.key) if active else None
            if active is None or stored is None or stored.row.state is not self._part.state:
                delete_orphaned_work(self._app, self._job.job_id, self._part.attempts_before)
                return True  # done elsewhere
            if self.again and active.job.row.state is JobState.FINISHING:
                return False  # whoever finishes it has deleted the results at the service already
            part = self._part.with_state(
                PartState.SETTLED, None, succeeded=self.succeeded, failed=self.failed, usage=self._usage
            )
            if not self.again and active.job.row.parts_left == 1:
                return finish(self._app, active, last=(part, iter(self._finals)))
            try:
                self._keep(active, stored, part)
            except ConflictError:
                continue  # another part of the job was settled meanwhile
            return True

    def _keep(self, active: ActiveJob, stored: Stored[Part], part: Part) -> None:
        """Keep the results in the work container, and let the ledger know together with the next attempt, if any."""
        app, container = self._app, self._app.settings.work_container
        results, again = f"{part.work_path}.results", f"{part.work_path}.again"
        if self.succeeded or self.failed:
            app.blobs.write(container, results, map(pack, self._finals))
            part = msgspec.structs.replace(part, results=results)
        changes = [Change(part, stored.etag)]
        follow: Part | None = None
        if self.again:
            with self._picks.open("rb") as picks:
                app.blobs.write(container, again, picks)
            source = InputRange(container=container, name=again, picked=True, fill=part.source.fill)
            follow = next_attempt(
                part,
                source=source,
                requests=self.again,
                size=self._picks.stat().st_size,
                characters=self.again_characters,
                now=clock.now(),
                due=self._later(),
                bundles=may_bundle(app, self._picks.stat().st_size),
            )
            changes.append(Change(follow))
        job = msgspec.structs.replace(active.job.row, parts_left=active.job.row.parts_left - (not self.again))
        changes.append(Change(job, active.job.etag))  # as it was read: nobody else may finish it meanwhile
        app.tables.change(changes)
        log.info(
            "part_settled",
            job_id=part.job_id,
            part=part.key,
            succeeded=self.succeeded,
            failed=self.failed,
            again=self.again,
        )
        if follow is not None:
            app.queues.submit(follow.job_id, follow.key, app.settings.bundle_seconds if follow.bundles else 0)

    def _later(self) -> datetime:
        return clock.after(self._app.settings.resend_seconds)


class FinalResults:
    """The final results of one attempt, in the order in which they were noted.

    In memory is where each lies: in the service's own files, or, for a line that was made here, in a file of theirs.
    """

    _MADE = 2
    """The number of that file, after the service's two."""

    def __init__(self, answers: BatchResults, made: Path) -> None:
        self._answers, self._path = answers, made
        self._lines, self._offsets, self._lengths = array("I"), array("Q"), array("I")
        self._files, self._successes = bytearray(), bytearray()

    def __enter__(self) -> "FinalResults":
        self._made = self._path.open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._made.close()

    def note(self, line: int, place: Location) -> None:
        """Add a request whose result is the service's own line."""
        self._add(line, place.file, place.offset, place.length, succeeded=place.verdict is Verdict.SUCCEEDED)

    def make(self, line: int, raw: bytes, *, succeeded: bool) -> None:
        """Add a request whose result is `raw`."""
        self._add(line, self._MADE, self._made.tell(), len(raw), succeeded=succeeded)
        self._made.write(raw)

    def __iter__(self) -> Iterator[FinalResult]:
        with self._path.open("rb") as made:
            for line, file, offset, length, succeeded in zip(
                self._lines, self._files, self._offsets, self._lengths, self._successes, strict=True
            ):
                source = made if file == self._MADE else self._answers.file(file)
                yield FinalResult(line, bool(succeeded), os.pread(source.fileno(), length, offset))

    def _add(self, line: int, file: int, offset: int, length: int, *, succeeded: bool) -> None:
        self._lines.append(line)
        self._files.append(file)
        self._offsets.append(offset)
        self._lengths.append(length)
        self._successes.append(succeeded)
