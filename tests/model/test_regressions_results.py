"""Results, settings, blobs and disks as they may be: no answer is lost, and no line is paid twice."""

import contextlib
import errno
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import msgspec
import pytest

from batch_fn.core.batches import NotFoundError, TransientServiceError
from batch_fn.core.jobs import PartState
from batch_fn.settings import Settings
from batch_fn.steps.collection import collect
from batch_fn.steps.finishing import CountMismatchError
from batch_fn.validation.requests import with_custom_id
from tests.model.fakes import FakeBlobs, FakeService, new_process
from tests.model.faults import Fate
from tests.model.machine import NAMES, Delivery, Luck, Pipeline
from tests.model.world import ON_BLOBS, SETTINGS, Answer, Batch, End, World, blob_at, result_url

OUTPUT, ERRORS = "results", "errors"


class Odd(Pipeline):
    """The app where answers may be lost, so that not all of them can be in a report."""

    def _check_report(self, path: str) -> None:
        report = self.report(path)
        counts = report["counts"]
        assert counts["succeeded"] + counts["failed"] == counts["requests"]

    def report(self, path: str) -> Any:
        """The report of the job of that path."""
        return json.loads(self.world.blobs[SETTINGS.reports_container, f"{path}.json"].content)

    def only_report(self) -> Any:
        (job,) = self.world.begun.values()
        return self.report(job.path)

    def lines(self, kind: str) -> list[Any]:
        """The lines of the only job's blob of that kind."""
        place = self.only_report()["outputs"][kind]
        container, _, name = (place or "").partition("/")
        return [json.loads(line) for line in self.world.blobs[container, name].content.splitlines()] if place else []

    def drop(self, *kinds: str) -> list[Batch]:
        """Drop files, and have their parts sent. Return the open batches."""
        for name, kind in zip(NAMES, kinds, strict=False):
            self.a_user_drops_a_file(name=name, kind=kind)
            self.the_event_of_a_drop_comes(name=name, luck=None)
        self.time_passes(seconds=20)
        self.deliver_all()
        return self.world.open_batches()

    def deliver_all(self) -> None:
        while self._visible():
            self.a_message_comes(pick=0, how=Delivery.ONCE, luck=None)

    def tick(self, seconds: int = 0) -> None:
        self.time_passes(seconds)
        self.the_timer_ticks(luck=None)
        self.deliver_all()

    def go_on(self, rounds: int = 12) -> None:
        """Let everything come to its end."""
        for _ in range(rounds):
            for batch in self.world.open_batches():
                self.world.end(batch, End.COMPLETED)
            self.tick(seconds=310)

    def result(self, batch: Batch, kind: str) -> tuple[dict[Any, Any], Any]:
        """Where the service keeps a result of a batch, by what key, and its content is in `.content`."""
        if batch.input_blob:
            return self.world.blobs, blob_at(result_url(batch, kind))
        return self.world.files, batch.output_file_id if kind == OUTPUT else batch.error_file_id

    def rewrite(self, batch: Batch, kind: str, change: Callable[[bytes], bytes]) -> None:
        """Change each line of a result."""
        kept, key = self.result(batch, kind)
        kept[key].content = b"".join(change(line) for line in kept[key].content.splitlines(keepends=True))


class OddOnBlobs(Odd):
    """The same with SUBMIT_MODE=blob."""

    settings = ON_BLOBS


BOTH_MODES = pytest.mark.parametrize("mode", [Odd, OddOnBlobs])


@contextlib.contextmanager
def running(mode: type[Odd] = Odd) -> Iterator[Odd]:
    pipeline = mode()
    try:
        yield pipeline
        pipeline.no_rule_is_broken()
    finally:
        pipeline.teardown()


def renamed(change: Callable[[str], str]) -> Callable[[bytes], bytes]:
    """Change the custom_id of a result line."""
    return lambda line: with_custom_id(line, change(json.loads(line)["custom_id"])) + b"\n"


# custom_ids that come back altered

