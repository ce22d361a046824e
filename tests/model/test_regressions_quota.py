"""Scenarios in which a deployment's token quota was overrun, or one part kept all others waiting."""

import contextlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Literal

import pytest

from batch_fn.core.batches import REQUEST_TOO_LARGE, Enqueued, ServiceBatch, TokenLimitError
from batch_fn.core.deployments import Deployment
from batch_fn.core.jobs import Part, PartState
from batch_fn.steps.polling import tick
from batch_fn.steps.submission import submit
from tests.model.fakes import FakeService
from tests.model.faults import Fate, Turn
from tests.model.machine import DROPS, NAMES, Pipeline, _request
from tests.model.world import SETTINGS, End, Weather, World

HEADERS = pytest.mark.parametrize("header", ["deployment", "file"])
LINE_TOKENS = 20
"""About what one line of a sample drop needs."""


class OneLineParts(Pipeline):
    """The app with parts of one line, and without bundles."""

    settings = replace(SETTINGS, max_part_requests=1, bundle_seconds=0, resend_seconds=600)


class LongParts(Pipeline):
    """The app with parts of many lines, and without bundles."""

    settings = replace(SETTINGS, max_part_requests=100, bundle_seconds=0)


@contextlib.contextmanager
def _pipeline(mode: type[Pipeline]) -> Iterator[Pipeline]:
    machine = mode()
    try:
        yield machine
        machine.no_rule_is_broken()
    finally:
        machine.teardown()


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> list[Part]:
    """Every part that the service refused for its tokens."""
    refused: list[Part] = []
    create = FakeService.create

    def watched(service: FakeService, part: Part) -> tuple[ServiceBatch, Enqueued]:
        try:
            return create(service, part)
        except TokenLimitError:
            refused.append(part)
            raise

    monkeypatch.setattr(FakeService, "create", watched)
    return refused


def _is_limited(world: World, limit: int) -> None:
    """The deployment takes so many tokens, and the app knows."""
    world.token_limit = limit
    world.deployments["gpt"] = Deployment(name="gpt", limit=limit), "told before"


def _is_accepted(pipeline: Pipeline, kind: str, name: str = NAMES[0]) -> list[Part]:
    """A drop is accepted, and its messages are lost: each test says what comes when. Return its parts."""
    before = {(part.job_id, part.key) for part in pipeline.world.parts()}
    pipeline.a_user_drops_a_file(name=name, kind=kind)
    pipeline.the_event_of_a_drop_comes(name=name, luck=None)
    pipeline.world.messages.clear()
    pipeline.time_passes(seconds=1)
    return [part for part in pipeline.world.parts() if (part.job_id, part.key) not in before]


def _submit(pipeline: Pipeline, part: Part, turn: Turn | None = None) -> None:
    pipeline._run(lambda app: submit(app, part.job_id, part.key), turn or Turn())


def _state(pipeline: Pipeline, part: Part) -> PartState:
    row, _ = pipeline.world.rows[part.job_id][part.key]
    assert isinstance(row, Part)
    return row.state


@HEADERS
def test_no_more_is_let_in_than_the_limit_whatever_the_header_counts(
    header: Literal["deployment", "file"], refused: list[Part]
) -> None:
    """The header of a small file was taken for all that the deployment had enqueued."""
    with _pipeline(OneLineParts) as pipeline:
        pipeline.world.enqueued_header = header
        _is_limited(pipeline.world, 3 * LINE_TOKENS)
        pipeline.a_user_drops_a_file(name=NAMES[0], kind="four parts")
        most = 0
        for _ in range(12):
            pipeline.all_goes_on_for_a_while(seconds=61, ends=None, luck=None)
            most = max(most, len(pipeline.world.open_batches()))
            for batch in pipeline.world.open_batches()[:1]:
                pipeline.world.end(batch, End.COMPLETED)
        assert most > 1
        assert not refused


