"""An ended batch's results come home: each line of its part is kept as final, or goes into the part's next attempt."""

import os
import tempfile
from array import array
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from batch_fn.app import App
from batch_fn.core.batches import failed_for_good
from batch_fn.core.jobs import CANCELLED, Job, JobState, Part, PartState, Source, Usage, rides_in, riding
from batch_fn.core.planning import next_attempt
from batch_fn.core.report import is_of
from batch_fn.core.results import Final, Verdict, no_response, pack, read_result
from batch_fn.runtime import clock, log
from batch_fn.runtime.memory import turn
from batch_fn.steps.answers import Answers, NotYetError, Place
from batch_fn.steps.bundling import break_up, bundled_id, forget_bundle, may_bundle
from batch_fn.steps.finishing import finish
from batch_fn.steps.ownership import clear_if_gone
from batch_fn.storage.part_lines import SourceLine, picked, read_lines
from batch_fn.storage.rows import Change, ConflictError, Held, Work
from batch_fn.validation.requests import custom_id_of, with_custom_id


def collect(app: App, job_id: str) -> None:
    """Settle every ended part of the job, and finish the job if none is left to wait for."""
    work = app.ledger.work(job_id)
    if work is None or work.job.row.accepted_at is None:
        return
    with turn(max(work.job.row.bytes, sum(held.row.bytes for held in work.parts))) as at_once:
        if at_once:
            _collect(app, work)
        else:  # one message comes for each part: whoever had the turn may have settled them all
            collect(app, job_id)


def _collect(app: App, work: Work) -> None:
    job, job_id = work.job.row, work.job.row.job_id
    if job.bundle and job.state is JobState.FINISHING:
        forget_bundle(app, job_id)
        return
    # With the report written, results may be deleted at the service already: there is nothing to collect any more.
    reported = job.state is JobState.FINISHING and is_of(job, app.containers.report(job.path))
    if reported or not job.parts_left:
        finish(app, work)
        return
    for held in work.parts:
        if held.row.state is PartState.ENDED:
            try:
                _settle_ended(app, job, held.row)
            except NotYetError as error:
                log.warn("results_not_yet", job_id=job_id, part=held.row.key, missing=error, until=error.until)
                app.ledger.update(held, held.row.moved(PartState.ENDED, error.until))  # the tick sends for it then


def _settle_ended(app: App, job: Job, part: Part) -> None:
    with tempfile.TemporaryDirectory() as folder, Answers(app, part, Path(folder)) as answers:
        if not job.members:
            Settling(app, job, part, answers, Path(folder)).run()
        elif not answers and (failed_for_good(part.errors) or not part.batch_id):
            break_up(app, job, part)
        else:
            _settle_members(app, job, part, answers, Path(folder))


def _settle_members(app: App, bundle: Job, carrier: Part, answers: Answers, folder: Path) -> None:
    """Give each member of a bundle its own results, then forget the bundle."""
    durable, errors = True, []
    for number, member in enumerate(bundle.members):
        work = app.ledger.work(member.job_id)
        held = work.part(member.part) if work else None
        if work is None or held is None or not rides_in(bundle, held.row):
            continue  # it has its results
        part = riding(held.row, carrier)
        try:
            durable &= Settling(app, work.job.row, part, answers, folder, member=number).run()
        except Exception as error:  # noqa: BLE001 - raised when all have had their turn
            errors.append(error)
    if errors:
        raise ExceptionGroup(f"Not every member of bundle {bundle.job_id} could be settled.", errors)
    if durable:
        forget_bundle(app, bundle.job_id)