ALTERED = {
    "trimmed": lambda custom_id: custom_id.strip("ab") or "-",
    "cut to nothing": lambda _: "",
    "in capitals": str.upper,
    "all alike": lambda _: "a",
    "numbers": lambda custom_id: str(ord(custom_id[0])),
}


@BOTH_MODES
@pytest.mark.parametrize("how", ALTERED)
def test_answers_that_match_no_line_are_kept_and_no_line_is_sent_again(how: str, mode: type[Odd]) -> None:
    """The whole file was paid for MAX_ATTEMPTS times, and every answer thrown away."""
    with running(mode) as pipeline:
        (batch,) = pipeline.drop("two lines")
        pipeline.world.end(batch, End.COMPLETED)
        pipeline.rewrite(batch, OUTPUT, renamed(ALTERED[how]))
        pipeline.go_on()
        assert len(pipeline.world.batches) == 1
        placed, unmatched, errors = pipeline.lines("output"), pipeline.lines("unmatched"), pipeline.lines("errors")
        assert len(placed) + len(unmatched) == len(placed) + len(errors) == 2
        assert all(each["response"]["status_code"] == 200 for each in placed + unmatched)
        assert all("kept" in each["error"]["message"] for each in errors)


@BOTH_MODES
def test_lines_that_the_error_file_names_go_again_whatever_else_matches_nothing(mode: type[Odd]) -> None:
    with running(mode) as pipeline:
        (batch,) = pipeline.drop("two lines")
        pipeline.world.run_line(batch, Answer.TRIPPED)
        pipeline.world.end(batch, End.COMPLETED)
        pipeline.rewrite(batch, OUTPUT, renamed(str.upper))
        pipeline.go_on()
        assert [[*each.lines] for each in pipeline.world.batches.values()] == [["a", "b"], ["a"]]
        assert [each["custom_id"] for each in pipeline.lines("output")] == ["a"]
        assert [each["custom_id"] for each in pipeline.lines("errors")] == ["b"]
        assert [each["custom_id"] for each in pipeline.lines("unmatched")] == ["B"]


def test_an_unknown_custom_id_in_the_output_hides_no_error_file() -> None:
    """As many answers as requests: the error file was not read, and its line went again as if it had run nowhere."""
    with running() as pipeline:
        (batch,) = pipeline.drop("two lines")
        pipeline.world.run_line(batch, Answer.FAILED)
        pipeline.world.end(batch, End.COMPLETED)
        kept, key = pipeline.result(batch, OUTPUT)
        kept[key].content += with_custom_id(kept[key].content.rstrip(), "stranger") + b"\n"
        pipeline.go_on()
        assert len(pipeline.world.batches) == 1
        assert pipeline.lines("errors")[0]["response"]["status_code"] == 400
        assert [each["custom_id"] for each in pipeline.lines("unmatched")] == ["stranger"]


@BOTH_MODES
@pytest.mark.parametrize("altered", ["x", "1.7", "9.1", "1.01", "0.1"])
def test_a_member_of_a_bundle_keeps_what_may_be_its_answer(altered: str, mode: type[Odd]) -> None:
    with running(mode) as pipeline:
        (batch,) = pipeline.drop("one line", "one line", "one line")
        pipeline.world.end(batch, End.COMPLETED)
        pipeline.rewrite(batch, OUTPUT, renamed(lambda custom_id: altered if custom_id == "1.1" else custom_id))
        pipeline.go_on()
        assert len(pipeline.world.batches) == 1
        reports = [pipeline.report(job.path) for job in pipeline.world.begun.values()]
        assert sorted(report["counts"]["succeeded"] for report in reports) == [0, 1, 1]
        kept = [report["outputs"]["unmatched"] for report in reports if report["outputs"]["unmatched"]]
        assert len(kept) == 1


