"""Scenarios in which the state machine once found a rule broken, each by its name."""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from unittest import mock

import pytest

from batch_fn.core.admission import Deployment
from batch_fn.core.errors import JobActiveError
from batch_fn.core.jobs import Job, JobState, Part, PartState
from batch_fn.steps.retrying import retry
from batch_fn.steps.submission import submit
from batch_fn.storage.rows import JOB_ROW, Change, Stored
from tests.model import machine
from tests.model.fakes import FakeTables, new_process
from tests.model.faults import Fate
from tests.model.machine import NAMES, Delivery, Luck, Pipeline, PipelineOnBlobs
from tests.model.world import SETTINGS, Answer, End, Weather

BOTH_MODES = pytest.mark.parametrize("mode", [Pipeline, PipelineOnBlobs])


@contextlib.contextmanager
def _pipeline(mode: type[Pipeline] = Pipeline) -> Iterator[Pipeline]:
    machine = mode()
    try:
        yield machine
        machine.no_rule_is_broken()
    finally:
        machine.teardown()


def _event_comes(pipeline: Pipeline, luck: Luck = None) -> None:
    pipeline.the_event_of_a_drop_comes(name=NAMES[0], luck=luck)


def _a_part_is_submitted(pipeline: Pipeline, luck: Luck = None) -> None:
    _event_comes(pipeline)
    pipeline.a_message_comes(pick=0, how=Delivery.TWICE, luck=luck)
    pipeline.time_passes(seconds=61)  # the claim ends


def _a_part_is_collected(pipeline: Pipeline, luck: Luck = None) -> None:
    _event_comes(pipeline)
    while pipeline.world.messages:
        pipeline.a_message_comes(pick=0, how=Delivery.ONCE, luck=None)
    for batch in pipeline.world.open_batches():
        pipeline.world.end(batch, End.COMPLETED)
    pipeline.the_timer_ticks(luck=None)
    pipeline.a_message_comes(pick=0, how=Delivery.TWICE, luck=luck)
    pipeline.time_passes(seconds=101)  # what it had in hand is due again


@pytest.mark.parametrize("dies_at", range(10))
@pytest.mark.parametrize("answer", Answer)
def test_a_process_dies_while_it_finishes_a_job(answer: Answer, dies_at: int) -> None:
    """The result files may be gone from the service already: that is no reason to send the lines again."""
    with _pipeline() as pipeline:
        pipeline.a_user_drops_a_file(name=NAMES[0], kind="one line")
        _event_comes(pipeline)
        pipeline.a_message_comes(pick=0, how=Delivery.ONCE, luck=None)
        pipeline.the_service_works(pick=0, does=answer)
        pipeline.the_service_works(pick=0, does=End.COMPLETED)
        pipeline.the_timer_ticks(luck=None)
        pipeline.a_message_comes(pick=0, how=Delivery.ONCE, luck=(Fate.DIES_AFTER, dies_at))


@BOTH_MODES
@pytest.mark.parametrize("kind", ["one line", "two parts, untidy", "four parts", "mixed"])
@pytest.mark.parametrize("step", [_event_comes, _a_part_is_submitted, _a_part_is_collected])
def test_a_process_is_held_up_while_others_go_on(
    step: Callable[[Pipeline, Luck], None], kind: str, mode: type[Pipeline]
) -> None:
    """What it writes when the job is finished, nobody looks for: its rows, blobs and files it has to delete itself."""
    for held_at in itertools.count():
        with _pipeline(mode) as pipeline:
            pipeline.a_user_drops_a_file(name=NAMES[0], kind=kind)
            step(pipeline, (Fate.STALLS, held_at))
            if not pipeline.strands:
                assert held_at > 1
                return  # the step makes no more calls
            _event_comes(pipeline)
            for _ in range(12):
                for batch in pipeline.world.open_batches():
                    pipeline.world.end(batch, End.COMPLETED)
                pipeline.all_goes_on_for_a_while(seconds=0, ends=None, luck=None)