def test_a_part_that_was_let_in_and_not_claimed_yet_is_counted_however_late_its_message_comes(
    refused: list[Part],
) -> None:
    """It was forgotten after two minutes; another took its room, and it went as well."""
    with _pipeline(OneLineParts) as pipeline:
        _is_limited(pipeline.world, LINE_TOKENS + 5)
        (late,) = _is_accepted(pipeline, "one line")
        pipeline.time_passes(seconds=601)
        pipeline._run(tick, Turn())
        pipeline.time_passes(seconds=150)  # its message is still in the queue
        (other,) = _is_accepted(pipeline, "one line", NAMES[1])
        _submit(pipeline, other)
        assert _state(pipeline, other) is PartState.WAITING
        _submit(pipeline, late)
        assert _state(pipeline, late) is PartState.OPEN
        assert not refused


@HEADERS
def test_the_headers_of_a_create_do_not_undo_what_is_reserved(
    header: Literal["deployment", "file"], refused: list[Part]
) -> None:
    """They tell of what the service has; what was on its way to it was counted no more."""
    with _pipeline(OneLineParts) as pipeline:
        pipeline.world.enqueued_header = header
        _is_limited(pipeline.world, 2 * LINE_TOKENS + 10)
        (reserved,) = _is_accepted(pipeline, "one line")
        pipeline.time_passes(seconds=601)
        pipeline._run(tick, Turn())
        (first,), (second,) = (_is_accepted(pipeline, "one line", name) for name in NAMES[1:])
        _submit(pipeline, first)
        _submit(pipeline, second)
        assert [_state(pipeline, part) for part in (reserved, first, second)] == ["waiting", "open", "waiting"]
        _submit(pipeline, reserved)
        assert _state(pipeline, reserved) is PartState.OPEN
        assert not refused