@BOTH_MODES
def test_the_unmatched_results_are_there_after_a_retry_too(mode: type[Odd]) -> None:
    with running(mode) as pipeline:
        (batch,) = pipeline.drop("two lines")
        pipeline.world.run_line(batch, Answer.FAILED)
        pipeline.world.end(batch, End.COMPLETED)
        kept, key = pipeline.result(batch, OUTPUT)
        kept[key].content += with_custom_id(kept[key].content.rstrip(), "stranger") + b"\n"
        pipeline.go_on()
        before = pipeline.lines("unmatched")
        pipeline.a_user_retries_a_job(pick=0, luck=None)
        pipeline.go_on()
        assert pipeline.only_report()["counts"]["succeeded"] == 2
        assert pipeline.lines("unmatched") == before != []


@pytest.mark.parametrize("raw", [b"", b"nonsense", b'{"custom_id": "b", "response": {"stat', b'{"custom_id": 7}'])
def test_a_line_of_the_output_that_cannot_be_read_may_be_an_answer(raw: bytes) -> None:
    """It was skipped, and its request paid for again: where the service counts nothing, that is all there is to see."""
    with running() as pipeline:
        (batch,) = pipeline.drop("two lines")
        pipeline.world.end(batch, End.COMPLETED)
        first = iter([raw + b"\n" if raw else b""])
        pipeline.rewrite(batch, OUTPUT, lambda line: next(first, line))
        with uncounted():
            pipeline.go_on()
        assert len(pipeline.world.batches) == 1
        assert pipeline.only_report()["counts"]["succeeded"] == 1


@contextlib.contextmanager
def uncounted() -> Iterator[None]:
    """The service gives no counts."""
    described = World.described

    def without(world: World, batch: Batch) -> Any:
        return msgspec.structs.replace(described(world, batch), total=0, completed=0, failed=0)

    with mock.patch.object(World, "described", without):
        yield


# Results that are missing, or fewer than the service counts


@contextlib.contextmanager
def hidden(pipeline: Odd, batch: Batch, kind: str) -> Iterator[None]:
    """A result answers 404."""
    kept, key = pipeline.result(batch, kind)
    result = kept.pop(key)
    yield
    kept[key] = result


@contextlib.contextmanager
def refused(batch: Batch) -> Iterator[None]:
    """A result answers 404, and a list has it."""
    download, read_url = FakeService.download, FakeBlobs.read_url

    def no_file(service: FakeService, file_id: str, to: Path) -> None:
        if file_id in {batch.output_file_id, batch.error_file_id}:
            raise NotFoundError(file_id)
        download(service, file_id, to)

    def no_blob(blobs: FakeBlobs, url: str) -> Any:
        return None if batch.id in url else read_url(blobs, url)

    with mock.patch.object(FakeService, "download", no_file), mock.patch.object(FakeBlobs, "read_url", no_blob):
        yield


@BOTH_MODES
@pytest.mark.parametrize("kind", [OUTPUT, ERRORS])
def test_a_result_is_not_there_for_a_while(kind: str, mode: type[Odd]) -> None:
    with running(mode) as pipeline:
        (batch,) = pipeline.drop("two lines")
        pipeline.world.run_line(batch, Answer.FAILED)
        pipeline.world.end(batch, End.COMPLETED)
        with hidden(pipeline, batch, kind):
            pipeline.tick()
            pipeline.tick(seconds=101)
            (part,) = pipeline.world.parts()
            assert part.state is PartState.ENDED
            assert part.wait
            assert part.wait.reason == "results_missing"
        pipeline.go_on()
        assert len(pipeline.world.batches) == 1
        assert pipeline.only_report()["counts"] == {"requests": 2, "succeeded": 1, "failed": 1}


@BOTH_MODES
@pytest.mark.parametrize("kind", [OUTPUT, ERRORS])
def test_a_result_answers_404_for_hours_and_a_list_has_it(kind: str, mode: type[Odd]) -> None:
    """A 404 alone was believed after SETTLE_SECONDS: the job ended as failed, though the answers were there."""
    with running(mode) as pipeline:
        (batch,) = pipeline.drop("two lines")
        pipeline.world.run_line(batch, Answer.FAILED)
        pipeline.world.end(batch, End.COMPLETED)
        with refused(batch):
            pipeline.go_on(rounds=40)
            assert not pipeline.world.history
        pipeline.go_on()
        assert len(pipeline.world.batches) == 1
        assert pipeline.only_report()["counts"] == {"requests": 2, "succeeded": 1, "failed": 1}


