"""One ended part is settled: each of its lines gets its final result, or goes into the part's next attempt."""

import itertools
import secrets
from array import array
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path

import msgspec

from batch_fn.app import App
from batch_fn.core.batches import NotFoundError, ServiceCallError, TransientServiceError, failed_for_good
from batch_fn.core.jobs import CANCELLED, InputRange, Job, JobState, Part, PartState, Usage
from batch_fn.core.planning import next_attempt
from batch_fn.core.results import Verdict, no_response, pack, read_result
from batch_fn.runtime import clock, log
from batch_fn.steps import trouble
from batch_fn.steps.answers import STRAY, BatchResults, Location, Unplaced
from batch_fn.steps.bundling import bundled_id, may_bundle, member_and_line
from batch_fn.steps.final_results import FinalResults
from batch_fn.steps.finishing import finish
from batch_fn.steps.ownership import delete_orphaned_work
from batch_fn.steps.restoring import restore_lines
from batch_fn.storage.part_lines import InputGoneError, SourceLine, picked, read_lines
from batch_fn.storage.rows import ActiveJob, Change, ConflictError, Stored
from batch_fn.validation.findings import INPUT_GONE, NOT_PROCESSED
from batch_fn.validation.lines import NO_LIMIT, lines
from batch_fn.validation.requests import custom_id_of, with_custom_id

PIECE_BYTES = 1024 * 1024

UNKNOWN_LINE = 1 << 62
"""Added to the number of a line whose place in the drop is not known any more: it comes after all others."""


