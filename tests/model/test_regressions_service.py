"""What the service says, or does not say, and what the app must not conclude from it."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from unittest import mock

import msgspec
import pytest

from batch_fn.core.batches import (
    CreateOutcomeUnknownError,
    EnvironmentServiceError,
    NotFoundError,
    PermanentServiceError,
    ServiceBatch,
    ServiceError,
    TransientServiceError,
)
from batch_fn.core.jobs import Part, PartState
from batch_fn.settings import DAY
from tests.model.fakes import FakeService
from tests.model.faults import Fate
from tests.model.machine import NAMES, Delivery, Pipeline, PipelineOnBlobs
from tests.model.world import SETTINGS, Answer, Batch, End, World

BOTH_MODES = pytest.mark.parametrize("mode", [Pipeline, PipelineOnBlobs])
ROUTE_GONE = EnvironmentServiceError("HTTP 404: Resource not found")
HOUR = 3600


@contextlib.contextmanager
def _pipeline(mode: type[Pipeline] = Pipeline) -> Iterator[Pipeline]:
    machine = mode()
    try:
        yield machine
        machine.no_rule_is_broken()
    finally:
        machine.teardown()


@contextlib.contextmanager
def _service(**answers: Exception | Callable[..., Any]) -> Iterator[None]:
    """Have calls to the service answered otherwise; an exception is raised."""
    with contextlib.ExitStack() as patches:
        for name, answer in answers.items():
            patches.enter_context(mock.patch.object(FakeService, name, _method(answer)))
        yield


def _method(answer: Exception | Callable[..., Any]) -> Callable[..., Any]:
    def method(*given: Any, **named: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer(*given, **named)

    return method


def _sent(pipeline: Pipeline, kind: str = "two lines") -> Batch:
    """A file is dropped, and becomes a batch."""
    pipeline.a_user_drops_a_file(name=NAMES[0], kind=kind)
    pipeline.all_goes_on_for_a_while(seconds=0, ends=None, luck=None)
    pipeline.all_goes_on_for_a_while(seconds=20, ends=None, luck=None)
    return pipeline.world.open_batches()[0]


def _time_goes_on(pipeline: Pipeline, seconds: int, step: int = 310) -> None:
    """Ticks and messages come, while no batch ends."""
    for _ in range(seconds // step + 1):
        pipeline.all_goes_on_for_a_while(seconds=step, ends=None, luck=None)


def _rides_home(pipeline: Pipeline) -> None:
    for _ in range(12):
        pipeline.all_goes_on_for_a_while(seconds=310, ends=End.COMPLETED, luck=None)


def _give_up(pipeline: Pipeline) -> None:
    """The batches will run on, and nobody will be able to ask for them."""
    for batch in pipeline.world.batches.values():
        batch.given_up = True


def _the_part(pipeline: Pipeline) -> Part:
    (part,) = pipeline.world.parts()
    return part


def _status(pipeline: Pipeline) -> str:
    (finished,) = pipeline.world.history.values()
    return finished.status


def _messages(world: World) -> list[str]:
    """What the errors of the one job say."""
    (job,) = [job for job in world.begun.values() if not job.bundle]
    blob = world.blobs[SETTINGS.errors_container, f"{job.path}.jsonl"]
    return [msgspec.json.decode(line)["error"]["message"] for line in blob.content.splitlines()]


# A batch that the service does not show


@BOTH_MODES
@pytest.mark.parametrize(
    "listing",
    [ROUTE_GONE, EnvironmentServiceError("HTTP 403"), TransientServiceError("HTTP 500"), TransientServiceError("cut")],
    ids=str,
)
def test_a_404_for_hours_makes_no_batch_vanish_while_no_list_says_so(listing: Exception, mode: type[Pipeline]) -> None:
    with _pipeline(mode) as pipeline:
        _sent(pipeline)
        with _service(retrieve=NotFoundError("HTTP 404"), pages=listing, find_batches=listing, find_batch=listing):
            _time_goes_on(pipeline, 6 * HOUR)
            part = _the_part(pipeline)
            assert part.state is PartState.OPEN
            assert part.wait is not None
            assert part.wait.message == str(listing)
        _rides_home(pipeline)
        assert len(pipeline.world.batches) == 1
        assert _status(pipeline) == "succeeded"


def test_a_batch_that_is_listed_is_there_whatever_is_said_of_its_id() -> None:
    with _pipeline() as pipeline:
        batch = _sent(pipeline)
        with _service(retrieve=NotFoundError("HTTP 404"), pages=ROUTE_GONE):
            _time_goes_on(pipeline, HOUR)
            assert _the_part(pipeline).not_found_since is None
            pipeline.world.end(batch, End.COMPLETED)
            _time_goes_on(pipeline, HOUR)
        assert _status(pipeline) == "succeeded"


def test_a_batch_has_vanished_when_two_looks_agree_and_not_before() -> None:
    with _pipeline() as pipeline:
        pipeline.world.end(_sent(pipeline), End.GONE)
        pipeline.the_timer_ticks(luck=None)
        assert _the_part(pipeline).not_found_since is not None
        with _service(find_batches=ROUTE_GONE):
            pipeline.time_passes(seconds=310)
            pipeline.the_timer_ticks(luck=None)
        assert _the_part(pipeline).state is PartState.OPEN, "the second look did not see a list"
        pipeline.the_timer_ticks(luck=None)
        assert _the_part(pipeline).batch_status == "vanished"


def test_a_batch_that_another_resource_made_is_not_looked_for_in_this_one() -> None:
    with _pipeline() as pipeline:
        pipeline.world.settings = replace(SETTINGS, openai_endpoint="https://first.example")
        batch = _sent(pipeline)
        assert _the_part(pipeline).endpoint == "https://first.example"
        pipeline.world.settings = replace(SETTINGS, openai_endpoint="https://second.example")
        with _service(retrieve=NotFoundError("HTTP 404"), pages=lambda *_: iter([[]]), find_batches=lambda *_: {}):
            _time_goes_on(pipeline, DAY)
            part = _the_part(pipeline)
            assert part.state is PartState.OPEN
            assert part.wait is not None
            assert "https://first.example" in part.wait.message
        pipeline.world.settings = replace(SETTINGS, openai_endpoint="https://FIRST.example/")
        pipeline.world.end(batch, End.COMPLETED)
        _time_goes_on(pipeline, HOUR)
        assert _status(pipeline) == "succeeded"


@BOTH_MODES
@pytest.mark.parametrize("kinds", [("two parts",), ("one line", "one line")], ids=["alone", "bundled"])
def test_what_cannot_be_asked_for_a_week_ends_explained_and_is_not_sent_again(
    kinds: tuple[str, ...], mode: type[Pipeline]
) -> None:
    with _pipeline(mode) as pipeline:
        for name, kind in zip(NAMES, kinds, strict=False):
            pipeline.a_user_drops_a_file(name=name, kind=kind)
        pipeline.all_goes_on_for_a_while(seconds=0, ends=None, luck=None)
        pipeline.all_goes_on_for_a_while(seconds=20, ends=None, luck=None)
        made = len(pipeline.world.batches)
        assert made == len(pipeline.world.open_batches()) == (2 if len(kinds) == 1 else 1)
        with _service(retrieve=TransientServiceError("HTTP 503: down"), pages=ROUTE_GONE, find_batches=ROUTE_GONE):
            _time_goes_on(pipeline, 6 * DAY, step=4 * HOUR)
            assert not pipeline.world.history
            _give_up(pipeline)
            _time_goes_on(pipeline, DAY + HOUR, step=HOUR)
        _time_goes_on(pipeline, HOUR)
        assert [finished.status for finished in pipeline.world.history.values()] == ["failed"] * len(kinds)
        assert len(pipeline.world.batches) == made
        if len(kinds) == 1:
            assert "HTTP 503: down" in _messages(pipeline.world)[0]
            assert {batch.status for batch in pipeline.world.batches.values()} == {"cancelling"}, "nobody needs it"
        for batch in pipeline.world.open_batches():
            batch.gone = True  # a bundle is forgotten, so its batch runs to its end, and its files until they expire


def test_a_service_that_asks_for_time_is_given_it() -> None:
    asked: list[timedelta] = []
    with _pipeline() as pipeline:
        _sent(pipeline)
        began = pipeline.world.now

        def busy(*_: Any) -> Any:
            asked.append(pipeline.world.now - began)
            raise TransientServiceError("HTTP 429: Slow down.", retry_after=600)

        with _service(retrieve=busy, pages=ROUTE_GONE):
            _time_goes_on(pipeline, 1_800, step=60)
        assert len(asked) > 2
        assert all(later - earlier >= timedelta(seconds=600) for earlier, later in itertools.pairwise(asked))
        _rides_home(pipeline)
        assert _status(pipeline) == "succeeded"


# A create whose answer was lost


def _create_is_lost(pipeline: Pipeline, *, made: bool) -> None:
    """A process dies at its create."""
    pipeline.a_user_drops_a_file(name=NAMES[0], kind="two lines")
    pipeline.all_goes_on_for_a_while(seconds=0, ends=None, luck=None)
    pipeline.time_passes(seconds=20)
    create = FakeService.create

    def lost(service: FakeService, part: Part) -> Any:
        if made:
            create(service, part)
        raise Dead

    with _service(create=lost), pytest.raises(Dead):
        pipeline.a_message_comes(pick=0, how=Delivery.TWICE, luck=None)
    pipeline.world.broken.clear()  # a step failed: so it should
    assert _the_part(pipeline).create_intent_at is not None
    assert len(pipeline.world.batches) == made


class Dead(BaseException):
    """The process ends."""


LOOKS = [
    ROUTE_GONE,
    NotFoundError("HTTP 404"),
    EnvironmentServiceError("HTTP 405"),
    PermanentServiceError(ServiceError("400", "Bad request")),
    PermanentServiceError(ServiceError("422", "Unprocessable")),
    TransientServiceError("HTTP 500"),
]


@BOTH_MODES
@pytest.mark.parametrize("made", [True, False])
@pytest.mark.parametrize("look", LOOKS, ids=str)
def test_whatever_a_look_for_a_lost_create_raises_nothing_is_created(
    look: Exception, made: bool, mode: type[Pipeline]
) -> None:
    with _pipeline(mode) as pipeline:
        _create_is_lost(pipeline, made=made)
        with _service(find_batch=look):
            _time_goes_on(pipeline, 6 * HOUR)
            part = _the_part(pipeline)
            assert part.create_intent_at is not None
            assert part.wait is not None
            assert (part.wait.reason, part.wait.message) == ("lost_create", str(look))
            assert len(pipeline.world.batches) == made
        _rides_home(pipeline)
        assert len(pipeline.world.batches) == 1
        assert _status(pipeline) == "succeeded"


@BOTH_MODES
def test_a_lost_create_is_ruled_out_by_two_complete_lists_and_the_time_between(mode: type[Pipeline]) -> None:
    with _pipeline(mode) as pipeline:
        _create_is_lost(pipeline, made=False)
        lost_at, looks = pipeline.world.now, list[timedelta]()
        find_batch = FakeService.find_batch

        def look(service: FakeService, part: Part, since: Any) -> ServiceBatch | None:
            looks.append(pipeline.world.now - lost_at)
            return find_batch(service, part, since)

        with _service(find_batch=look):
            while not pipeline.world.batches:
                pipeline.all_goes_on_for_a_while(seconds=20, ends=None, luck=None)
        settle = timedelta(seconds=SETTINGS.settle_seconds)
        first, second, third = looks
        assert second - first >= settle
        assert third - second >= settle


@BOTH_MODES
def test_a_lost_create_that_cannot_be_looked_for_in_a_week_is_explained(mode: type[Pipeline]) -> None:
    with _pipeline(mode) as pipeline:
        _create_is_lost(pipeline, made=True)
        _give_up(pipeline)
        with _service(find_batch=ROUTE_GONE, pages=ROUTE_GONE):
            _time_goes_on(pipeline, 8 * DAY, step=6 * HOUR)
        assert _status(pipeline) == "failed"
        assert "Resource not found" in _messages(pipeline.world)[0]
        _time_goes_on(pipeline, HOUR)
        assert [batch.status for batch in pipeline.world.batches.values()] == ["cancelling"]


def test_a_service_that_answers_no_create_for_a_week_is_named_in_the_errors() -> None:
    """Each create may have made a batch, and is looked for; the next comes only when it is ruled out."""
    creates = 0

    def unanswered(*_: Any) -> Any:
        nonlocal creates
        creates += 1
        raise CreateOutcomeUnknownError("HTTP 500: Internal error")

    with _pipeline() as pipeline:
        pipeline.a_user_drops_a_file(name=NAMES[0], kind="two lines")
        with _service(create=unanswered):
            _time_goes_on(pipeline, 6 * DAY, step=1_800)
            assert not pipeline.world.history
            _time_goes_on(pipeline, 2 * DAY, step=1_800)
        assert _status(pipeline) == "failed"
        assert "HTTP 500: Internal error" in _messages(pipeline.world)[0]
        assert creates < 200


# A service that does not take what it is sent


@BOTH_MODES
def test_creates_that_find_no_route_are_few_and_go_on_when_there_is_one(mode: type[Pipeline]) -> None:
    creates = 0

    def no_route(*_: Any) -> Any:
        nonlocal creates
        creates += 1
        raise ROUTE_GONE

    with _pipeline(mode) as pipeline:
        pipeline.a_user_drops_a_file(name=NAMES[0], kind="two lines")
        with _service(create=no_route):
            _time_goes_on(pipeline, DAY, step=60)
            assert 10 < creates < 150
            wait = _the_part(pipeline).wait
            assert wait is not None
            assert (wait.reason, wait.message) == ("service", str(ROUTE_GONE))
        _rides_home(pipeline)
        assert _status(pipeline) == "succeeded"
        (batch,) = pipeline.world.batches.values()
        assert batch.metadata.get("attempt", "1") == "1"


@BOTH_MODES
@pytest.mark.parametrize("kinds", [("two parts",), ("one line", "one line")], ids=["alone", "bundled"])
def test_a_service_that_takes_nothing_for_a_week_is_named_in_the_errors(
    kinds: tuple[str, ...], mode: type[Pipeline]
) -> None:
    with _pipeline(mode) as pipeline:
        for name, kind in zip(NAMES, kinds, strict=False):
            pipeline.a_user_drops_a_file(name=name, kind=kind)
        with _service(create=ROUTE_GONE):
            _time_goes_on(pipeline, 6 * DAY, step=HOUR)
            assert not pipeline.world.history
            _time_goes_on(pipeline, DAY + 6 * HOUR, step=HOUR)
            assert [finished.status for finished in pipeline.world.history.values()] == ["failed"] * len(kinds)
        if len(kinds) == 1:
            assert "Resource not found" in _messages(pipeline.world)[0]


@pytest.mark.parametrize("says", ["Only files with status 'Processed' are accepted.", "Not now."])
def test_a_file_that_is_pending_is_waited_for(says: str) -> None:
    """The service is told by what it says, or by the file's own status."""
    refusal = PermanentServiceError(ServiceError("invalid_request", says))
    with _pipeline() as pipeline:
        pipeline.a_user_drops_a_file(name=NAMES[0], kind="two lines")
        with _service(create=refusal, file_is_pending=lambda *_: True):
            _time_goes_on(pipeline, 6 * HOUR)
            wait = _the_part(pipeline).wait
            assert wait is not None
            assert (wait.reason, wait.message) == ("file_pending", str(refusal))
        _rides_home(pipeline)
        assert _status(pipeline) == "succeeded"
        assert [batch.metadata["attempt"] for batch in pipeline.world.batches.values()] == ["1"]