@BOTH_MODES
def test_an_output_that_a_list_lacks_too_is_gone_and_its_lines_are_not_paid_twice(mode: type[Odd]) -> None:
    with running(mode) as pipeline:
        (batch,) = pipeline.drop("two lines")
        pipeline.world.end(batch, End.COMPLETED)
        kept, key = pipeline.result(batch, OUTPUT)
        del kept[key]
        pipeline.go_on()
        assert len(pipeline.world.batches) == 1
        assert ["gone from the service" in each["error"]["message"] for each in pipeline.lines("errors")] == [True] * 2


def test_a_result_of_another_resource_is_not_believed_to_be_gone() -> None:
    """After AZURE_OPENAI_ENDPOINT was changed, 404 and a complete list say nothing about the old resource's files."""
    with running() as pipeline:
        (batch,) = pipeline.drop("two lines")
        pipeline.world.end(batch, End.COMPLETED)
        pipeline.the_timer_ticks(luck=None)
        pipeline.world.settings = replace(SETTINGS, openai_endpoint="https://other.example")
        for job_id, rows in pipeline.world.rows.items():
            for key, (row, etag) in list(rows.items()):
                if hasattr(row, "endpoint"):
                    rows[key] = msgspec.structs.replace(row, endpoint="https://one.example"), etag
            assert job_id
        with hidden(pipeline, batch, OUTPUT):
            pipeline.go_on(rounds=30)
            assert not pipeline.world.history
        pipeline.world.settings = SETTINGS
        pipeline.go_on()
        assert pipeline.only_report()["counts"]["succeeded"] == 2


@BOTH_MODES
@pytest.mark.parametrize("kind", [OUTPUT, ERRORS])
@pytest.mark.parametrize("after", [0, 100_000])
def test_a_result_that_ends_early_is_asked_for_again_before_it_is_believed(
    kind: str, after: int, mode: type[Odd]
) -> None:
    """Errors were not compared with the counts; and of a batch that had ended long ago, the first look counted."""
    with running(mode) as pipeline:
        (batch,) = pipeline.drop("two parts")[:1]
        for does in (Answer.FAILED, Answer.FAILED, Answer.ANSWERED) if kind == ERRORS else ():
            pipeline.world.run_line(batch, does)
        pipeline.world.end(batch, End.COMPLETED)
        kept, key = pipeline.result(batch, kind)
        whole = kept[key].content
        kept[key].content = whole.splitlines(keepends=True)[0] + whole.splitlines(keepends=True)[1][:-20]
        pipeline.time_passes(after)
        pipeline.tick()
        kept[key].content = whole
        pipeline.go_on()
        assert len(pipeline.world.batches) == 2
        assert pipeline.only_report()["counts"]["failed"] == (2 if kind == ERRORS else 0)


@BOTH_MODES
def test_a_batch_without_counts_whose_answers_are_fewer_than_its_requests_is_not_paid_twice(mode: type[Odd]) -> None:
    """A count that is null, and a line that is missing, are no evidence that it did not run."""
    with running(mode) as pipeline, uncounted():
        (batch,) = pipeline.drop("two lines")
        pipeline.world.end(batch, End.COMPLETED)
        kept, key = pipeline.result(batch, OUTPUT)
        kept[key].content = kept[key].content.splitlines(keepends=True)[0]
        pipeline.go_on()
        assert len(pipeline.world.batches) == 1
        assert pipeline.only_report()["counts"] == {"requests": 2, "succeeded": 1, "failed": 1}


