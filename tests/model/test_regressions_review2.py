"""Rejections, retries and poison messages that met a second misfortune on their way to a report."""

import contextlib
from typing import Any

import pytest

from batch_fn.core.jobs import Job, JobState
from batch_fn.steps.inbox import find_lost_drops
from batch_fn.steps.intake import ingest, job_id_of
from batch_fn.steps.resume import resume
from batch_fn.steps.retrying import InconsistentResultsError
from batch_fn.storage.drops import Drop
from batch_fn.storage.queues import Message
from tests.model.fakes import FakeBlobs, FakeTables, new_process
from tests.model.machine import NAMES
from tests.model.test_regressions_drops import (
    RESEND,
    _an_hour_passes,
    _fails,
    _job,
    _pipeline,
    _poisoned,
    _report,
    _storage_answers,
    _to_retry,
)
from tests.model.world import SETTINGS, Answer, End


def test_a_rejection_is_not_taken_back_when_its_cause_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was accepted and paid for, then ended with the report that nothing was sent, and its answers were deleted."""
    with _pipeline() as pipeline:
        pipeline.a_user_drops_a_file(name=NAMES[0], kind="one line")
        with monkeypatch.context() as trouble:
            _fails(trouble, "archive", _storage_answers(409))
            _fails(trouble, "delete_from_inbox", _storage_answers(403))
            pipeline.the_event_of_a_drop_comes(name=NAMES[0], luck=None)
            job = _job(pipeline)
            pipeline.time_passes(seconds=SETTINGS.environment_wait_seconds + RESEND)
            _an_hour_passes(pipeline)
            assert _report(pipeline, job)["status"] == "rejected"
            assert job.job_id not in pipeline.world.history
        _an_hour_passes(pipeline)
        assert not pipeline.world.batches
        assert pipeline.world.history[job.job_id].status == "rejected"
        pipeline.a_user_deletes_a_file(pick=0)


def test_a_rejection_without_a_report_is_not_taken_back_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another instance may be about to write the report that it ends with."""
    with _pipeline() as pipeline:
        pipeline.a_user_drops_a_file(name=NAMES[0], kind="one line")
        with monkeypatch.context() as trouble:
            _fails(trouble, "archive", _storage_answers(409))
            _fails(trouble, "write_report", _storage_answers(403))
            pipeline.the_event_of_a_drop_comes(name=NAMES[0], luck=None)
            job = _job(pipeline)
            pipeline.time_passes(seconds=SETTINGS.environment_wait_seconds + RESEND)
            _an_hour_passes(pipeline)
            assert _job(pipeline).state is JobState.FINISHING
        _an_hour_passes(pipeline)
        assert not pipeline.world.batches
        assert _report(pipeline, job)["findings"][0]["code"] == "not_processed"
        assert not pipeline.world.inbox(), "its bytes are in the archive"


def test_a_retry_whose_report_was_deleted_is_given_up() -> None:
    """It was read again every five minutes, for ever, and without a word."""
    with _pipeline() as pipeline:
        job = _to_retry(pipeline)
        pipeline.retried.clear()
        place = (SETTINGS.reports_container, f"{job.path}.json")
        report = pipeline.world.blobs.pop(place)
        for poisonings in range(3):
            with pytest.raises(InconsistentResultsError):
                resume(new_process(pipeline.world), Message(job.job_id, name=job.name))
            if poisonings == 2:
                pipeline.world.blobs[place] = report  # the model wants it there when blobs are deleted
            _poisoned(pipeline, job)
            pipeline.time_passes(seconds=RESEND)
        assert job.job_id not in pipeline.world.rows