def test_a_batch_that_has_ended_before_the_headers_of_a_create_is_subtracted_once(refused: list[Part]) -> None:
    with _pipeline(LongParts) as pipeline:
        (first,), (second,) = (_is_accepted(pipeline, "one line", name) for name in NAMES[:2])
        (large,) = _is_accepted(pipeline, "two lines", NAMES[2])
        _is_limited(pipeline.world, large.estimated_tokens + first.estimated_tokens // 2)
        _submit(pipeline, first)
        _submit(pipeline, large)
        pipeline.world.end(pipeline.world.open_batches()[0], End.COMPLETED)
        _submit(pipeline, second)  # its headers do not count the first any more
        pipeline.time_passes(seconds=1)
        pipeline._run(tick, Turn())  # the first is seen to have ended
        assert [_state(pipeline, part) for part in (second, large)] == ["open", "waiting"]
        pipeline.all_goes_on_for_a_while(seconds=10, ends=None, luck=None)
        assert [_state(pipeline, part) for part in (second, large)] == ["open", "waiting"]
        assert not refused


def test_two_parts_that_are_let_in_at_the_same_moment_do_not_both_take_the_last_room(refused: list[Part]) -> None:
    """Held up at each of its calls in turn: whichever of the two has counted before the other was there."""
    for held_at in itertools.count():
        with _pipeline(OneLineParts) as pipeline:
            _is_limited(pipeline.world, LINE_TOKENS + 5)
            (first,), (second,) = (_is_accepted(pipeline, "one line", name) for name in NAMES[:2])
            _submit(pipeline, first, Turn(Fate.STALLS, held_at))
            if not pipeline.strands:
                assert held_at > 3
                return
            _submit(pipeline, second)
            pipeline.a_process_that_was_held_up_goes_on(pick=0, dies=False)
            states = sorted(_state(pipeline, part) for part in (first, second))
            assert states == ["open", "waiting"], held_at
            assert not refused, held_at


def _goes_on(pipeline: Pipeline, times: int, *, seconds: int = 310, ends: bool = True) -> None:
    for _ in range(times):
        for batch in pipeline.world.open_batches() if ends else ():
            pipeline.world.end(batch, End.COMPLETED)
        pipeline.all_goes_on_for_a_while(seconds=seconds, ends=None, luck=None)


@pytest.mark.parametrize("header", ["deployment", "none"])
def test_a_part_larger_than_a_limit_that_is_not_known_is_halved_and_holds_up_nobody(
    header: Literal["deployment", "none"], refused: list[Part], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the oldest it was the only one that was tried, for ever."""
    monkeypatch.setitem(DROPS, "sixteen lines", b"\n".join(map(_request, "abcdefghijklmnop")))
    with _pipeline(LongParts) as pipeline:
        world = pipeline.world
        world.enqueued_header, world.token_limit = header, 5 * LINE_TOKENS
        pipeline.a_user_drops_a_file(name=NAMES[0], kind="sixteen lines")
        pipeline.all_goes_on_for_a_while(seconds=0, ends=None, luck=None)
        assert len(refused) == 1
        pipeline.a_user_drops_a_file(name=NAMES[1], kind="one line")
        _goes_on(pipeline, 6)
        assert [job.name for job in world.history.values()] == [NAMES[1]], "the small one was done while it waited"
        _goes_on(pipeline, 160)
        assert len(world.history) == 2
        assert {finished.status for finished in world.history.values()} == {"succeeded"}
        sizes = sorted({len(batch.lines) for batch in world.batches.values() if not batch.doomed})
        assert sizes[-1] > 1, "it was not cut to single lines"
        assert {part.requests for part in refused} <= {16, 8, 4}


@pytest.mark.parametrize("header", ["deployment", "none"])
def test_a_single_line_that_never_fits_is_explained(
    header: Literal["deployment", "none"], refused: list[Part], monkeypatch: pytest.MonkeyPatch
) -> None:
    large = json.loads(_request("large"))
    large["body"]["user"] = "x" * 4000
    lines = [_request("a"), json.dumps(large).encode(), _request("b")]
    monkeypatch.setitem(DROPS, "a large line", b"\n".join(lines))
    with _pipeline(LongParts) as pipeline:
        world = pipeline.world
        world.enqueued_header, world.token_limit = header, 5 * LINE_TOKENS
        if header == "deployment":
            _is_limited(world, 5 * LINE_TOKENS)
        pipeline.a_user_drops_a_file(name=NAMES[0], kind="a large line")
        pipeline.all_goes_on_for_a_while(seconds=0, ends=None, luck=None)
        pipeline.a_user_drops_a_file(name=NAMES[1], kind="one line")
        _goes_on(pipeline, 450)
        assert len(world.history) == 2
        (job,) = [finished for finished in world.history.values() if finished.name == NAMES[0]]
        assert (job.status, job.succeeded, job.failed) == ("partially_succeeded", 2, 1)
        errors = world.blobs[SETTINGS.errors_container, f"{world.begun[job.job_id].path}.jsonl"].content
        (line,) = [json.loads(each) for each in errors.splitlines()]
        assert (line["custom_id"], line["error"]["code"]) == ("large", REQUEST_TOO_LARGE)
        assert "enqueued tokens" in line["error"]["message"]


@pytest.mark.parametrize("known", [True, False])
def test_a_deployment_that_others_fill_costs_a_job_nothing_but_time(known: bool) -> None:
    """A line that certainly fits, or may fit, is not given up while others' batches may be what is in its way."""
    with _pipeline(LongParts) as pipeline:
        world = pipeline.world
        if known:
            _is_limited(world, 100 * LINE_TOKENS)
        world.weather.add(Weather.NO_TOKENS)
        pipeline.a_user_drops_a_file(name=NAMES[0], kind="two lines" if known else "one line")
        _goes_on(pipeline, 600 if known else 250)
        assert world.now - timedelta(hours=20) > min(job.dropped_at for job in world.begun.values())
        assert len(world.parts()) == 1
        world.weather.clear()
        _goes_on(pipeline, 40)
        assert [finished.status for finished in world.history.values()] == ["succeeded"]