@BOTH_MODES
def test_lines_that_a_batch_ended_without_by_its_own_counts_go_again(mode: type[Odd]) -> None:
    with running(mode) as pipeline:
        (batch,) = pipeline.drop("two lines")
        pipeline.world.run_line(batch, Answer.ANSWERED)
        pipeline.world.end(batch, End.EXPIRED)
        pipeline.go_on()
        assert [[*each.lines] for each in pipeline.world.batches.values()] == [["a", "b"], ["b"]]


# A service, a disk, a step that fails for long


@contextlib.contextmanager
def failing(error: Exception, times: int) -> Iterator[mock.MagicMock]:
    """So many downloads fail."""
    left = iter(range(times))
    download = FakeService.download

    def fails(service: FakeService, file_id: str, to: Path) -> None:
        if next(left, None) is not None:
            raise error
        download(service, file_id, to)

    with mock.patch.object(FakeService, "download", autospec=True, side_effect=fails) as spy:
        yield spy


def test_a_download_is_put_off_for_as_long_as_the_service_asks() -> None:
    """It slept for that long, with the large steps of all others behind it."""
    with running() as pipeline:
        (batch,) = pipeline.drop("two lines")
        pipeline.world.end(batch, End.COMPLETED)
        with failing(TransientServiceError("HTTP 429", retry_after=600), 1) as download:
            pipeline.tick()
            (part,) = pipeline.world.parts()
            assert part.not_before == pipeline.world.now + timedelta(seconds=600)
            assert part.wait
            assert part.wait.reason == "service"
            collect(new_process(pipeline.world), part.job_id)  # another part's message
            pipeline.tick(seconds=310)
            assert download.call_count == 1
            pipeline.tick(seconds=310)
        assert pipeline.only_report()["counts"]["succeeded"] == 2


FULL = OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_a_wait_and_the_part_goes_on_when_there_is_room() -> None:
    with running() as pipeline:
        (batch,) = pipeline.drop("two lines")
        pipeline.world.end(batch, End.COMPLETED)
        with failing(FULL, 20):
            pipeline.tick()
            (part,) = pipeline.world.parts()
            assert part.wait
            assert part.wait.reason == "disk_full"
            pipeline.go_on(rounds=60)
        assert pipeline.only_report()["counts"]["succeeded"] == 2


@pytest.mark.parametrize("kinds", [["two lines"], ["one line", "one line"]])
@pytest.mark.parametrize(
    "error", [FULL, OSError(errno.EIO, "I/O error"), TransientServiceError("HTTP 503"), NotFoundError("404")]
)
def test_results_that_cannot_be_fetched_for_a_week_are_explained(kinds: list[str], error: Exception) -> None:
    with running() as pipeline:
        (batch,) = pipeline.drop(*kinds)
        pipeline.world.end(batch, End.COMPLETED)
        with failing(error, 10**6), mock.patch.object(FakeService, "lacks_file", lambda *_: False):
            for _ in range(14):
                pipeline.go_on(rounds=3)
                assert not pipeline.world.history
                pipeline.time_passes(seconds=12 * 3600)
            pipeline.go_on()
        assert len(pipeline.world.batches) == 1
        reports = [pipeline.report(job.path) for job in pipeline.world.begun.values()]
        assert [report["status"] for report in reports] == ["failed"] * len(kinds)
        pipeline.world.files.clear()  # they expire


def test_a_stopped_app_gives_nothing_up_at_its_first_tries() -> None:
    """A week passes between two failed tries: that is no week of trying."""
    with running() as pipeline:
        (batch,) = pipeline.drop("two lines")
        pipeline.world.end(batch, End.COMPLETED)
        with failing(FULL, 2):
            pipeline.tick()
            pipeline.time_passes(seconds=30 * 86_400)
            pipeline.tick()
        pipeline.go_on()
        assert pipeline.only_report()["counts"]["succeeded"] == 2


def test_one_part_that_fails_keeps_no_other_from_being_settled() -> None:
    with running() as pipeline:
        for batch in pipeline.drop("two parts"):
            pipeline.world.end(batch, End.COMPLETED)
        with failing(FULL, 1):
            pipeline.tick()
        assert sorted(part.state for part in pipeline.world.parts()) == [PartState.ENDED, PartState.SETTLED]
        pipeline.go_on()