def test_a_file_that_the_service_lost_is_uploaded_again() -> None:
    with _pipeline() as pipeline:
        pipeline.a_user_drops_a_file(name=NAMES[0], kind="two lines")
        with _service(create=ROUTE_GONE):
            _time_goes_on(pipeline, HOUR)
            pipeline.world.files.clear()
            _time_goes_on(pipeline, HOUR)
        _rides_home(pipeline)
        assert _status(pipeline) == "succeeded"


UNKNOWN = PermanentServiceError(ServiceError("teapot", "I am one."))


@BOTH_MODES
def test_a_refusal_with_an_unknown_code_is_tried_again_for_four_hours_and_then_final(mode: type[Pipeline]) -> None:
    with _pipeline(mode) as pipeline:
        pipeline.a_user_drops_a_file(name=NAMES[0], kind="two lines")
        with _service(create=UNKNOWN):
            _time_goes_on(pipeline, 3 * HOUR)
            wait = _the_part(pipeline).wait
            assert wait is not None
            assert (wait.reason, wait.message) == ("refused", "teapot: I am one.")
            _time_goes_on(pipeline, 2 * HOUR)
            assert _status(pipeline) == "failed"
        assert "teapot: I am one." in _messages(pipeline.world)[0]
        assert not pipeline.world.batches


