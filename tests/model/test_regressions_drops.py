"""Drops and retries on a bad day: what is not the file's fault never costs the file."""

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError

from batch_fn.core.jobs import Job, PartState
from batch_fn.core.waits import ENVIRONMENT
from batch_fn.queries.job_detail import show_job
from batch_fn.steps import intake
from batch_fn.steps.intake import ingest
from batch_fn.steps.poison import poisoned_message
from batch_fn.steps.polling import tick
from batch_fn.steps.resume import resume
from batch_fn.storage.blobs import ArchiveGoneError
from batch_fn.storage.queues import Message, encode
from tests.model.fakes import FakeBlobs, new_process
from tests.model.faults import Turn
from tests.model.machine import NAMES, Pipeline, PipelineOnBlobs
from tests.model.world import SETTINGS, Answer, Batch, End

RESEND = SETTINGS.resend_seconds


@contextlib.contextmanager
def _pipeline(mode: type[Pipeline] = Pipeline) -> Iterator[Pipeline]:
    pipeline = mode()
    try:
        yield pipeline
        pipeline.no_rule_is_broken()
    finally:
        pipeline.teardown()


def _job(pipeline: Pipeline) -> Job:
    (job_id,) = pipeline.world.rows
    job = pipeline.world.job_in_hand(job_id)
    assert job is not None
    return job


def _storage_answers(status: int) -> HttpResponseError:
    error = HttpResponseError("no")
    error.status_code = status
    return error


def _fails(monkeypatch: pytest.MonkeyPatch, method: str, error: Exception) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(FakeBlobs, method, fail)


def _poisoned(pipeline: Pipeline, job: Job) -> None:
    body = encode(Message(job.job_id, name=job.name)).encode()
    pipeline._run(lambda app: poisoned_message(app, body), Turn())


def _report(pipeline: Pipeline, job: Job) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(pipeline.world.blobs[SETTINGS.reports_container, f"{job.path}.json"].content)
    return report


def _an_hour_passes(pipeline: Pipeline) -> None:
    for _ in range(36):
        pipeline.all_goes_on_for_a_while(seconds=100, ends=None, luck=None)


@pytest.mark.parametrize("status", [403, 404, 409, 500, None])
def test_a_drop_that_cannot_be_archived_waits_and_goes_on_when_that_is_mended(
    monkeypatch: pytest.MonkeyPatch, status: int | None
) -> None:
    """It was rejected and deleted, with no copy anywhere; or after three poisonings, within 25 minutes."""
    with _pipeline() as pipeline:
        pipeline.a_user_drops_a_file(name=NAMES[0], kind="two parts")
        with monkeypatch.context() as trouble:
            _fails(trouble, "archive", OSError(28, "No space left") if status is None else _storage_answers(status))
            _an_hour_passes(pipeline)
            job = _job(pipeline)
            for _ in range(5):
                _poisoned(pipeline, job)
                pipeline.time_passes(seconds=310)
            assert pipeline.world.inbox()
            job = _job(pipeline)
            assert job.poisoned == 0
            assert job.wait is not None
            assert job.wait.reason == ENVIRONMENT
            shown = show_job(new_process(pipeline.world), job.job_id)["wait"]
            assert shown["reason"] == ENVIRONMENT
            assert shown["message"] == job.wait.message
        _an_hour_passes(pipeline)
        accepted = pipeline.world.job_in_hand(job.job_id)
        assert accepted is not None
        assert accepted.accepted_at is not None
        assert accepted.wait is None


def test_a_mixed_drop_waits_while_the_work_container_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    with _pipeline() as pipeline:
        pipeline.a_user_drops_a_file(name=NAMES[0], kind="mixed")
        with monkeypatch.context() as trouble:
            _fails(trouble, "writer", _storage_answers(404))
            _an_hour_passes(pipeline)
            assert _job(pipeline).waiting_since is not None