@pytest.mark.parametrize("kind", ["two parts", "mixed", "a bad line"])
def test_a_drop_takes_longer_to_read_than_its_row_is_left_alone(kind: str) -> None:
    """The tick puts the row off, and what had been read was thrown away, each time anew."""
    for held_at in itertools.count():
        with _pipeline() as pipeline:
            pipeline.a_user_drops_a_file(name=NAMES[0], kind=kind)
            _event_comes(pipeline, (Fate.STALLS, held_at))
            if not pipeline.strands:
                assert held_at > 1
                return
            pipeline.time_passes(seconds=101)
            pipeline.the_timer_ticks(luck=None)
            pipeline.a_process_that_was_held_up_goes_on(pick=0, dies=False)
            jobs = map(pipeline.world.job_in_hand, pipeline.world.begun)
            assert all(job is None or job.accepted_at for job in jobs)


def _small_files_are_dropped(pipeline: Pipeline, *kinds: str) -> None:
    for name, kind in zip(NAMES, kinds, strict=False):
        pipeline.a_user_drops_a_file(name=name, kind=kind)
        pipeline.the_event_of_a_drop_comes(name=name, luck=None)
    pipeline.time_passes(seconds=20)


def _a_bundle_is_made(pipeline: Pipeline, luck: Luck = None) -> None:
    """Leaves the messages of the other members behind: they come later."""
    _small_files_are_dropped(pipeline, "one line", "one line", "one line")
    pipeline.a_message_comes(pick=1, how=Delivery.TWICE, luck=luck)


def _a_dead_bundle_is_broken_up(pipeline: Pipeline, luck: Luck = None) -> None:
    _a_bundle_is_made(pipeline, (Fate.DIES_BEFORE, 4))
    pipeline.time_passes(seconds=61)
    pipeline.the_timer_ticks(luck=luck)


def _an_ended_bundle_is_collected(pipeline: Pipeline, luck: Luck = None, end: End = End.COMPLETED) -> None:
    _a_bundle_is_made(pipeline)
    while pipeline.world.messages:
        pipeline.a_message_comes(pick=0, how=Delivery.ONCE, luck=None)
    (batch,) = pipeline.world.open_batches()
    if end is not End.INVALID:
        pipeline.world.run_line(batch, Answer.ANSWERED)
        pipeline.world.run_line(batch, Answer.TRIPPED)
    pipeline.world.end(batch, end)
    pipeline.the_timer_ticks(luck=None)
    pipeline.a_message_comes(pick=0, how=Delivery.TWICE, luck=luck)


def _a_refused_bundle_is_broken_up(pipeline: Pipeline, luck: Luck = None) -> None:
    _an_ended_bundle_is_collected(pipeline, luck, End.INVALID)


BUNDLE_STEPS = [
    _a_bundle_is_made,
    _a_dead_bundle_is_broken_up,
    _an_ended_bundle_is_collected,
    _a_refused_bundle_is_broken_up,
]


@BOTH_MODES
@pytest.mark.parametrize("fate", Fate)
@pytest.mark.parametrize("step", BUNDLE_STEPS)
def test_a_step_of_a_bundle_meets_bad_luck_at_each_call(
    step: Callable[[Pipeline, Luck], None], fate: Fate, mode: type[Pipeline]
) -> None:
    """Each line is answered once, and nothing is left, whatever happens to whoever gathers, breaks up or settles."""
    for at in itertools.count():
        with _pipeline(mode) as pipeline:
            step(pipeline, (fate, at))
            if not pipeline.world.turn.disturbed and not pipeline.strands:
                assert at > 0
                return  # the step makes no more calls where it would matter
            pipeline.time_passes(seconds=61 if fate is Fate.STALLS else 0)  # claims end while it is held up
            ends = [End.COMPLETED, End.LEFT_OUT, End.INVALID][at % 3]
            for _ in range(4):
                for batch in pipeline.world.open_batches():
                    pipeline.world.end(batch, ends)
                    ends = End.COMPLETED
                pipeline.all_goes_on_for_a_while(seconds=0, ends=None, luck=None)