@BOTH_MODES
def test_a_refusal_with_an_unknown_code_may_pass(mode: type[Pipeline]) -> None:
    with _pipeline(mode) as pipeline:
        pipeline.a_user_drops_a_file(name=NAMES[0], kind="two lines")
        with _service(create=UNKNOWN):
            _time_goes_on(pipeline, 3 * HOUR)
        _rides_home(pipeline)
        assert _status(pipeline) == "succeeded"


@BOTH_MODES
def test_a_bundle_that_is_refused_with_an_unknown_code_is_dissolved_at_once(mode: type[Pipeline]) -> None:
    create = FakeService.create

    def picky(service: FakeService, part: Part) -> Any:
        if part.requests > 1:
            raise UNKNOWN
        return create(service, part)

    with _pipeline(mode) as pipeline:
        for name in NAMES[:2]:
            pipeline.a_user_drops_a_file(name=name, kind="one line")
        with _service(create=picky):
            _time_goes_on(pipeline, HOUR)
            assert len(pipeline.world.batches) == 2
        _rides_home(pipeline)


# A batch that has ended, and does not say all of it yet


def _unnamed(**changes: Any) -> Callable[[World, Batch], ServiceBatch]:
    described = World.described
    return lambda world, batch: msgspec.structs.replace(
        described(world, batch), output_file_id="", error_file_id="", output_blob="", error_blob="", **changes
    )