@pytest.mark.parametrize("error", [_storage_answers(403), _storage_answers(500), OSError(28, "No space left")])
@pytest.mark.parametrize("mode", [Pipeline, PipelineOnBlobs])
def test_a_part_waits_while_its_lines_cannot_be_read_or_written(
    monkeypatch: pytest.MonkeyPatch, mode: type[Pipeline], error: Exception
) -> None:
    """Three poisonings ended it as not_processed, though another file would have met the same error."""
    with _pipeline(mode) as pipeline:
        pipeline.a_user_drops_a_file(name=NAMES[0], kind="two lines")
        pipeline.the_event_of_a_drop_comes(name=NAMES[0], luck=None)
        job = _job(pipeline)
        with monkeypatch.context() as trouble:
            for method in ("read", "version"):
                _fails(trouble, method, error)
            for _ in range(5):
                _an_hour_passes(pipeline)
                (part,) = pipeline.world.parts()
                body = encode(Message(job.job_id, part=part.key)).encode()
                pipeline._run(lambda app, body=body: poisoned_message(app, body), Turn())  # type: ignore[misc]
            (part,) = pipeline.world.parts()
            assert part.state is PartState.WAITING
            assert part.poisoned == 0
            assert part.wait is not None
            assert part.wait.reason == ENVIRONMENT
        for _ in range(3):
            _an_hour_passes(pipeline)
        assert pipeline.world.open_batches()


@pytest.mark.parametrize("report_too", [False, True])
def test_a_drop_that_waited_for_a_week_ends_in_a_report_and_stays_in_the_inbox(
    monkeypatch: pytest.MonkeyPatch, *, report_too: bool
) -> None:
    with _pipeline() as pipeline:
        pipeline.a_user_drops_a_file(name=NAMES[0], kind="one line")
        with monkeypatch.context() as trouble:
            _fails(trouble, "archive", _storage_answers(409))
            pipeline.the_event_of_a_drop_comes(name=NAMES[0], luck=None)
            job = _job(pipeline)
            pipeline.time_passes(seconds=SETTINGS.environment_wait_seconds - 100)
            pipeline.all_goes_on_for_a_while(seconds=0, ends=None, luck=None)
            assert job.job_id not in pipeline.world.history
            pipeline.time_passes(seconds=RESEND + 100)
            if report_too:  # the report waits until it can be written
                with monkeypatch.context() as worse:
                    _fails(worse, "write_report", _storage_answers(403))
                    _an_hour_passes(pipeline)
                    assert job.job_id not in pipeline.world.history
            _an_hour_passes(pipeline)
            report = _report(pipeline, job)
            assert report["status"] == "rejected"
            assert report["outputs"]["archive"] is None
            assert "409" in report["findings"][0]["message"]
            assert NAMES[0] in pipeline.world.inbox()
        pipeline.a_user_deletes_a_file(pick=0)


def test_five_runs_at_once_and_a_repeated_event_are_not_three_poisonings() -> None:
    """The host runs a failing drop five times within 0.4 s: half a second of trouble poisons it."""
    with _pipeline() as pipeline:
        pipeline.a_user_drops_a_file(name=NAMES[0], kind="one line")
        pipeline.the_event_of_a_drop_comes(name=NAMES[0], luck=None)
        job = _job(pipeline)
        pipeline.world.rows.clear()  # as it is before its event is handled
        pipeline.world.messages.clear()
        for _ in range(5):
            _poisoned(pipeline, job)
        assert _job(pipeline).poisoned == 1


def test_only_an_error_of_the_app_on_this_file_is_given_up_after_three_poisonings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    with _pipeline() as pipeline:
        pipeline.a_user_drops_a_file(name=NAMES[0], kind="one line")
        monkeypatch.setattr(intake, "validate_blocks", fail)
        for poisonings in range(3):
            with pytest.raises(ZeroDivisionError):
                ingest(new_process(pipeline.world), NAMES[0])
            job = _job(pipeline)
            assert job.poisoned == poisonings
            assert job.wait is not None
            assert job.wait.message == "The app failed with ZeroDivisionError."
            _poisoned(pipeline, job)
            pipeline.time_passes(seconds=RESEND)
        report = _report(pipeline, job)
        assert report["findings"][0]["code"] == "not_processed"
        assert "ZeroDivisionError" in report["findings"][0]["message"]
        assert not pipeline.world.inbox()


def _to_retry(pipeline: Pipeline) -> Job:
    pipeline.a_user_drops_a_file(name=NAMES[0], kind="one line")
    pipeline.all_goes_on_for_a_while(seconds=0, ends=None, luck=None)
    job = _job(pipeline)
    for _ in range(6):
        for batch in pipeline.world.open_batches():
            _fail(pipeline, batch)
        pipeline.all_goes_on_for_a_while(seconds=100, ends=None, luck=None)
    assert pipeline.world.history[job.job_id].status == "failed"
    pipeline.a_user_retries_a_job(pick=0, luck=None)
    return job