@BOTH_MODES
def test_a_bundle_is_larger_than_its_deployment_takes(mode: type[Pipeline]) -> None:
    """A split part of a bundle was settled for all members, and those in the other part were sent again meanwhile."""
    with _pipeline(mode) as pipeline:
        pipeline.world.weather.add(Weather.NO_TOKENS)
        _a_bundle_is_made(pipeline)
        pipeline.world.weather.clear()
        pipeline.world.deployments["gpt"] = Deployment(name="gpt", limit=50), "told meanwhile"
        pipeline.world.token_limit = 50
        for _ in range(8):
            pipeline.all_goes_on_for_a_while(seconds=101, ends=End.COMPLETED, luck=None)
        assert len(pipeline.world.batches) == 3


def test_a_member_cannot_be_read() -> None:
    """All the others waited for as long as it did: they were bundled with it again and again."""
    with _pipeline() as pipeline:
        _small_files_are_dropped(pipeline, "one line", "one line", "one line")
        first, *_, lost = pipeline.world.begun.values()
        place = (SETTINGS.archive_container, f"{lost.path}.jsonl")
        copy = pipeline.world.blobs.pop(place)
        submit(new_process(pipeline.world), first.job_id, "part-00001-01")
        pipeline.world.blobs[place] = copy
        assert [(part.state, part.bundles) for part in pipeline.world.parts()] == [(PartState.WAITING, False)] * 3


def test_a_member_is_settled_while_another_is_not() -> None:
    """Whoever comes back to the bundle tried to settle it a second time, and never came to the other."""
    with _pipeline() as pipeline:
        _an_ended_bundle_is_collected(pipeline, (Fate.BUSY, 13))
        assert {part.state for part in pipeline.world.parts()} >= {PartState.SETTLED, PartState.BUNDLED}


def test_the_client_makes_the_change_that_names_the_members_twice() -> None:
    """The second time it is refused: the members were let go, and went alone beside the bundle."""
    for at in range(6):
        with _pipeline() as pipeline:
            _a_bundle_is_made(pipeline, (Fate.REPEATED, at))
            (batch,) = pipeline.world.open_batches()
            pipeline.all_goes_on_for_a_while(seconds=0, ends=None, luck=None)
            assert batch.open


def test_whoever_asks_for_company_is_in_it() -> None:
    """Its message is used up: it would wait for the tick, which comes for it only after RESEND_SECONDS."""
    with _pipeline() as pipeline:
        _small_files_are_dropped(pipeline, "two lines", "one line", "one line")
        pipeline.a_message_comes(pick=2, how=Delivery.ONCE, luck=None)
        ((asked, _),) = [
            pipeline.world.rows[job.job_id]["part-00001-01"] for job in list(pipeline.world.begun.values())[2:]
        ]
        assert isinstance(asked, Part)
        assert asked.state is PartState.BUNDLED


@BOTH_MODES
def test_a_part_is_split_at_its_deployments_limit(mode: type[Pipeline]) -> None:
    """The first piece was taken for the whole drop, and the service was sent all of it beside the other pieces."""
    with _pipeline(mode) as pipeline:
        pipeline.world.deployments["gpt"] = Deployment(name="gpt", limit=30), "told before"
        pipeline.a_user_drops_a_file(name=NAMES[0], kind="two lines")
        for _ in range(10):
            pipeline.all_goes_on_for_a_while(seconds=101, ends=End.COMPLETED, luck=None)
        assert len(pipeline.world.batches) == 2


class LongParts(Pipeline):
    """The app with parts of many lines."""

    settings = replace(SETTINGS, max_part_requests=10)