@BOTH_MODES
@pytest.mark.parametrize(
    "changes", [{}, {"completed": 0, "failed": 0}, {"completed": 0, "failed": 0, "finished_at": None}], ids=str
)
def test_results_that_are_named_late_are_waited_for(changes: dict[str, Any], mode: type[Pipeline]) -> None:
    """The batch ended long ago by its own times: what counts is when the app saw it first."""
    with _pipeline(mode) as pipeline:
        batch = _sent(pipeline)
        _time_goes_on(pipeline, HOUR)
        pipeline.world.run_line(batch, Answer.ANSWERED)
        pipeline.world.end(batch, End.COMPLETED)
        pipeline.time_passes(seconds=HOUR)
        with mock.patch.object(World, "described", _unnamed(**changes)):
            for _ in range(4):
                pipeline.all_goes_on_for_a_while(seconds=61, ends=None, luck=None)
        _time_goes_on(pipeline, HOUR)
        assert len(pipeline.world.batches) == 1
        assert _status(pipeline) == "succeeded"


@BOTH_MODES
def test_a_loss_is_believed_only_when_the_batch_itself_was_asked_again(mode: type[Pipeline]) -> None:
    """A list that lags shows the batch without its results for ever."""
    with _pipeline(mode) as pipeline:
        batch = _sent(pipeline)
        pipeline.world.end(batch, End.COMPLETED)
        shown = _unnamed()(pipeline.world, batch)
        with _service(pages=lambda *_: iter([[shown]])):
            _time_goes_on(pipeline, HOUR)
        assert len(pipeline.world.batches) == 1
        assert _status(pipeline) == "succeeded"