def _fail(pipeline: Pipeline, batch: Batch) -> None:
    pipeline.world.run_line(batch, Answer.FAILED)
    pipeline.world.end(batch, End.COMPLETED)


def test_a_retry_waits_for_its_environment_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with _pipeline() as pipeline:
        job = _to_retry(pipeline)
        with monkeypatch.context() as trouble:
            _fails(trouble, "archived", _storage_answers(503))
            _an_hour_passes(pipeline)
            for _ in range(5):
                _poisoned(pipeline, job)
                pipeline.time_passes(seconds=310)
            assert _job(pipeline).waiting_since is not None
        _an_hour_passes(pipeline)
        assert pipeline.world.open_batches(), "its failed line was sent again"


def test_a_retry_is_given_up_after_a_week_and_its_former_report_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    with _pipeline() as pipeline:
        job = _to_retry(pipeline)
        before = _report(pipeline, job)
        pipeline.retried.clear()
        with monkeypatch.context() as trouble:
            _fails(trouble, "archived", _storage_answers(503))
            _an_hour_passes(pipeline)
            pipeline.time_passes(seconds=SETTINGS.environment_wait_seconds)
            _an_hour_passes(pipeline)
        assert job.job_id not in pipeline.world.rows
        assert _report(pipeline, job) == before


def test_a_retry_whose_archive_copy_is_gone_is_given_up_after_three_poisonings() -> None:
    with _pipeline() as pipeline:
        job = _to_retry(pipeline)
        pipeline.retried.clear()
        place = (SETTINGS.archive_container, f"{job.path}.jsonl")
        copy = pipeline.world.blobs.pop(place)
        for _ in range(3):
            with pytest.raises(ArchiveGoneError):
                resume(new_process(pipeline.world), Message(job.job_id, name=job.name))
            _poisoned(pipeline, job)
            pipeline.time_passes(seconds=RESEND)
        assert job.job_id not in pipeline.world.rows
        pipeline.world.blobs[place] = copy


class Counted(Turn):
    """Counts calls by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def meet(self, hand: Any, name: str, effect: Callable[[], Any], *, writes: bool) -> Any:  # noqa: ARG002
        self.calls[name] += 1
        return effect()


def test_a_drop_that_cannot_be_deleted_costs_later_ticks_nothing() -> None:
    """Each tick began it again: 84 calls with 20 such drops."""
    with _pipeline() as pipeline:
        pipeline.a_user_drops_a_file(name=NAMES[0], kind="a bad line")
        pipeline.world.held.add(NAMES[0])
        pipeline.the_event_of_a_drop_comes(name=NAMES[0], luck=None)
        assert len(pipeline.world.history) == 1
        pipeline.time_passes(seconds=310)
        app = new_process(pipeline.world)
        tick(app)
        calls = pipeline.world.turn = Counted()
        tick(app)
        with_drop = calls.calls
        left = pipeline.world.blobs.pop((SETTINGS.input_container, NAMES[0]))
        calls = pipeline.world.turn = Counted()
        tick(app)
        assert with_drop == calls.calls
        assert not pipeline.world.rows
        pipeline.world.blobs[SETTINGS.input_container, NAMES[0]] = left
        pipeline.world.held.clear()  # a later process deletes it


def test_a_blob_of_zero_bytes_is_left_to_its_writer_until_it_has_not_changed_for_a_while() -> None:
    with _pipeline() as pipeline:
        for _ in range(3):
            pipeline.a_user_drops_a_file(name=NAMES[0], kind="empty")
            pipeline.all_goes_on_for_a_while(seconds=SETTINGS.empty_drop_seconds - 50, ends=None, luck=None)
            assert not pipeline.world.begun
        pipeline.a_user_drops_a_file(name=NAMES[0], kind="one line")  # its writer comes to its end
        pipeline.all_goes_on_for_a_while(seconds=0, ends=None, luck=None)
        assert len(pipeline.world.begun) == 1
        pipeline.a_user_drops_a_file(name=NAMES[1], kind="empty")
        pipeline.world.now += timedelta(seconds=SETTINGS.empty_drop_seconds)
        pipeline.all_goes_on_for_a_while(seconds=0, ends=None, luck=None)
        jobs = [job for job in pipeline.world.begun.values() if job.name == NAMES[1]]
        assert [_report(pipeline, job)["findings"][0]["code"] for job in jobs] == ["empty_file"]
