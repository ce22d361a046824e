"""Attempts to break the rules: answers that say less, failures that are none, a week of standstill."""

import json
from typing import Any
from unittest import mock

import msgspec
import pytest

from batch_fn.azure_openai.wire import read_batch
from batch_fn.core.batches import ServiceBatch, ServiceError, TransientServiceError
from batch_fn.core.jobs import PartState
from batch_fn.core.results import Verdict, read_result
from batch_fn.settings import DAY
from tests.model.test_regressions_results import BOTH_MODES, FULL, OUTPUT, Odd, OddOnBlobs, failing, running
from tests.model.test_regressions_service import (
    HOUR,
    ROUTE_GONE,
    _create_is_lost,
    _pipeline,
    _rides_home,
    _sent,
    _service,
    _status,
    _the_part,
    _time_goes_on,
)
from tests.model.world import Answer, Batch, End, World


def _counting(**counts: Any) -> Any:
    """The service's counts, as read from JSON where some are null."""
    described = World.described

    def shown(world: World, batch: Batch) -> ServiceBatch:
        told = described(world, batch)
        read = read_batch({"id": batch.id, "request_counts": {"total": told.total, "failed": told.failed} | counts})
        return msgspec.structs.replace(told, total=read.total, completed=read.completed, failed=read.failed)

    return mock.patch.object(World, "described", shown)


@BOTH_MODES
@pytest.mark.parametrize("end", [End.COMPLETED, End.EXPIRED, End.CANCELLED])
def test_a_null_beside_a_total_does_not_say_that_no_line_was_answered(end: End, mode: type[Odd]) -> None:
    with running(mode) as pipeline, _counting(completed=None):
        (batch,) = pipeline.drop("two lines")
        for _ in range(2):
            pipeline.world.run_line(batch, Answer.ANSWERED)
        pipeline.world.end(batch, end)
        kept, key = pipeline.result(batch, OUTPUT)
        kept[key].content = kept[key].content.splitlines(keepends=True)[0]
        pipeline.go_on()
        assert len(pipeline.world.batches) == 1
        assert pipeline.only_report()["counts"] == {"requests": 2, "succeeded": 1, "failed": 1}


@BOTH_MODES
def test_what_a_batch_answered_before_it_failed_for_quota_is_kept_and_not_paid_twice(mode: type[Odd]) -> None:
    with running(mode) as pipeline:
        (batch,) = pipeline.drop("two lines")
        pipeline.world.run_line(batch, Answer.ANSWERED)
        pipeline.world.end(batch, End.FAILED)
        batch.errors = (ServiceError("token_limit_exceeded", "The deployment is full."),)
        pipeline.go_on()
        assert [[*each.lines] for each in pipeline.world.batches.values()] == [["a", "b"], ["b"]]
        assert pipeline.only_report()["status"] == "succeeded"


def test_a_response_without_a_status_is_no_reason_to_send_its_line_again() -> None:
    response = {"status_code": None, "body": {"choices": [{"message": {"content": "Yes."}}]}}
    result = read_result(json.dumps({"custom_id": "a", "response": response, "error": None}).encode())
    assert result is not None
    assert result.verdict is not Verdict.RETRY


def test_an_error_of_empty_strings_is_none() -> None:
    line = {"custom_id": "a", "response": {"status_code": 200, "body": {}}, "error": {"code": "", "message": ""}}
    result = read_result(json.dumps(line).encode())
    assert result is not None
    assert result.verdict is Verdict.SUCCEEDED


@pytest.mark.parametrize("kinds", [["two lines"], ["one line", "one line"]])
@pytest.mark.parametrize("error", [FULL, TransientServiceError("HTTP 503")])
def test_results_that_could_not_be_fetched_are_not_deleted(kinds: list[str], error: Exception) -> None:
    """They were paid for, and there is no copy of them: the service keeps them until they expire."""
    with running() as pipeline:
        (batch,) = pipeline.drop(*kinds)
        pipeline.world.end(batch, End.COMPLETED)
        with failing(error, 10**6):
            for _ in range(15):
                pipeline.go_on(rounds=3)
                pipeline.time_passes(seconds=12 * HOUR)
        pipeline.go_on()
        assert len(pipeline.world.history) == len(kinds)
        assert [*pipeline.world.files] == [batch.output_file_id]
        pipeline.world.files.clear()


def test_result_blobs_that_could_not_be_fetched_are_not_deleted() -> None:
    with running(OddOnBlobs) as pipeline:
        (batch,) = pipeline.drop("two lines")
        pipeline.world.end(batch, End.COMPLETED)
        kept, key = pipeline.result(batch, OUTPUT)
        with mock.patch("batch_fn.steps.answers.BatchResults._copy", side_effect=FULL):
            for _ in range(15):
                pipeline.go_on(rounds=3)
                pipeline.time_passes(seconds=12 * HOUR)
        pipeline.go_on()
        assert len(pipeline.world.history) == 1
        assert key in kept
        for container, name in [*pipeline.world.blobs]:
            if container == key[0]:
                del pipeline.world.blobs[container, name]


@pytest.mark.parametrize("days", [8, 30])
def test_a_stopped_app_gives_up_no_open_batch_at_its_first_looks(days: int) -> None:
    """A week passes between two failed looks: that is no week of looking."""
    with _pipeline() as pipeline:
        batch = _sent(pipeline)
        with _service(retrieve=TransientServiceError("HTTP 429"), pages=ROUTE_GONE):
            pipeline.the_timer_ticks(luck=None)
            pipeline.time_passes(seconds=days * DAY)
            pipeline.world.end(batch, End.COMPLETED)
            pipeline.the_timer_ticks(luck=None)
            assert _the_part(pipeline).state is PartState.OPEN
        _time_goes_on(pipeline, HOUR)
        assert _status(pipeline) == "succeeded"


def test_two_hitches_with_a_week_of_waiting_between_are_no_week_of_trouble() -> None:
    with _pipeline() as pipeline:
        pipeline.a_user_drops_a_file(name="monday.jsonl", kind="two lines")
        pipeline.all_goes_on_for_a_while(seconds=0, ends=None, luck=None)
        for seconds in (20, 8 * DAY):
            with _service(upload=TransientServiceError("HTTP 503")):
                pipeline.all_goes_on_for_a_while(seconds=seconds, ends=None, luck=None)
                pipeline.all_goes_on_for_a_while(seconds=0, ends=None, luck=None)
            assert _the_part(pipeline).state is PartState.WAITING
            assert _the_part(pipeline).trouble_since is not None
        _rides_home(pipeline)
        assert _status(pipeline) == "succeeded"


def test_an_adopted_batch_without_a_time_was_made_when_its_create_was_sent() -> None:
    """From when it was found, a list would count as complete that was not read back to it."""
    described = World.described

    def undated(world: World, batch: Batch) -> ServiceBatch:
        return msgspec.structs.replace(described(world, batch), created_at=None)

    with _pipeline() as pipeline, mock.patch.object(World, "described", undated):
        _create_is_lost(pipeline, made=True)
        sent_at = _the_part(pipeline).create_intent_at
        with _service(find_batch=ROUTE_GONE):
            _time_goes_on(pipeline, 5 * HOUR)
        _time_goes_on(pipeline, HOUR)
        part = _the_part(pipeline)
        assert (part.state, part.created_at) == (PartState.OPEN, sent_at)
        _rides_home(pipeline)