# Two collects of one part


@BOTH_MODES
@pytest.mark.parametrize("fate", [Fate.STALLS, Fate.LOST_AFTER, Fate.DIES_AFTER])
def test_a_job_is_cancelled_between_two_collects_of_one_part(fate: Fate, mode: type[Odd]) -> None:
    """Both wrote the part's results under one name, so that its row and its blob did not agree: for ever."""
    for at in itertools.count():
        with running(mode) as pipeline:
            first, _ = pipeline.drop("two parts")
            pipeline.world.run_line(first, Answer.TRIPPED)
            pipeline.world.end(first, End.COMPLETED)
            pipeline.the_timer_ticks(luck=None)
            luck: Luck = (fate, at)
            pipeline.a_message_comes(pick=0, how=Delivery.TWICE, luck=luck)
            struck = pipeline.world.turn.disturbed or bool(pipeline.strands)
            pipeline.a_user_cancels_a_job(pick=0, luck=None)
            pipeline.deliver_all()
            if pipeline.strands:
                pipeline.a_process_that_was_held_up_goes_on(pick=0, dies=False)
            pipeline.go_on()
            assert pipeline.only_report()["status"] == "cancelled"
            if not struck:
                assert at > 3
                return


# Lines that are deleted


def delete_all(pipeline: Odd, *containers: str) -> None:
    for place in [place for place in pipeline.world.blobs if place[0] in containers]:
        del pipeline.world.blobs[place]


def delete_inputs(pipeline: Odd) -> None:
    """Delete what was sent: at the service, and in the work container."""
    for batch in pipeline.world.batches.values():
        pipeline.world.files.pop(batch.input_file_id, None)
        pipeline.world.blobs.pop(blob_at(batch.input_blob), None)
    for place in [place for place in pipeline.world.blobs if place[1].endswith(".picked")]:
        del pipeline.world.blobs[place]


BOTH_COPIES = (SETTINGS.archive_container, SETTINGS.input_container)
KINDS = pytest.mark.parametrize("kind", ["two lines", "two parts, untidy", "mixed"])


@BOTH_MODES
@KINDS
@pytest.mark.parametrize("input_stays", [True, False])
def test_the_copies_of_a_drop_are_deleted_while_its_batches_run(kind: str, input_stays: bool, mode: type[Odd]) -> None:
    """Every collect raised, for ever, although the answers were at the service."""
    with running(mode) as pipeline:
        batches = pipeline.drop(kind)
        for batch in batches:
            pipeline.world.run_line(batch, Answer.FAILED)
            pipeline.world.end(batch, End.COMPLETED)
        delete_all(pipeline, *BOTH_COPIES)
        if not input_stays:
            delete_inputs(pipeline)
        pipeline.go_on()
        report = pipeline.only_report()
        assert report["counts"]["failed"] == len(batches)
        assert (report["outputs"]["archive"] is None) == bool(report["findings"])
        # The parts of a mixed drop have lines of their own.
        assert [each["code"] for each in report["findings"]] == ["input_gone"] * (
            0 if kind == "mixed" and input_stays else len(batches)
        )
        failed = {next(iter(batch.lines)) for batch in batches}
        assert {each["custom_id"] for each in pipeline.lines("errors")} == failed
        answered = {custom_id for batch in batches for custom_id in batch.lines} - failed
        assert {each["custom_id"] for each in pipeline.lines("output")} == answered


@BOTH_MODES
@KINDS
@pytest.mark.parametrize("sent", [True, False])
def test_the_archives_copy_is_deleted_while_the_drop_is_in_the_inbox(kind: str, sent: bool, mode: type[Odd]) -> None:
    """The copy is made again, and nothing more is to be seen of it."""
    with running(mode) as pipeline:
        if sent:
            batches = pipeline.drop(kind)
            for batch in batches:
                pipeline.world.run_line(batch, Answer.TRIPPED)
                pipeline.world.end(batch, End.COMPLETED)
        else:
            pipeline.a_user_drops_a_file(name=NAMES[0], kind=kind)
            pipeline.the_event_of_a_drop_comes(name=NAMES[0], luck=None)
        if kind == "mixed":
            delete_all(pipeline, SETTINGS.work_container)
            return  # its lines are in the work container
        delete_all(pipeline, SETTINGS.archive_container)
        pipeline.go_on()
        report = pipeline.only_report()
        assert (report["status"], report["findings"]) == ("succeeded", [])