def test_a_part_is_split_into_more_pieces_than_fit_into_one_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those inserted ahead of it were sent where it could not be made, and their lines in another piece as well."""
    change = FakeTables.change

    def change_too_late(tables: FakeTables, changes: Iterable[Change]) -> None:
        monkeypatch.setattr(FakeTables, "change", change)
        row, etag = tables.world.rows[job_id][JOB_ROW]
        tables.update(Stored(row, etag), row)
        tables.change(changes)

    with _pipeline(LongParts) as pipeline:
        pipeline.world.deployments["gpt"] = Deployment(name="gpt", limit=25), "told before"
        pipeline.a_user_drops_a_file(name=NAMES[0], kind="four parts")
        _event_comes(pipeline)
        pipeline.time_passes(seconds=20)
        (job_id,) = pipeline.world.rows
        monkeypatch.setattr(FakeTables, "change", change_too_late)
        pipeline.a_message_comes(pick=0, how=Delivery.ONCE, luck=None)
        assert len(pipeline.world.parts()) == 1
        _all_rides_home(pipeline)
        assert len(pipeline.world.batches) > 3, "the last piece is split again"


def test_a_new_batch_is_not_known_yet_and_the_refused_one_before_it_was_not_known_at_first() -> None:
    """Since when a batch is unknown counts for that batch alone: another's time must not make it vanish at once."""
    with _pipeline() as pipeline:
        pipeline.a_user_drops_a_file(name=NAMES[0], kind="one line")
        pipeline.the_weather_changes(weather=Weather.NO_TOKENS_LATER)
        pipeline.the_weather_changes(weather=Weather.SLOW_START)
        _event_comes(pipeline)
        pipeline.time_passes(seconds=20)  # it finds no company
        pipeline.a_message_comes(pick=0, how=Delivery.ONCE, luck=None)
        pipeline.the_timer_ticks(luck=None)  # the first batch is unknown
        pipeline.time_passes(seconds=200)
        pipeline.world.end(pipeline.world.open_batches()[0], End.COMPLETED)
        pipeline.the_timer_ticks(luck=None)  # it was refused
        pipeline.time_passes(seconds=310)
        pipeline.all_goes_on_for_a_while(seconds=0, ends=None, luck=None)
        assert len(pipeline.world.batches) == 2
        pipeline.all_goes_on_for_a_while(seconds=0, ends=None, luck=None)
        assert len(pipeline.world.batches) == 2, "the second batch is not known yet: that is no reason for a third"


def _all_rides_home(pipeline: Pipeline) -> None:
    for _ in range(8):
        pipeline.all_goes_on_for_a_while(seconds=101, ends=End.COMPLETED, luck=None)


@BOTH_MODES
@pytest.mark.parametrize("kind", ["one line", "two parts, untidy", "mixed"])
def test_a_job_is_cancelled_while_a_part_of_it_is_on_its_way(kind: str, mode: type[Pipeline]) -> None:
    """Whoever was about to create goes on, and the batch is stopped all the same."""
    for held_at in itertools.count():
        with _pipeline(mode) as pipeline:
            pipeline.a_user_drops_a_file(name=NAMES[0], kind=kind)
            _event_comes(pipeline)
            pipeline.time_passes(seconds=20)
            pipeline.a_message_comes(pick=0, how=Delivery.ONCE, luck=(Fate.STALLS, held_at))
            held_up = bool(pipeline.strands)
            pipeline.a_user_cancels_a_job(pick=0, luck=None)
            if held_up:
                pipeline.a_process_that_was_held_up_goes_on(pick=0, dies=False)
            for _ in range(2):
                pipeline.time_passes(seconds=101)
                pipeline.the_timer_ticks(luck=None)
            assert all(batch.status == "cancelling" for batch in pipeline.world.open_batches())
            if not held_up:
                assert held_at > 1
                return


