"""The tables on Azurite: what is written is what is read, and of two writers one is told."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from types import UnionType
from typing import Any, get_args, get_origin

import msgspec
import pytest
from azure.data.tables import TableClient
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from batch_fn.app import App
from batch_fn.core.admission import Deployment
from batch_fn.core.jobs import Job, JobState, Outcome, Part, PartState
from batch_fn.settings import Settings
from batch_fn.storage.rows import ActiveJob, Change, ConflictError, FinishedJob, Stored
from batch_fn.storage.tables import Tables
from devkit.azurite import Azurite
from devkit.stack import provision
from tests.conftest import JOB_ID, NOON, a_job, a_part

FINISHED = FinishedJob(
    job_id=JOB_ID,
    status=Outcome.SUCCEEDED,
    container="batch-input",
    name="sales/monday.jsonl",
    etag="0x8DC",
    bytes=815,
    requests=10,
    succeeded=10,
    failed=0,
    finding_count=0,
    total_tokens=510,
    dropped_at=NOON,
    finished_at=NOON,
    report="batch-reports/sales/monday/x.json",
)


@pytest.fixture
def tables(azurite: Azurite, settings: Settings) -> Tables:
    """A tables with nothing in it."""
    provision(azurite.connection_string, settings)
    return App(settings).tables


def accepted(tables: Tables, *parts: Part) -> ActiveJob:
    """A job in hand with those parts."""
    tables.insert_if_absent(a_job())
    tables.change([Change(part) for part in parts])
    return in_hand(tables)


def in_hand(tables: Tables, job_id: str = JOB_ID) -> ActiveJob:
    work = tables.active_job(job_id)
    assert work is not None
    return work


def rows(work: ActiveJob) -> list[Part]:
    return [held.row for held in work.parts]


# Begin


def test_of_a_job_that_is_begun_twice_the_first_row_stays(tables: Tables) -> None:
    first = tables.insert_if_absent(a_job(bytes=1))
    moved_on = tables.update(first, a_job(bytes=1, requests=7))
    assert tables.insert_if_absent(a_job(bytes=2)) == moved_on


def test_of_eight_that_begin_a_job_at_once_all_hold_the_same_row(tables: Tables) -> None:
    with ThreadPoolExecutor(8) as pool:
        held = list(pool.map(lambda number: tables.insert_if_absent(a_job(bytes=number)), range(8)))
    assert len(set(held)) == 1
    assert tables.active_job(JOB_ID) == ActiveJob(held[0])


def test_what_was_never_begun_is_not_there(tables: Tables) -> None:
    assert tables.active_job(JOB_ID) is None
    assert tables.finished(JOB_ID) is None
    assert tables.deployment("batch-small") == Deployment(name="batch-small")


# Update


def test_of_two_writers_the_second_is_told(tables: Tables) -> None:
    held = tables.insert_if_absent(a_job())
    tables.update(held, a_job(requests=1))
    with pytest.raises(ConflictError):
        tables.update(held, a_job(requests=2))
    assert in_hand(tables).job.row == a_job(requests=1)


def test_of_eight_writers_at_once_seven_are_told(tables: Tables) -> None:
    held = tables.insert_if_absent(a_job())

    def wins(number: int) -> bool:
        try:
            tables.update(held, a_job(requests=number))
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(wins, range(8))) == 1


def test_an_update_s_etag_is_good_for_the_next(tables: Tables) -> None:
    held = tables.insert_if_absent(a_job())
    for requests in range(3):
        held = tables.update(held, a_job(requests=requests))
    assert in_hand(tables).job == held


def test_a_row_that_is_gone_is_a_conflict(tables: Tables) -> None:
    held = tables.insert_if_absent(a_job())
    tables.delete_active(ActiveJob(held))
    with pytest.raises(ConflictError):
        tables.update(held, a_job(requests=1))
    assert tables.active_job(JOB_ID) is None


def test_a_field_that_is_set_to_none_is_none_afterwards(tables: Tables) -> None:
    held = tables.insert_if_absent(a_job(due=NOON, accepted_at=NOON))
    tables.update(held, a_job())
    assert in_hand(tables).job.row == a_job()


# Transactions


def test_a_transaction_makes_all_its_changes(tables: Tables) -> None:
    work = accepted(tables, a_part())
    ended = a_part(state=PartState.ENDED)
    follow = a_part(attempt=2)
    (held,) = work.parts
    tables.change([Change(ended, held.etag), Change(follow), Change(a_job(parts_left=1), work.job.etag)])
    work = in_hand(tables)
    assert work.job.row == a_job(parts_left=1)
    assert rows(work) == [ended, follow]


@pytest.mark.parametrize("wrong", ["row has changed", "row is gone", "row is there"])
def test_a_transaction_with_one_conflict_changes_nothing(tables: Tables, wrong: str) -> None:
    work = accepted(tables, a_part(number=1), a_part(number=2))
    first, second = work.parts
    if wrong == "row has changed":
        tables.update(first, a_part(number=1, claims=5))
        conflict = Change(a_part(number=1, claims=1), first.etag)
    elif wrong == "row is gone":
        conflict = Change(a_part(number=9), first.etag)
    else:
        conflict = Change(a_part(number=1, claims=1))
    before = in_hand(tables)
    with pytest.raises(ConflictError):
        tables.change([Change(a_part(number=3)), Change(a_part(number=2, claims=1), second.etag), conflict])
    assert in_hand(tables) == before


def many(count: int) -> list[Part]:
    return [a_part(number=number) for number in range(1, count + 1)]


@pytest.mark.parametrize("count", [99, 100, 250])
def test_a_job_is_accepted_with_as_many_parts_as_it_has(tables: Tables, count: int) -> None:
    held = tables.insert_if_absent(a_job())
    tables.change([*map(Change, many(count)), Change(a_job(parts_left=count), held.etag)])
    work = in_hand(tables)
    assert work.job.row.parts_left == count
    assert rows(work) == many(count)


def test_what_a_run_that_died_had_inserted_does_not_stop_the_next(tables: Tables) -> None:
    held = tables.insert_if_absent(a_job())
    tables.change([Change(part) for part in many(100)])
    (first, *_) = in_hand(tables).parts
    moved_on = a_part(number=1, claims=3)
    tables.update(first, moved_on)
    tables.change([*map(Change, many(250)), Change(a_job(parts_left=250), held.etag)])
    assert rows(in_hand(tables)) == [moved_on, *many(250)[1:]]


def test_of_many_parts_the_job_counts_them_only_if_all_are_there(tables: Tables) -> None:
    held = tables.insert_if_absent(a_job())
    tables.update(held, a_job(requests=1))
    with pytest.raises(ConflictError):
        tables.change([*map(Change, many(250)), Change(a_job(parts_left=250), held.etag)])
    work = in_hand(tables)
    assert work.job.row == a_job(requests=1)
    assert len(work.parts) < 250


def test_a_part_is_found_by_its_key(tables: Tables) -> None:
    work = accepted(tables, a_part(), a_part(attempt=2))
    held = work.part("part-00001-02")
    assert held is not None
    assert held.row == a_part(attempt=2)
    assert work.part("part-00002-01") is None


# What is to be looked at


def test_due_is_what_has_its_time_and_whose_time_has_come(tables: Tables) -> None:
    earlier, later = NOON - timedelta(seconds=1), NOON + timedelta(seconds=1)
    accepted(
        tables, a_part(number=1, due=earlier), a_part(number=2, due=NOON), a_part(number=3, due=later), a_part(number=4)
    )
    other = a_job(job_id="20261122T020000Z-0123456789", due=earlier)
    tables.insert_if_absent(other)
    due = list(tables.due(NOON))
    assert sorted(held.row.job_id for held in due if isinstance(held.row, Job)) == [other.job_id]
    assert sorted(held.row.number for held in due if isinstance(held.row, Part)) == [1, 2]


def test_what_is_due_can_be_changed_with_the_etag_that_it_came_with(tables: Tables) -> None:
    accepted(tables, a_part(due=NOON))
    (held,) = tables.due(NOON)
    assert isinstance(held.row, Part)
    tables.update(Stored(held.row, held.etag), a_part(claims=1))
    assert list(tables.due(NOON)) == []


def test_the_jobs_in_hand_are_those_that_were_begun_and_not_forgotten(tables: Tables) -> None:
    accepted(tables, a_part())
    other = tables.insert_if_absent(a_job(job_id="20261122T020000Z-0123456789"))
    assert sorted(job.job_id for job in tables.active_jobs()) == [JOB_ID, other.row.job_id]
    tables.delete_active(ActiveJob(other))
    assert [job.job_id for job in tables.active_jobs()] == [JOB_ID]


ODD_NAMES = ["batch-small", "a/b", "a\\b", "50% #1?", "o'clock", "größer 東京 🙂", "a\tb", "x" * 200]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_the_parts_of_a_deployment_are_those_with_the_service_or_on_their_way(tables: Tables, name: str) -> None:
    parts = [a_part(number=number, state=state, deployment=name) for number, state in enumerate(PartState, start=1)]
    accepted(tables, *parts, a_part(number=9, state=PartState.OPEN, deployment=f"{name}2"))
    states = {part.state for part in tables.parts_of(name)}
    assert states == {PartState.OPEN, PartState.CLAIMED}


# Deployments


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_deployment_is_known_by_whatever_name_users_gave_it(tables: Tables, name: str) -> None:
    known = Deployment(name=name, limit=5)
    assert tables.update_deployment(name, lambda _: known) == known
    assert tables.deployment(name) == known
    assert tables.deployment(f"{name}2") == Deployment(name=f"{name}2")


def test_of_eight_threads_that_note_a_deployment_no_update_is_lost(tables: Tables) -> None:
    def count_one_more(_: int) -> None:
        tables.update_deployment("batch", lambda known: msgspec.structs.replace(known, enqueued=known.enqueued + 1))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count_one_more, range(24)))
    assert tables.deployment("batch").enqueued == 24


def test_a_note_that_changes_nothing_is_not_written(tables: Tables) -> None:
    seen: list[Deployment] = []

    def look(known: Deployment) -> Deployment:
        seen.append(known)
        if len(seen) == 1:  # somebody else writes after this reading: a write of the same would meet a conflict
            tables.update_deployment("batch", lambda known: msgspec.structs.replace(known, limit=5))
        return known

    assert tables.update_deployment("batch", look) == Deployment(name="batch")
    assert len(seen) == 1


# The end


def test_a_run_of_a_job_does_not_take_the_place_of_a_later_one_in_the_history(tables: Tables) -> None:
    retried = msgspec.structs.replace(FINISHED, attempts=FINISHED.attempts + 1, cost=None)
    tables.finish(FINISHED)
    tables.finish(retried)
    with pytest.raises(ConflictError):
        tables.finish(FINISHED)
    assert tables.finished(FINISHED.job_id) == retried


def test_a_finished_job_is_in_the_history_and_entering_it_again_changes_nothing(tables: Tables) -> None:
    tables.finish(FINISHED)
    tables.finish(FINISHED)
    assert tables.finished(JOB_ID) == FINISHED
    assert tables.finished("20261122T010203Z-9876543210") is None


def test_a_finished_job_is_in_hand_until_it_is_forgotten(tables: Tables) -> None:
    work = accepted(tables, a_part())
    tables.finish(FINISHED)
    assert tables.active_job(JOB_ID) == work
    tables.delete_active(work)
    assert tables.active_job(JOB_ID) is None
    assert tables.finished(JOB_ID) == FINISHED


def test_a_job_of_many_parts_is_forgotten_whole_and_leaves_others_alone(tables: Tables) -> None:
    other = tables.insert_if_absent(a_job(job_id="20261122T020000Z-0123456789"))
    work = accepted(tables, *many(250)[:100])
    tables.change([Change(part) for part in many(250)[100:200]])
    tables.change([Change(part) for part in many(250)[200:]])
    tables.delete_active(in_hand(tables))
    assert tables.active_job(JOB_ID) is None
    tables.delete_active(work)  # by somebody who had read it earlier
    assert in_hand(tables, other.row.job_id).job == other


def test_the_parts_of_a_retry_are_not_swept_away(tables: Tables) -> None:
    tables.change([Change(a_part(attempt=3, due=NOON)), Change(a_part(attempt=4, due=NOON))])
    tables.delete_orphaned_parts(msgspec.structs.replace(FINISHED, attempts=3))
    assert [held.row for held in tables.due(NOON)] == [a_part(attempt=4, due=NOON)]


def test_the_parts_of_a_job_are_those_of_its_own_run(tables: Tables) -> None:
    tables.insert_if_absent(a_job(attempts_before=3))
    tables.change([Change(a_part()), Change(a_part(attempt=4, attempts_before=3))])
    assert [held.row.attempt for held in in_hand(tables).parts] == [4]


def test_a_row_that_has_changed_since_it_was_read_is_not_forgotten(tables: Tables) -> None:
    held = tables.insert_if_absent(a_job())
    tables.update(held, a_job(poisoned=1))
    tables.delete_active(ActiveJob(held))
    assert in_hand(tables).job.row.poisoned == 1


def test_parts_that_came_in_after_their_job_was_forgotten_are_swept_away(tables: Tables) -> None:
    other = accepted(tables, a_part())
    gone = "20261122T020000Z-0123456789"
    tables.change([Change(a_part(job_id=gone, number=number, due=NOON)) for number in range(3)])
    assert len(list(tables.due(NOON))) == 3
    finished = msgspec.structs.replace(FINISHED, job_id=gone)
    tables.delete_orphaned_parts(finished)
    assert list(tables.due(NOON)) == []
    tables.delete_orphaned_parts(finished)
    assert in_hand(tables) == other


# Every field of every row


texts = st.text(st.characters(codec="utf-8"), max_size=20)
moments = st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
plain: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: texts,
    datetime: moments,
    type(None): st.none(),
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Every value that a field of that type may have."""
    if kind in plain:
        return plain[kind]
    if isinstance(kind, UnionType):
        return st.one_of(*map(values, get_args(kind)))
    if get_origin(kind) is tuple:
        return st.lists(values(get_args(kind)[0]), max_size=3).map(tuple)
    if issubclass(kind, StrEnum):
        return st.sampled_from(kind)
    return structs(kind)