class PartSettlement:
    """Settles one part with the results of its batch.

    `member` is the part's number in the bundle that carried it, if one did. `give_up`: what cannot be fetched is not
    waited for any more.
    """

    def __init__(
        self,
        app: App,
        job: Job,
        part: Part,
        answers: BatchResults,
        folder: Path,
        *,
        member: int | None = None,
        give_up: bool = False,
    ) -> None:
        self._app, self._job, self._part, self._answers = app, job, part, answers
        self._folder, self._member, self._give_up = folder, member, give_up
        self._token = secrets.token_hex(4)
        self._picks = folder / "picks"
        self._read: Callable[[], Iterator[SourceLine]] | None = lambda: read_lines(app.blobs, part.source)
        self._unmatched: list[Unplaced] = []
        self._holds_back = False

    def run(self) -> bool:
        """Decide about each request of the part, and make that durable. Return whether it is durable now."""
        try:
            self._sort()
        except InputGoneError as gone:
            self._find_lines_elsewhere(gone)
            self._sort()
        self._find_unmatched()
        if self._member is None:  # `finish` takes memory of its own
            self._answers.forget_places()
        return self._persist()

    # Deciding

    def _sort(self) -> None:
        """Go through the part's requests in order: each result is final, or the line is picked for another attempt."""
        self.succeeded = self.failed = self.again = self._again_characters = self._unanswered = 0
        self._usage = Usage() if self._member is not None else self._answers.usage
        self._used = array("Q")
        self._finals = FinalResults(self._answers, self._folder / "made")
        with self._finals, self._picks.open("wb") as picks:
            if self._read is None:
                self._sort_answers()
                return
            for source in self._read():
                if not self._decide(source):
                    picks.write(picked(source))
                    self.again += 1
                    self._again_characters += len(source.raw)

    def _decide(self, source: SourceLine) -> bool:
        """Note the request's final result, and return True; return False if it is to be sent again."""
        custom_id = custom_id_of(source.raw)
        place = self._answers.place(custom_id if self._member is None else bundled_id(self._member, source.line))
        if place is None:
            self._unanswered += 1
            try_again = not self._answers.lost and not self._holds_back
        else:
            try_again = place.verdict is Verdict.RETRY
            self._used.append(place.key)
        if try_again and self._may_try_again():
            return False
        if place is None:
            self._fail(source.line, custom_id)
        else:
            self._keep_result(source.line, place, custom_id)
        return True

    def _sort_answers(self) -> None:
        """Note the results that there are, where the lines of the part are nowhere any more."""
        if self._member is None:
            found = [(self._number(count), place) for count, (place, _) in enumerate(self._answers.results())]
        else:
            named = [(member_and_line(custom_id), place) for place, custom_id in self._answers.results()]
            found = sorted((each[1], place) for each, place in named if each is not None and each[0] == self._member)
        found = found[: self._part.requests]
        for line, place in found:
            self._used.append(place.key)
            self._keep_result(line, place, f"line-{line}")
        for count in range(len(found), self._part.requests):
            self._fail(self._number(count) if self._member is None else self._unknown_number(count), None)

    def _keep_result(self, line: int, place: Location, custom_id: str) -> None:
        """Note the service's line as the final result; one from a bundle under the request's own custom_id."""
        succeeded = place.verdict is Verdict.SUCCEEDED
        self.succeeded += succeeded
        self.failed += not succeeded
        if self._member is None:
            self._finals.note(line, place)
            return
        raw = with_custom_id(self._answers.read(place), custom_id)
        result = read_result(raw)
        self._usage += result.usage if result else Usage()
        self._finals.make(line, raw, succeeded=succeeded)

    def _fail(self, line: int, custom_id: str | None) -> None:
        self.failed += 1
        self._finals.make(line, no_response(custom_id, self._why()), succeeded=False)

    def _may_try_again(self) -> bool:
        attempts_left = self._part.attempt - self._part.attempts_before < self._app.settings.max_attempts
        # A job that was being finished had no line left to try: one that misses its result now has lost it since.
        decided = self._job.cancelled or self._job.state is JobState.FINISHING
        return attempts_left and not decided and not failed_for_good(self._part.errors)

    def _why(self) -> str:
        part, unmatched = self._part, len(self._unmatched)
        if any(error.code == CANCELLED for error in part.errors):
            return f"The job was cancelled before this request was sent on attempt {part.attempt}."
        said = "; ".join(f"{error.code}: {error.message}" for error in part.errors[:3])
        if self._answers.lost:
            said = self._answers.lost
        if self._holds_back:
            said = f"{unmatched} of its result lines name no request of the file, and may be this one's; they are kept"
        how = f"The batch ended as {part.batch_status}" if part.batch_id else "The service refused the batch"
        if not part.batch_id and part.errors and part.errors[0].code in {INPUT_GONE, NOT_PROCESSED}:
            how = "The batch was not created"
        return f"{how}{f' ({said})' if said else ''}, with no response to this request, on attempt {part.attempt}."

    # Result lines that belong to no request

    def _find_unmatched(self) -> None:
        """Find result lines of no known request. While one may be its answer, no unanswered line is sent again."""
        owner = self._member or 0
        if self._answers.count_of(owner) + self._answers.count_of(STRAY) == len(self._used):
            return
        # In a bundle, a stray line may be of any member that has a request without a result.
        strays = self._member is None or self._unanswered
        self._unmatched = [*self._answers.unplaced({owner, STRAY} if strays else {owner}, {*self._used})]
        if self._unmatched:
            log.warning("results_unmatched", job_id=self._part.job_id, part=self._part.key, lines=len(self._unmatched))
        if self._unanswered and any(each.paid for each in self._unmatched):
            self._holds_back = True
            self._sort()

    # Lines whose blob was deleted

    def _find_lines_elsewhere(self, gone: InputGoneError) -> None:
        """Choose where the part's lines are read instead: the drop, the service's input file, or only the results."""
        if restore_lines(self._app, self._job, self._part.source):
            return
        sent = self._fetch_sent() if self._member is None else None
        self._read = None if sent is None else lambda: self._sent_lines(sent)
        how = "service" if sent else "answers" if self._member is None else "numbers"
        log.warning("input_gone", job_id=self._part.job_id, part=self._part.key, gone=gone, instead=how)
        if self._part.batch_id:
            self._part = msgspec.structs.replace(self._part, input_gone=how)

    def _fetch_sent(self) -> Path | None:
        """Return the input file of the batch, brought here from the service; None if it is gone there, too."""
        part, file = self._part, self._folder / "input"
        try:
            if part.file_id:
                self._app.openai.download(part.file_id, file)
                return file
        except NotFoundError as error:
            if self._give_up:
                return None
            if not part.was_sent_to(self._app.settings.openai_endpoint):
                raise trouble.elsewhere(self._app, part) from error
            if not self._app.openai.lacks_file(part.file_id):
                raise TransientServiceError(f"the service lists a file that it does not give: {error}") from error
            return None
        except ServiceCallError:
            if not self._give_up:
                raise
            return None
        chunks = self._app.blobs.read_url(part.input_blob) if part.input_blob else None
        if chunks is None:
            return None
        with file.open("wb") as copy:
            copy.writelines(chunks)
        return file

    def _sent_lines(self, file: Path) -> Iterator[SourceLine]:
        with file.open("rb") as sent:
            chunks = iter(lambda: sent.read(PIECE_BYTES), b"")
            for count, line in enumerate(lines(chunks, NO_LIMIT)):
                yield SourceLine(self._number(count), line.raw)

    def _number(self, count: int) -> int:
        """Return a number for the part's request of that place: the drop's own order where that is known."""
        return self._unknown_number(count) if self._part.source.picked else self._part.source.first_line + count

    def _unknown_number(self, count: int) -> int:
        return UNKNOWN_LINE + ((self._part.number * 1_000 + self._part.attempt) << 32) + count

    # Making it durable

    def _persist(self) -> bool:
        """Finish the job if this was its last part; else keep the results in the work container and in the part's row.

        Every collect writes blobs of its own, and the row names those that count.
        """
        while True:
            active = self._app.tables.active_job(self._job.job_id)
            stored = active.part(self._part.key) if active else None
            if active is None or stored is None or stored.row.state is not self._part.state:
                delete_orphaned_work(self._app, self._job.job_id, self._part.attempts_before)
                return True  # done elsewhere
            if self.again and active.job.row.state is JobState.FINISHING:
                return False  # the instance that finishes it may have deleted the results at the service already
            part = self._part.with_state(
                PartState.SETTLED,
                None,
                succeeded=self.succeeded,
                failed=self.failed,
                usage=self._usage,
                unmatched=self._unmatched_name,
            )
            if not self.again and active.job.row.parts_left == 1:
                finished = finish(self._app, active, last=(part, iter(self._finals)))
                if not finished and part.unmatched:
                    delete_orphaned_work(self._app, self._job.job_id, self._part.attempts_before)
                return finished
            try:
                self._keep(active, stored, part)
            except ConflictError:
                continue  # another part of the job was settled meanwhile
            return True

    def _keep(self, active: ActiveJob, stored: Stored[Part], part: Part) -> None:
        """Record the part as settled, together with its next attempt, if there is one. Raises: ConflictError."""
        app = self._app
        part = msgspec.structs.replace(part, results=self._results_name)
        follow = self._next_attempt(part) if self.again else None
        job = msgspec.structs.replace(active.job.row, parts_left=active.job.row.parts_left - (follow is None))
        app.tables.change(
            [
                Change(part, stored.etag),
                *([Change(follow)] if follow else []),
                Change(job, active.job.etag),  # unchanged: no other instance may finish the job meanwhile
            ]
        )
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

    def _next_attempt(self, part: Part) -> Part:
        settings, size = self._app.settings, self._picks.stat().st_size
        return next_attempt(
            part,
            source=InputRange(
                container=settings.work_container, name=self._picks_name, picked=True, fill=part.source.fill
            ),
            requests=self.again,
            size=size,
            characters=self._again_characters,
            now=clock.now(),
            due=clock.after(settings.resend_seconds),
            bundles=may_bundle(self._app, size),
        )

    @cached_property
    def _results_name(self) -> str:
        """Name of the blob with the final results; they are written when it is first asked for."""
        return self._write("results", map(pack, self._finals))

    @cached_property
    def _picks_name(self) -> str:
        """Name of the blob with the picked lines, likewise."""
        with self._picks.open("rb") as content:
            return self._write("again", content)

    @cached_property
    def _unmatched_name(self) -> str:
        """Name of the blob with the result lines of no known request, likewise."""
        return self._write("unmatched", itertools.chain.from_iterable(map(self._unmatched_line, self._unmatched)))

    def _unmatched_line(self, place: Unplaced) -> Iterator[bytes]:
        """Yield a result line, whatever its length."""
        for begin in range(0, place.length, PIECE_BYTES):
            length = min(PIECE_BYTES, place.length - begin)
            yield self._answers.read(place._replace(offset=place.offset + begin, length=length))
        yield b"\n"

    def _write(self, kind: str, content: Iterable[bytes]) -> str:
        """Write a blob of this collect's own. Return its name, empty if there is no content."""
        name = f"{self._part.work_path}.{self._token}.{kind}"
        return name if self._app.blobs.write(self._app.settings.work_container, name, content) else ""