def test_a_drop_whose_copy_is_refused_as_a_bad_request_ends_in_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report wanted the copy, too, and what was given up stayed under a lease that each poisoning extended."""
    with _pipeline() as pipeline:
        pipeline.a_user_drops_a_file(name=NAMES[0], kind="one line")
        with monkeypatch.context() as trouble:
            _fails(trouble, "archive", _storage_answers(400))
            with pytest.raises(Exception, match="no"):
                ingest(new_process(pipeline.world), NAMES[0])
            job = _job(pipeline)
            for _ in range(3):
                _poisoned(pipeline, job)
                pipeline.time_passes(seconds=RESEND)
            report = _report(pipeline, job)
            assert report["findings"][0]["code"] == "not_processed"
            assert report["outputs"]["archive"] is None
            assert NAMES[0] in pipeline.world.inbox()
        pipeline.a_user_deletes_a_file(pick=0)


def test_a_poisoning_does_not_extend_the_lease_of_a_rejection(monkeypatch: pytest.MonkeyPatch) -> None:
    with _pipeline() as pipeline:
        pipeline.a_user_drops_a_file(name=NAMES[0], kind="a bad line")
        with monkeypatch.context() as trouble:
            _fails(trouble, "archive", _storage_answers(400))
            for _ in range(3):
                with pytest.raises(Exception, match="no"):
                    ingest(new_process(pipeline.world), NAMES[0])
                job = _job(pipeline)
                assert job.state is JobState.FINISHING
                _poisoned(pipeline, job)
                pipeline.time_passes(seconds=RESEND)
            assert job.job_id in pipeline.world.history
        pipeline.a_user_deletes_a_file(pick=0)


def test_a_drop_that_waited_once_and_then_stops_each_process_ends_in_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed records nothing, and the old wait excused each poisoning for ever."""
    with _pipeline() as pipeline:
        pipeline.a_user_drops_a_file(name=NAMES[0], kind="one line")
        with monkeypatch.context() as trouble:
            _fails(trouble, "archive", _storage_answers(503))
            pipeline.the_event_of_a_drop_comes(name=NAMES[0], luck=None)
        job = _job(pipeline)
        pipeline.time_passes(seconds=SETTINGS.environment_wait_seconds - 100)
        _poisoned(pipeline, job)
        assert job.job_id not in pipeline.world.history
        pipeline.time_passes(seconds=200)
        _poisoned(pipeline, job)
        assert _report(pipeline, job)["findings"][0]["code"] == "not_processed"


def test_one_lost_drop_that_cannot_be_entered_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    with _pipeline() as pipeline:
        for name in NAMES[:2]:
            pipeline.a_user_drops_a_file(name=name, kind="one line")
        pipeline.time_passes(seconds=RESEND + 10)
        drops = list(new_process(pipeline.world).blobs.inbox())
        insert = FakeTables.insert_if_absent
        for bad in drops:

            def refuse(self: FakeTables, job: Job, bad: Drop = bad) -> Any:
                if job.job_id == job_id_of(bad):
                    raise _storage_answers(400)
                return insert(self, job)

            app = new_process(pipeline.world)
            with monkeypatch.context() as trouble:
                trouble.setattr(FakeTables, "insert_if_absent", refuse)
                with pytest.raises(ExceptionGroup):
                    find_lost_drops(app, pipeline.world.now)
            assert len(pipeline.world.rows) == 1
            pipeline.world.rows.clear()
            pipeline.world.messages.clear()


def test_a_finished_job_whose_report_is_deleted_while_it_is_cleaned_up_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with _pipeline() as pipeline:
        pipeline.a_user_drops_a_file(name=NAMES[0], kind="two parts")
        pipeline.all_goes_on_for_a_while(seconds=0, ends=None, luck=None)
        job = _job(pipeline)
        deleted = FakeBlobs._delete_work
        count = [0]

        def fail(self: FakeBlobs, name: str) -> None:
            count[0] += 1
            deleted(self, name)
            raise _storage_answers(503)

        listed = FakeBlobs._list_work

        def lists(self: FakeBlobs, prefix: str) -> Any:
            if count[0]:
                raise _storage_answers(503)
            return listed(self, prefix)

        with monkeypatch.context() as trouble:
            trouble.setattr(FakeBlobs, "_delete_work", fail)
            trouble.setattr(FakeBlobs, "_list_work", lists)
            for batch in pipeline.world.open_batches():
                for _ in range(9):
                    pipeline.world.run_line(batch, Answer.ANSWERED)
                pipeline.world.end(batch, End.COMPLETED)
            for _ in range(5):
                with contextlib.suppress(Exception):
                    pipeline.all_goes_on_for_a_while(seconds=100, ends=None, luck=None)
        place = (SETTINGS.reports_container, f"{job.path}.json")
        report = pipeline.world.blobs.pop(place)
        pipeline.time_passes(seconds=RESEND)
        for _ in range(12):
            with contextlib.suppress(Exception):
                pipeline.all_goes_on_for_a_while(seconds=100, ends=None, luck=None)
        assert job.job_id not in pipeline.world.rows
        pipeline.world.blobs[place] = report
        pipeline.world.broken.clear()  # steps failed, and work was deleted without a report


def test_a_rejected_drop_that_stays_does_not_keep_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The instance that finished it had died; each later one saw that it is in the history, and left."""
    with _pipeline() as pipeline:
        pipeline.a_user_drops_a_file(name=NAMES[0], kind="a bad line")
        pipeline.world.held.add(NAMES[0])
        with monkeypatch.context() as trouble:

            def fail(*_: Any) -> None:
                raise _storage_answers(503)

            trouble.setattr(FakeTables, "delete_active", fail)
            pipeline.the_event_of_a_drop_comes(name=NAMES[0], luck=None)
            job = _job(pipeline)
            assert job.job_id in pipeline.world.history
        _an_hour_passes(pipeline)
        assert job.job_id not in pipeline.world.rows
        pipeline.world.held.clear()