def structs(kind: Any, **given: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Every struct of that kind, with no field left to its default."""
    types = {each.name: each.type for each in msgspec.structs.fields(kind)}
    return st.builds(kind, **{name: given[name] if name in given else values(kind) for name, kind in types.items()})


few = hypothesis_settings(max_examples=40)
parts = structs(Part, job_id=st.just(JOB_ID), number=st.integers(0, 99_999), attempt=st.integers(1, 99))
jobs = structs(Job, job_id=st.just(JOB_ID))
histories = structs(FinishedJob, job_id=st.just(JOB_ID))


@pytest.fixture(scope="module")
def rows_of_all_kinds(azurite: Azurite) -> Tables:
    """A tables that all the examples share."""
    own = uuid.uuid4().hex[:8]
    settings = Settings(
        storage=azurite.connection_string,
        work_table=f"work{own}",
        jobs_table=f"jobs{own}",
        deployments_table=f"deployments{own}",
    )
    provision(azurite.connection_string, settings)
    return App(settings).tables


@few
@given(job=jobs, part=parts)
def test_every_field_of_a_job_and_a_part_comes_back(rows_of_all_kinds: Tables, job: Job, part: Part) -> None:
    tables, own = rows_of_all_kinds, f"{JOB_ID}-{uuid.uuid4()}"
    job, part = msgspec.structs.replace(job, job_id=own), msgspec.structs.replace(part, job_id=own)
    job = msgspec.structs.replace(job, attempts_before=part.attempts_before)
    tables.change([Change(job), Change(part)])
    work = in_hand(tables, own)
    assert work.job.row == job
    assert rows(work) == [part]


@few
@given(history=histories)
def test_every_field_of_a_finished_job_comes_back(rows_of_all_kinds: Tables, history: FinishedJob) -> None:
    own = f"{JOB_ID}-{uuid.uuid4()}"
    history = msgspec.structs.replace(history, job_id=own)
    rows_of_all_kinds.finish(history)
    assert rows_of_all_kinds.finished(own) == history


@few
@given(deployment=structs(Deployment))
def test_every_field_of_a_deployment_comes_back(rows_of_all_kinds: Tables, deployment: Deployment) -> None:
    rows_of_all_kinds.update_deployment(deployment.name, lambda _: deployment)
    assert rows_of_all_kinds.deployment(deployment.name) == deployment


def test_the_states_are_kept_as_words_that_a_query_can_ask_for(tables: Tables, settings: Settings) -> None:
    accepted(tables, a_part(state=PartState.OPEN))
    table = TableClient.from_connection_string(settings.storage or "", settings.work_table)
    assert {entity["state"] for entity in table.list_entities()} == {JobState.DROPPED.value, PartState.OPEN.value}