# A batch that should not be there


def _again(pipeline: Pipeline, batch: Batch) -> Batch:
    """The service made the batch twice, and shows the second one now."""
    twin = dataclasses.replace(
        batch, id=f"{batch.id}-again", answers={}, status="in_progress", listed_at=pipeline.world.now, given_up=True
    )
    pipeline.world.batches[twin.id] = twin
    return twin


@BOTH_MODES
def test_a_batch_that_was_made_twice_is_cancelled_while_the_first_runs(mode: type[Pipeline]) -> None:
    with _pipeline(mode) as pipeline:
        batch = _sent(pipeline)
        twin = _again(pipeline, batch)
        pipeline.the_timer_ticks(luck=None)
        assert (batch.status, twin.status) == ("validating", "cancelling")
        twin.gone = True
        _rides_home(pipeline)


@BOTH_MODES
@pytest.mark.parametrize("kind", ["two lines", "two parts"])
def test_a_batch_that_was_made_twice_is_cancelled_when_the_first_has_ended(kind: str, mode: type[Pipeline]) -> None:
    """With two parts the job goes on; with one it is in the history."""
    with _pipeline(mode) as pipeline:
        batch = _sent(pipeline, kind)
        pipeline.world.end(batch, End.COMPLETED)
        for _ in range(3):
            pipeline.all_goes_on_for_a_while(seconds=20, ends=None, luck=None)
        assert bool(pipeline.world.history) is (kind == "two lines")
        twin = _again(pipeline, batch)
        pipeline.the_timer_ticks(luck=None)
        assert twin.status == "cancelling"
        twin.gone = True
        _rides_home(pipeline)