@BOTH_MODES
def test_failed_lines_go_again_from_the_input_that_was_sent(mode: type[Odd]) -> None:
    with running(mode) as pipeline:
        first, _ = pipeline.drop("two parts, untidy")
        pipeline.world.run_line(first, Answer.TRIPPED)
        pipeline.world.end(first, End.COMPLETED)
        delete_all(pipeline, *BOTH_COPIES)
        pipeline.go_on()
        assert [[*each.lines] for each in pipeline.world.batches.values()] == [["a", "b", "c"], ["d"], ["a"]]
        assert [each["custom_id"] for each in pipeline.lines("output")] == ["a", "b", "c", "d"]


@BOTH_MODES
def test_requests_without_a_result_are_counted_though_their_names_are_not_known(mode: type[Odd]) -> None:
    with running(mode) as pipeline:
        (batch,) = pipeline.drop("two lines")
        pipeline.world.run_line(batch, Answer.ANSWERED)
        pipeline.world.end(batch, End.LEFT_OUT)
        delete_all(pipeline, *BOTH_COPIES)
        delete_inputs(pipeline)
        pipeline.go_on()
        assert [each["custom_id"] for each in pipeline.lines("output")] == ["a"]
        assert [each["custom_id"] for each in pipeline.lines("errors")] == [None]


@BOTH_MODES
def test_members_of_a_bundle_are_settled_by_line_number(mode: type[Odd]) -> None:
    with running(mode) as pipeline:
        (batch,) = pipeline.drop("two lines", "one line")
        pipeline.world.end(batch, End.COMPLETED)
        delete_all(pipeline, *BOTH_COPIES)
        pipeline.go_on()
        reports = [pipeline.report(job.path) for job in pipeline.world.begun.values()]
        outputs = [pipeline.world.blobs[*report["outputs"]["output"].split("/", 1)].content for report in reports]
        ids = [[json.loads(line)["custom_id"] for line in output.splitlines()] for output in outputs]
        assert sorted(ids) == [["line-1"], ["line-1", "line-2"]]


@BOTH_MODES
@pytest.mark.parametrize("kinds", [["two lines"], ["two parts, untidy"], ["mixed"], ["one line", "one line"]])
def test_the_lines_are_deleted_while_their_parts_wait(kinds: list[str], mode: type[Odd]) -> None:
    with running(mode) as pipeline:
        for name, kind in zip(NAMES, kinds, strict=False):
            pipeline.a_user_drops_a_file(name=name, kind=kind)
            pipeline.the_event_of_a_drop_comes(name=name, luck=None)
        delete_all(pipeline, *BOTH_COPIES, SETTINGS.work_container)
        pipeline.go_on()
        for job in pipeline.world.begun.values():
            report = pipeline.report(job.path)
            assert report["status"] == "failed"
            assert report["findings"][0]["code"] == "input_gone"


# Settings that change


class Lowered(Odd):
    """The app whose MAX_LINE_BYTES and ALLOWED_URLS change when a file has been accepted."""

    new: ClassVar[Settings] = replace(SETTINGS, max_line_bytes=10, allowed_urls=frozenset({"/none"}))