@BOTH_MODES
@pytest.mark.parametrize("fate", Fate)
@pytest.mark.parametrize("kind", ["two lines", "two parts", "mixed"])
def test_a_cancel_meets_bad_luck_at_each_call(kind: str, fate: Fate, mode: type[Pipeline]) -> None:
    """What it had not come to, the tick does."""
    for at in itertools.count():
        with _pipeline(mode) as pipeline:
            pipeline.a_user_drops_a_file(name=NAMES[0], kind=kind)
            pipeline.all_goes_on_for_a_while(seconds=20, ends=None, luck=None)
            if at % 2:
                pipeline.all_goes_on_for_a_while(seconds=20, ends=None, luck=None)
            pipeline.a_user_cancels_a_job(pick=0, luck=(fate, at // 2))
            struck = pipeline.world.turn.disturbed
            _all_rides_home(pipeline)
            if not struck:
                assert at > 1
                return


def _a_job_has_failed(pipeline: Pipeline, kind: str = "two parts") -> None:
    pipeline.a_user_drops_a_file(name=NAMES[0], kind=kind)
    pipeline.all_goes_on_for_a_while(seconds=0, ends=None, luck=None)
    pipeline.all_goes_on_for_a_while(seconds=20, ends=None, luck=None)
    for does in (Answer.ANSWERED, Answer.FAILED, End.COMPLETED):
        pipeline.the_service_works(pick=0, does=does)
    _all_rides_home(pipeline)
    (finished,) = pipeline.world.history.values()
    assert finished.failed


@BOTH_MODES
@pytest.mark.parametrize("fate", Fate)
@pytest.mark.parametrize("kind", ["two lines", "two parts, untidy", "mixed"])
def test_a_retry_meets_bad_luck_at_each_call(kind: str, fate: Fate, mode: type[Pipeline]) -> None:
    """At whichever step; the former report stands until the new one does, and no line that was answered goes again."""
    for step in range(4):
        for at in itertools.count():
            with _pipeline(mode) as pipeline:
                _a_job_has_failed(pipeline, kind)
                pipeline.a_user_retries_a_job(pick=0, luck=(fate, at) if not step else None)
                struck = pipeline.world.turn.disturbed
                for each in range(1, 4):
                    luck = (fate, at) if each == step else None
                    pipeline.all_goes_on_for_a_while(seconds=20, ends=End.COMPLETED, luck=luck)
                    struck |= each == step and pipeline.world.turn.disturbed
                _event_comes(pipeline)
                _all_rides_home(pipeline)
                if not struck:
                    break


@BOTH_MODES
def test_a_job_is_retried_twice(mode: type[Pipeline]) -> None:
    with _pipeline(mode) as pipeline:
        _a_job_has_failed(pipeline)
        pipeline.a_user_retries_a_job(pick=0, luck=None)
        pipeline.all_goes_on_for_a_while(seconds=0, ends=None, luck=None)
        pipeline.all_goes_on_for_a_while(seconds=20, ends=None, luck=None)
        pipeline.the_service_works(pick=0, does=Answer.FAILED)
        _all_rides_home(pipeline)
        (finished,) = pipeline.world.history.values()
        assert finished.failed == 1
        pipeline.a_user_retries_a_job(pick=0, luck=None)
        _all_rides_home(pipeline)
        (finished,) = pipeline.world.history.values()
        assert finished.status == "succeeded"


def test_a_job_whose_retry_is_done_and_not_yet_cleared_away_is_in_hand_still() -> None:
    """The user was told that the second retry is under way, and it never was."""
    with _pipeline() as pipeline:
        _a_job_has_failed(pipeline)
        (job_id,) = pipeline.world.begun
        pipeline.a_user_retries_a_job(pick=0, luck=None)
        assert retry(new_process(pipeline.world), job_id).job_id == job_id, "it is under way"
        with mock.patch.object(FakeTables, "delete_active"):
            _all_rides_home(pipeline)
            with pytest.raises(JobActiveError):
                retry(new_process(pipeline.world), job_id)


def test_a_retry_that_cannot_be_done_is_given_up_and_the_report_stands() -> None:
    with _pipeline() as pipeline:
        _a_job_has_failed(pipeline)
        (before,) = pipeline.world.history.values()
        pipeline.a_user_retries_a_job(pick=0, luck=None)
        for _ in range(3):
            pipeline.a_message_comes(pick=0, how=Delivery.POISONED, luck=None)
            pipeline.time_passes(seconds=101)
            pipeline.the_timer_ticks(luck=None)
        assert not pipeline.world.rows
        assert list(pipeline.world.history.values()) == [before]
        pipeline.a_user_retries_a_job(pick=0, luck=None)
        _all_rides_home(pipeline)
        (finished,) = pipeline.world.history.values()
        assert finished.status == "succeeded"


@BOTH_MODES
def test_a_job_is_cancelled_whose_create_was_lost(mode: type[Pipeline]) -> None:
    """It is looked for, and not sent again: neither where it was never made, nor where it was, and is stopped."""
    for fate, made in ((Fate.DIES_BEFORE, 0), (Fate.DIES_AFTER, 1)):
        for at in range(12):
            with _pipeline(mode) as pipeline:
                pipeline.a_user_drops_a_file(name=NAMES[0], kind="two lines")
                _event_comes(pipeline)
                pipeline.time_passes(seconds=20)
                pipeline.a_message_comes(pick=0, how=Delivery.TWICE, luck=(fate, at))
                (part,) = pipeline.world.parts()
                if part.create_intent_at is None or part.batch_id or len(pipeline.world.batches) != made:
                    continue
                pipeline.a_user_cancels_a_job(pick=0, luck=None)
                for _ in range(6):
                    pipeline.all_goes_on_for_a_while(seconds=101, ends=None, luck=None)
                assert [batch.status for batch in pipeline.world.batches.values()] == ["cancelling"] * made
                break
        else:
            pytest.fail("no create was lost")


@BOTH_MODES
@pytest.mark.parametrize("kind", ["two lines", "two parts", "mixed"])
def test_a_job_is_cancelled_while_its_drop_is_read(kind: str, mode: type[Pipeline]) -> None:
    """Whoever reads it stops it then: nobody has to read all of it again."""
    for held_at in itertools.count():
        with _pipeline(mode) as pipeline:
            pipeline.a_user_drops_a_file(name=NAMES[0], kind=kind)
            _event_comes(pipeline, (Fate.STALLS, held_at))
            if not pipeline.strands:
                assert held_at > 1
                return
            if pipeline.world.begun:
                pipeline.a_user_cancels_a_job(pick=0, luck=None)
                pipeline.a_process_that_was_held_up_goes_on(pick=0, dies=False)
                assert _accepted_and_cancelled(pipeline)


@BOTH_MODES
def test_a_job_is_cancelled_while_its_failed_lines_are_picked(mode: type[Pipeline]) -> None:
    """As above."""
    for held_at in itertools.count():
        with _pipeline(mode) as pipeline:
            _a_job_has_failed(pipeline)
            pipeline.a_user_retries_a_job(pick=0, luck=None)
            pipeline.a_message_comes(pick=0, how=Delivery.ONCE, luck=(Fate.STALLS, held_at))
            if not pipeline.strands:
                assert held_at > 1
                return
            pipeline.a_user_cancels_a_job(pick=0, luck=None)
            pipeline.a_process_that_was_held_up_goes_on(pick=0, dies=False)
            assert _accepted_and_cancelled(pipeline)


def _accepted_and_cancelled(pipeline: Pipeline) -> bool:
    return [(job.state, job.cancelled) for job in _jobs_in_hand(pipeline)] == [(JobState.ACCEPTED, True)]


def _jobs_in_hand(pipeline: Pipeline) -> list[Job]:
    return [row for rows in pipeline.world.rows.values() for row, _ in rows.values() if isinstance(row, Job)]


@BOTH_MODES
def test_a_retry_is_held_up_while_another_begins_and_ends(mode: type[Pipeline]) -> None:
    """It was done already: its row was entered late, and must not begin the same attempt a second time."""
    for held_at in itertools.count():
        with _pipeline(mode) as pipeline:
            _a_job_has_failed(pipeline)
            pipeline.a_user_retries_a_job(pick=0, luck=(Fate.STALLS, held_at))
            if _jobs_in_hand(pipeline):
                assert held_at > 1
                return  # it is entered
            (before,) = pipeline.world.history.values()
            pipeline.time_passes(seconds=1)
            pipeline.a_user_retries_a_job(pick=0, luck=None)
            for _ in range(2):
                pipeline.all_goes_on_for_a_while(seconds=20, ends=None, luck=None)
            pipeline.the_service_works(pick=0, does=Answer.FAILED)
            pipeline.all_goes_on_for_a_while(seconds=0, ends=End.COMPLETED, luck=None)
            (finished,) = pipeline.world.history.values()
            assert finished.attempts == before.attempts + 1
            made = len(pipeline.world.batches)
            pipeline.a_process_that_was_held_up_goes_on(pick=0, dies=False)
            (late,) = _jobs_in_hand(pipeline)
            _all_rides_home(pipeline)
            assert len(pipeline.world.batches) == made + (late.attempts_before == finished.attempts)


@BOTH_MODES
def test_whoever_is_held_up_at_the_end_of_a_job_leaves_its_retry_alone(mode: type[Pipeline]) -> None:
    """When it went on, it wrote what the job had come to before over the blobs, the report and the history."""
    with mock.patch.object(machine, "STALL", timedelta(hours=1)):
        for held_at in itertools.count():
            with _pipeline(mode) as pipeline:
                pipeline.a_user_drops_a_file(name=NAMES[0], kind="two lines")
                for seconds in (0, 20):
                    pipeline.all_goes_on_for_a_while(seconds=seconds, ends=None, luck=None)
                for does in (Answer.ANSWERED, Answer.FAILED, End.COMPLETED):
                    pipeline.the_service_works(pick=0, does=does)
                pipeline.the_timer_ticks(luck=None)
                pipeline.a_message_comes(pick=0, how=Delivery.TWICE, luck=(Fate.STALLS, held_at))
                if not pipeline.strands:
                    assert held_at > 1
                    return
                written = {container for container, _ in pipeline.world.blobs}
                if SETTINGS.reports_container in written:
                    return  # it is done, and says so late: messages may come at any time
                if SETTINGS.output_container in written and SETTINGS.errors_container not in written:
                    continue  # errors that the retry has left none of: they are there for a moment, and then taken out
                _all_rides_home(pipeline)
                pipeline.a_user_retries_a_job(pick=0, luck=None)
                _all_rides_home(pipeline)
                (finished,) = pipeline.world.history.values()
                blobs = dict(pipeline.world.blobs)
                assert (finished.status, finished.attempts) == ("succeeded", 2)
                pipeline.a_process_that_was_held_up_goes_on(pick=0, dies=False)
                assert list(pipeline.world.history.values()) == [finished]
                assert pipeline.world.blobs == blobs


def test_finished_files_make_room_and_those_of_a_retry_stay() -> None:
    """A job that is retried is in the history too, and its file is what a batch is made of just now."""
    with _pipeline() as pipeline:
        _a_job_has_failed(pipeline)
        pipeline.a_user_retries_a_job(pick=0, luck=None)
        for _ in range(2):
            pipeline.all_goes_on_for_a_while(seconds=20, ends=None, luck=None)
        (batch,) = pipeline.world.open_batches()
        pipeline.the_weather_changes(weather=Weather.FILES_FULL)
        pipeline.a_user_drops_a_file(name=NAMES[1], kind="one line")
        for _ in range(2):
            pipeline.all_goes_on_for_a_while(seconds=20, ends=None, luck=None)
        waits = [part.wait.reason for part in pipeline.world.parts() if part.wait]
        assert waits == ["file_quota"]
        assert batch.input_file_id in pipeline.world.files


@BOTH_MODES
def test_whoever_still_cleans_up_after_a_run_leaves_its_retry_alone(mode: type[Pipeline]) -> None:
    """What it had kept of the answers of before would be gone, and the retry could never end."""
    retried = 0
    for held_at in itertools.count():
        with _pipeline(mode) as pipeline:
            pipeline.a_user_drops_a_file(name=NAMES[0], kind="two lines")
            pipeline.all_goes_on_for_a_while(seconds=0, ends=None, luck=None)
            pipeline.all_goes_on_for_a_while(seconds=20, ends=None, luck=None)
            for does in (Answer.ANSWERED, Answer.FAILED, End.COMPLETED):
                pipeline.the_service_works(pick=0, does=does)
            pipeline.the_timer_ticks(luck=None)
            pipeline.a_message_comes(pick=0, how=Delivery.ONCE, luck=(Fate.STALLS, held_at))
            if not pipeline.strands:
                assert retried > 1
                return
            if pipeline.world.history:  # the one that is held up cleans up
                pipeline.all_goes_on_for_a_while(seconds=101, ends=None, luck=None)
                pipeline.a_user_retries_a_job(pick=0, luck=None)
                pipeline.all_goes_on_for_a_while(seconds=0, ends=None, luck=None)
                retried += any(job.state is JobState.ACCEPTED for job in _jobs_in_hand(pipeline))
            pipeline.a_process_that_was_held_up_goes_on(pick=0, dies=False)
            _all_rides_home(pipeline)