def test_a_batch_of_another_app_is_left_alone() -> None:
    with _pipeline() as pipeline:
        batch = _sent(pipeline)
        foreign = _again(pipeline, batch)
        foreign.metadata = batch.metadata | {"job": "20260101T000000Z-0123456789"}
        pipeline.the_timer_ticks(luck=None)
        assert foreign.status == "in_progress"
        foreign.gone = True
        _rides_home(pipeline)


@BOTH_MODES
def test_a_batch_that_is_about_to_be_adopted_is_left_alone(mode: type[Pipeline]) -> None:
    with _pipeline(mode) as pipeline:
        _create_is_lost(pipeline, made=True)
        pipeline.time_passes(seconds=200)  # now it is listed
        (batch,) = pipeline.world.batches.values()
        batch.status = "in_progress"
        pipeline.the_timer_ticks(luck=None)
        assert batch.status == "in_progress"
        _rides_home(pipeline)


# What is left at the service


@pytest.mark.parametrize("fate", Fate)
def test_a_part_that_is_given_up_leaves_no_file(fate: Fate) -> None:
    given_up = 0
    for at in range(12):
        with _pipeline() as pipeline:
            pipeline.a_user_drops_a_file(name=NAMES[0], kind="two lines")
            pipeline.all_goes_on_for_a_while(seconds=0, ends=None, luck=None)
            pipeline.time_passes(seconds=20)
            pipeline.a_message_comes(pick=0, how=Delivery.TWICE, luck=(fate, at))
            for _ in range(4):
                pipeline.time_passes(seconds=101)
                pipeline.the_timer_ticks(luck=None)
                for _ in range(2):
                    if pipeline.world.messages:
                        pipeline.a_message_comes(pick=0, how=Delivery.POISONED, luck=None)
            _rides_home(pipeline)
            given_up += _status(pipeline) == "failed"
    # After these a part waits for the service, or is held by a claim: its poison messages are not counted.
    assert given_up or fate in {Fate.REPEATED, Fate.STALLS, Fate.DIES_AFTER, Fate.LOST_AFTER}