@pytest.mark.parametrize("kinds", [["two lines"], ["two parts, untidy"], ["mixed"], ["one line", "one line"]])
@pytest.mark.parametrize("attempt", [Answer.TRIPPED, Answer.FAILED])
def test_a_line_that_was_accepted_is_read_whatever_its_length(kinds: list[str], attempt: Answer) -> None:
    """An empty line was sent in its place, or every collect raised."""
    with running(Lowered) as pipeline:
        for name, kind in zip(NAMES, kinds, strict=False):
            pipeline.a_user_drops_a_file(name=name, kind=kind)
            pipeline.the_event_of_a_drop_comes(name=name, luck=None)
        pipeline.world.settings = Lowered.new
        pipeline.time_passes(seconds=20)
        pipeline.deliver_all()
        for batch in pipeline.world.open_batches():
            pipeline.world.run_line(batch, attempt)
        pipeline.go_on()
        for pick in range(len(kinds)) if attempt is Answer.FAILED else ():
            pipeline.a_user_retries_a_job(pick=pick, luck=None)
        pipeline.go_on()
        reports = [pipeline.report(job.path) for job in pipeline.world.begun.values()]
        assert [report["counts"]["failed"] for report in reports] == [0] * len(kinds)


# Cleaning up


@pytest.mark.parametrize("kind", ["one line", "four parts"])
def test_cleaning_up_for_longer_than_a_job_is_held_is_done_once(kind: str) -> None:
    """Each instance that took the job over began anew, and the first could not end it: 575 calls in place of 30."""
    with running() as pipeline:
        batches = pipeline.drop(kind)
        for batch in batches:
            pipeline.world.end(batch, End.COMPLETED)
        pipeline.the_timer_ticks(luck=None)
        delete_file, calls = FakeService.delete_file, list[str]()
        busy = False

        def slow(service: FakeService, file_id: str) -> None:
            nonlocal busy
            calls.append(file_id)
            delete_file(service, file_id)
            pipeline.world.now += timedelta(seconds=20)
            if not busy:  # meanwhile the tick, and another worker
                busy = True
                (job_id,) = pipeline.world.begun
                collect(new_process(pipeline.world), job_id)
                busy = False

        with mock.patch.object(FakeService, "delete_file", slow):
            pipeline.deliver_all()
        assert len(calls) == len(set(calls)) == 2 * len(batches)
        assert not pipeline.world.rows


@pytest.mark.parametrize("kinds", [["one line"], ["one line", "one line"]])
def test_files_that_the_service_does_not_delete_hold_a_job_for_a_week_at_most(kinds: list[str]) -> None:
    with running() as pipeline:
        (batch,) = pipeline.drop(*kinds)
        pipeline.world.end(batch, End.COMPLETED)
        calls = 0

        def refuse(*_: object) -> None:
            nonlocal calls
            calls += 1
            raise TransientServiceError("HTTP 403")

        with mock.patch.object(FakeService, "delete_file", refuse):
            pipeline.go_on(rounds=3)
            assert pipeline.only_report() if len(kinds) == 1 else pipeline.world.rows
            assert pipeline.world.rows
            calls = 0
            for _ in range(30):
                pipeline.tick(seconds=20)
            assert calls < 15 * len(kinds), "not at each tick"
            pipeline.time_passes(seconds=8 * 86_400)
            pipeline.go_on()
            assert not pipeline.world.rows
        pipeline.world.files.clear()


# What must add up


def test_a_job_whose_kept_results_are_not_its_requests_is_not_reported() -> None:
    with running() as pipeline:
        first, second = pipeline.drop("two parts")
        pipeline.world.end(first, End.COMPLETED)
        pipeline.tick()
        (kept,) = [blob for (_, name), blob in pipeline.world.blobs.items() if name.endswith(".results")]
        whole, kept.content = kept.content, kept.content.split(b"\n", 1)[1]
        pipeline.world.end(second, End.COMPLETED)
        pipeline.the_timer_ticks(luck=None)
        (job_id,) = pipeline.world.begun
        with pytest.raises(CountMismatchError):
            collect(new_process(pipeline.world), job_id)
        assert not pipeline.world.history
        assert not [name for container, name in pipeline.world.blobs if container == SETTINGS.output_container]
        kept.content = whole
        pipeline.go_on()
        assert pipeline.only_report()["counts"]["succeeded"] == 4