class Settling:
    """Settles one part with its batch's answers: each line is final, or is picked for the next attempt.

    `member` is the part's number in the bundle that it rode in, if it did.
    """

    def __init__(
        self, app: App, job: Job, part: Part, answers: Answers, folder: Path, member: int | None = None
    ) -> None:
        self._app, self._job, self._part, self._answers, self._member = app, job, part, answers, member
        self._picks = folder / "picks"
        self._finals = Finals(answers, folder / "made")
        self._usage = Usage() if member is not None else answers.usage

    def run(self) -> bool:
        """Sort the part's lines, and write down what came of it. Return whether that is durable now."""
        self._sort()
        if self._member is None:  # nobody else asks, and the job may now be finished, which takes memory of its own
            self._answers.forget_places()
        return self._write_down()

    def _sort(self) -> None:
        """Go through the part's lines in order: each is final, or is picked for the next attempt."""
        self.succeeded = self.failed = self.again = self.again_characters = 0
        settings = self._app.settings
        with self._finals as finals, self._picks.open("wb") as picks:
            for source in read_lines(self._app.containers, self._part.source, settings.max_line_bytes):
                succeeded = self._decide(source, finals)
                if succeeded is None:
                    picks.write(picked(source))
                    self.again += 1
                    self.again_characters += len(source.raw)
                else:
                    self.succeeded += succeeded
                    self.failed += not succeeded

    def _decide(self, source: SourceLine, finals: "Finals") -> bool | None:
        """Note the line's final result, and return whether it succeeded; None if it is to be tried again."""
        custom_id = custom_id_of(source.raw)
        place = self._answers.place(custom_id if self._member is None else bundled_id(self._member, source.line))
        unanswered = not self._answers.output_lost if place is None else place.verdict is Verdict.RETRY
        if unanswered and self._may_try_again():
            return None
        if place is None:
            finals.make(source.line, no_response(custom_id, self._why()), succeeded=False)
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

    def _why(self) -> str:
        part = self._part
        if any(error.code == CANCELLED for error in part.errors):
            return f"The job was cancelled before this request was sent on attempt {part.attempt}."
        said = "; ".join(f"{error.code}: {error.message}" for error in part.errors[:3])
        if self._answers.output_lost:
            said = "its output is gone from the service"
        how = f"The batch ended as {part.batch_status}" if part.batch_id else "The service refused the batch"
        return f"{how}{f' ({said})' if said else ''}, with no response to this request, on attempt {part.attempt}."

    def _write_down(self) -> bool:
        """Finish the job if this was the last part to wait for; else keep the results and tell the ledger."""
        while True:
            work = self._app.ledger.work(self._job.job_id)
            held = work.part(self._part.key) if work else None
            if work is None or held is None or held.row.state is not self._part.state:
                clear_if_gone(self._app, self._job.job_id, self._part.attempts_before)
                return True  # done elsewhere
            if self.again and work.job.row.state is JobState.FINISHING:
                return False  # whoever finishes it has deleted the results at the service already
            part = self._part.moved(
                PartState.SETTLED, None, succeeded=self.succeeded, failed=self.failed, usage=self._usage
            )
            if not self.again and work.job.row.parts_left == 1:
                return finish(self._app, work, last=(part, iter(self._finals)))
            try:
                self._keep(work, held, part)
            except ConflictError:
                continue  # another part of the job was settled meanwhile
            return True

    def _keep(self, work: Work, held: Held[Part], part: Part) -> None:
        """Keep the results in the work container, and let the ledger know together with the next attempt, if any."""
        app, container = self._app, self._app.settings.work_container
        results, again = f"{part.work_path}.results", f"{part.work_path}.again"
        if self.succeeded or self.failed:
            app.containers.write(container, results, map(pack, self._finals))
            part = msgspec.structs.replace(part, results=results)
        changes = [Change(part, held.etag)]
        follow: Part | None = None
        if self.again:
            with self._picks.open("rb") as picks:
                app.containers.write(container, again, picks)
            source = Source(container=container, name=again, picked=True, fill=part.source.fill)
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
        job = msgspec.structs.replace(work.job.row, parts_left=work.job.row.parts_left - (not self.again))
        changes.append(Change(job, work.job.etag))  # as it was read: nobody else may finish it meanwhile
        app.ledger.change(changes)
        log.note(
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


class Finals:
    """The final results of one attempt, in the order in which they were noted.

    In memory is where each lies: in the service's own files, or, for a line that was made here, in a file of theirs.
    """

    _MADE = 2
    """The number of that file, after the service's two."""

    def __init__(self, answers: Answers, made: Path) -> None:
        self._answers, self._path = answers, made
        self._lines, self._offsets, self._lengths = array("I"), array("Q"), array("I")
        self._files, self._successes = bytearray(), bytearray()

    def __enter__(self) -> "Finals":
        self._made = self._path.open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._made.close()

    def note(self, line: int, place: Place) -> None:
        """Add a request whose result is the service's own line."""
        self._add(line, place.file, place.offset, place.length, succeeded=place.verdict is Verdict.SUCCEEDED)

    def make(self, line: int, raw: bytes, *, succeeded: bool) -> None:
        """Add a request whose result is `raw`."""
        self._add(line, self._MADE, self._made.tell(), len(raw), succeeded=succeeded)
        self._made.write(raw)

    def __iter__(self) -> Iterator[Final]:
        with self._path.open("rb") as made:
            for line, file, offset, length, succeeded in zip(
                self._lines, self._files, self._offsets, self._lengths, self._successes, strict=True
            ):
                source = made if file == self._MADE else self._answers.file(file)
                yield Final(line, bool(succeeded), os.pread(source.fileno(), length, offset))

    def _add(self, line: int, file: int, offset: int, length: int, *, succeeded: bool) -> None:
        self._lines.append(line)
        self._files.append(file)
        self._offsets.append(offset)
        self._lengths.append(length)
        self._successes.append(succeeded)
