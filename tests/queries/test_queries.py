"""What is told of jobs: on Azurite, pages of those in hand and those that are finished; the rest is pure."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_fn.app import App
from batch_fn.core.errors import NoSuchJobError, ReportGoneError
from batch_fn.core.jobs import Estimate, Job, JobState, Member, Outcome, Part, PartState, Usage
from batch_fn.core.names import is_job_id
from batch_fn.core.report import to_iso
from batch_fn.core.waits import Wait
from batch_fn.queries.deployments import list_deployments
from batch_fn.queries.health import check_health
from batch_fn.queries.job_detail import in_hand, progress, show_job, transitions
from batch_fn.queries.job_list import list_jobs
from batch_fn.queries.usage import daily_usage
from batch_fn.runtime import clock
from batch_fn.settings import Settings
from batch_fn.storage.rows import Change, FinishedJob
from bench.counting import counted
from devkit.azurite import Azurite
from devkit.stack import provision
from tests.conftest import NOON, a_job, a_part
from tests.storage.test_tables import FINISHED


@pytest.fixture
def app(azurite: Azurite, settings: Settings) -> App:
    provision(azurite.connection_string, settings)
    return App(settings)


def job_at(time: datetime, digit: int = 0, **changes: object) -> Job:
    return a_job(job_id=f"{time:%Y%m%dT%H%M%SZ}-{digit:010x}", dropped_at=time, **changes)


def finished_at(time: datetime, digit: int = 0, **changes: object) -> FinishedJob:
    return msgspec.structs.replace(
        FINISHED, job_id=f"{time:%Y%m%dT%H%M%SZ}-{digit:010x}", dropped_at=time, finished_at=time, **changes
    )


def days_ago(days: float) -> datetime:
    return NOON - timedelta(days=days)


def test_of_a_hundred_jobs_each_is_on_one_page_and_the_last_dropped_comes_first(app: App) -> None:
    times = [days_ago(number / 7) for number in range(40)]
    for number, time in enumerate(times):
        app.tables.finish(finished_at(time, 2 * number))
        app.tables.insert_if_absent(job_at(time, 2 * number + 1))  # in the same second
    app.tables.finish(finished_at(times[3], 7, status=Outcome.FAILED))  # comes back into hand, or has just left it
    seen, after = list[str](), None
    while True:
        page = list_jobs(app, limit=9, after=after)
        seen += [row["job_id"] for row in page.jobs]
        after = page.after
        if after is None:
            break
        assert len(page.jobs) == 9
        assert page.jobs[-1]["job_id"] == after
    assert len(seen) == len(set(seen)) == 80
    dropped = [job_id.partition("-")[0] for job_id in seen]
    assert dropped == sorted(dropped, reverse=True)


def test_jobs_are_told_apart_by_status_name_and_time(app: App) -> None:
    app.tables.finish(finished_at(days_ago(1)))
    app.tables.finish(finished_at(days_ago(2), status=Outcome.REJECTED, name="other.jsonl"))
    app.tables.insert_if_absent(job_at(days_ago(3), state=JobState.ACCEPTED))
    app.tables.insert_if_absent(job_at(days_ago(4), state=JobState.ACCEPTED, cancelled=True))
    app.tables.insert_if_absent(job_at(days_ago(5), bundle=True))

    def listed(**given: object) -> list[str]:
        return [row["status"] for row in list_jobs(app, **given).jobs]  # type: ignore[arg-type]

    assert listed() == ["succeeded", "rejected", "accepted", "cancelling"]
    assert listed(status=["rejected", "cancelling"]) == ["rejected", "cancelling"]
    assert listed(prefix="oth") == ["rejected"]
    assert listed(since=days_ago(2)) == ["succeeded", "rejected"]
    assert listed(until=days_ago(2)) == ["rejected", "accepted", "cancelling"]
    assert listed(since=days_ago(3), until=days_ago(2)) == ["rejected", "accepted"]
    for odd in (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)):
        assert len(listed(since=odd) + listed(until=odd)) == 4


def test_a_page_looks_at_no_more_jobs_than_it_may(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batch_fn.queries.job_list.SCANNED_ROWS", 3)
    for number in range(5):
        app.tables.finish(finished_at(days_ago(number), name="x.jsonl" if number == 4 else "y.jsonl"))
    first = list_jobs(app, prefix="x")
    assert first.jobs == []
    assert first.after is not None
    second = list_jobs(app, prefix="x", after=first.after)
    assert [row["input"]["name"] for row in second.jobs] == ["x.jsonl"]
    assert second.after is None


def calls_of_pages(app: App, azurite: Azurite, after: str) -> list[int]:
    """How many calls to storage it takes to show a page from the middle of the history: all, some, and none found."""
    counts = list[int]()
    filters: list[dict[str, Any]] = [{}, {"status": ["succeeded"]}, {"prefix": "nothing"}, {"status": ["accepted"]}]
    for wanted in filters:
        with counted(azurite) as calls:
            list_jobs(app, limit=4, after=after, **wanted)
        counts.append(calls.at_storage)
    return counts


def test_a_page_costs_the_same_whatever_is_before_and_behind_it(
    app: App, azurite: Azurite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batch_fn.queries.job_list.HISTORY_PAGE", 10)
    monkeypatch.setattr("batch_fn.queries.job_list.SCANNED_ROWS", 20)
    for number in range(30):
        app.tables.finish(finished_at(days_ago(100 + number), number))
    after = finished_at(days_ago(104), 4).job_id
    first = calls_of_pages(app, azurite, after)
    for number in range(30):
        app.tables.finish(finished_at(days_ago(number), number))
        app.tables.finish(finished_at(days_ago(200 + number), number))
    assert calls_of_pages(app, azurite, after) == first
    in_hand_jobs, rows, each_found = 1, 1, 4
    scanned = 3  # twice as many rows as fit into an answer, and one to know whether there are more
    assert first == [in_hand_jobs + rows, in_hand_jobs + rows + each_found, in_hand_jobs + scanned, in_hand_jobs]


def test_a_job_that_is_not_there_or_lost_its_report_is_said_to_be(app: App) -> None:
    for odd in ("nothing", "99999999T999999Z-0123456789", "20261122T010203Z-0123456789"):
        with pytest.raises(NoSuchJobError):
            show_job(app, odd)
    gone = finished_at(NOON)
    app.tables.finish(gone)
    with pytest.raises(ReportGoneError, match=gone.report):
        show_job(app, gone.job_id)


def test_of_a_retried_job_its_new_run_is_shown_until_it_is_over(app: App) -> None:
    finished = finished_at(NOON)
    app.tables.finish(finished)
    job = job_at(NOON, state=JobState.ACCEPTED, retried_at=NOON, attempts_before=1, requests=10)
    app.tables.insert_if_absent(job)
    app.tables.change([Change(a_part(job_id=job.job_id, attempt=2, attempts_before=1))])
    assert show_job(app, job.job_id)["status"] == "retrying"
    assert [row["status"] for row in list_jobs(app).jobs] == ["retrying"]


SETTLED = a_part(state=PartState.SETTLED, succeeded=7, failed=1, completed=7, failed_so_far=3, batch_id="b1")
AGAIN = a_part(attempt=2, requests=2, state=PartState.OPEN, batch_id="b2", created_at=NOON)


def done(*parts: Part, state: JobState = JobState.ACCEPTED) -> tuple[int, int, int]:
    """How many lines of a job were answered, failed for good, and failed in a batch that is not settled."""
    told = progress(a_job(state=state, requests=20), parts)
    return told.completed, told.failed, told.failed_so_far


def test_a_line_that_failed_is_failed_when_it_is_not_tried_again() -> None:
    opened = a_part(state=PartState.OPEN, batch_id="b1", completed=5, failed_so_far=2)
    assert done(a_part()) == (0, 0, 0)
    assert done(opened) == (5, 0, 2)
    ended = opened.with_state(PartState.ENDED, None, completed=7, failed_so_far=3)
    assert done(ended) == (7, 0, 3)
    assert done(ended, state=JobState.FINISHING) == (7, 3, 0), "nothing of it is tried again"
    assert done(SETTLED, AGAIN) == (7, 1, 0), "two are tried again"
    assert done(SETTLED, msgspec.structs.replace(AGAIN, completed=1, failed_so_far=1)) == (8, 1, 1)


def test_what_was_answered_before_a_retry_counts() -> None:
    kept = a_part(number=0, attempt=4, state=PartState.SETTLED, requests=10)
    assert done(kept, a_part(attempt=4)) == (10, 0, 0)
    assert done(kept, a_part(attempt=4, state=PartState.OPEN, batch_id="b", completed=3)) == (13, 0, 0)


def test_what_a_batch_counted_that_did_not_run_does_not_count() -> None:
    refused = a_part(state=PartState.WAITING, completed=4, failed_so_far=6)
    assert done(refused) == (0, 0, 0)
    unsent = refused.with_state(PartState.ENDED, None)  # it was cancelled while it waited
    assert done(unsent) == (0, 0, 0)
    assert done(unsent, state=JobState.FINISHING) == (0, 10, 0)
    split = a_part(state=PartState.SETTLED)
    assert done(split, a_part(number=2, requests=4), a_part(number=3, requests=6)) == (0, 0, 0)


@given(data=st.data())
def test_no_line_is_counted_twice_whatever_the_service_counts(data: st.DataObject) -> None:
    number = st.integers(0, 12)
    parts, left, finals = list[Part](), 10, (0, 0)
    for attempt in range(1, 4):
        requests = left
        succeeded = data.draw(st.integers(0, left))
        failed = data.draw(st.integers(0, left - succeeded))
        part = a_part(attempt=attempt, requests=requests, batch_id="b", succeeded=succeeded, failed=failed)
        part = msgspec.structs.replace(part, completed=data.draw(number), failed_so_far=data.draw(number))
        last = data.draw(st.booleans()) or not left - succeeded - failed
        state = data.draw(st.sampled_from(PartState)) if last else PartState.SETTLED
        parts.append(msgspec.structs.replace(part, state=state))
        if last:
            break
        left, finals = left - succeeded - failed, (finals[0] + succeeded, finals[1] + failed)
    told = progress(a_job(state=data.draw(st.sampled_from(JobState)), requests=10), parts)
    assert told.completed + told.failed + told.failed_so_far <= 10
    assert (told.completed, told.failed) >= finals, "what is settled is not lost"
    assert told.failed >= finals[1]


def test_a_job_in_hand_is_told_with_its_parts_and_what_it_cost_so_far() -> None:
    settled = msgspec.structs.replace(SETTLED, usage=Usage(10, 5, 15), created_at=NOON)
    prices = {"batch-small": (1_000_000.0, 2_000_000.0)}
    job = a_job(requests=10, estimate=Estimate(80, 80.0))
    detail = in_hand(job, [AGAIN, settled], prices=prices)
    assert detail["progress"] == {"requests": 10, "completed": 7, "failed": 1, "failed_so_far": 0}
    assert detail["counts"] == {"requests": 10, "succeeded": 7, "failed": 1}
    assert [part["progress"]["requests"] for part in detail["parts"]] == [10, 2]
    assert (detail["estimate"], detail["cost"]) == ({"prompt_tokens": 80, "cost": 80.0}, 20.0)
    assert [batch["cost"] for batch in detail["batches"]] == [20.0, 0.0]
    assert in_hand(job, [settled], prices={"other": (1.0, 1.0)})["cost"] is None


def test_a_part_in_a_bundle_is_shown_with_the_batch_of_that(app: App) -> None:
    rider = job_at(NOON, state=JobState.ACCEPTED, requests=10, name="rides.jsonl")
    bundle = job_at(NOON, 1, bundle=True)
    part = a_part(job_id=rider.job_id, state=PartState.BUNDLED, bundle=bundle.job_id)
    bundle_part = a_part(job_id=bundle.job_id, requests=30, wait=Wait(reason="no_room"))
    app.tables.insert_if_absent(rider)
    app.tables.change([Change(part)])
    held = app.tables.insert_if_absent(bundle)
    assert _rides(app, rider) == ("bundled", None, None, 0), "who rides is not decided"
    members = (Member(rider.job_id, part.key),)
    app.tables.change([Change(msgspec.structs.replace(bundle, members=members), held.etag), Change(bundle_part)])
    assert _rides(app, rider) == ("waiting", "no_room", None, 0)
    for completed, known in ((29, 0), (30, 10)):
        work = app.tables.active_job(bundle.job_id)
        assert work is not None
        opened = {"state": PartState.OPEN, "batch_id": "b", "batch_status": "in_progress", "completed": completed}
        app.tables.update(work.parts[0], msgspec.structs.replace(work.parts[0].row, **opened))
        assert _rides(app, rider) == ("open", None, "in_progress", known), "of all that ride, or not known"
        [row] = list_jobs(app).jobs
        assert row["progress"] == show_job(app, rider.job_id)["progress"]
    [batch] = show_job(app, rider.job_id)["batches"]
    assert (batch["id"], batch["requests"]) == ("b", 10)


def _rides(app: App, job: Job) -> tuple[str, str | None, str | None, int]:
    detail = show_job(app, job.job_id)
    [part] = detail["parts"]
    return part["state"], part["waits_for"], part["batch_status"], detail["progress"]["completed"]


def test_what_happened_is_told_in_the_order_of_time() -> None:
    times = {"dropped": "2026-11-22T12:00:00Z", "accepted": "2026-11-22T12:00:01Z", "finished": "2026-11-22T14:00:00Z"}
    batch = {"id": "b", "part": 1, "attempt": 1, "requests": 3, "status": "completed"}
    batch |= {"created_at": "2026-11-22T12:00:02Z", "finished_at": "2026-11-22T13:00:00Z"}
    document = {"status": "succeeded", "times": times | {"retried": None, "cancelled": None}, "batches": [batch]}
    told = [(each["what"], each["detail"]) for each in transitions(document)]
    ends = [("submitted", "3 requests"), ("ended", "completed"), ("finished", "succeeded")]
    assert told == [("dropped", None), ("accepted", None), *ends]


@pytest.mark.parametrize("text", ["", "x", "20261122T010203Z-012345678", "20261322T010203Z-0123456789", "٢" * 8])
def test_what_is_no_job_id_is_not_taken_for_one(text: str) -> None:
    assert not is_job_id(text)


def test_what_is_not_well_is_said_with_the_reason(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batch_fn.queries.health.HEALTH_SECONDS", 3)
    found = check_health(app)  # at an endpoint that nobody answers
    assert found["status"] == "unhealthy"
    checks = found["checks"]
    assert [name for name, check in checks.items() if check["ok"]] == ["blob", "queue", "table", "poison", "doctor"]
    assert checks["service"]["detail"]
    assert checks["tick"]["detail"] == "no tick has finished yet"
    app.tables.record_tick(clock.now() - timedelta(seconds=700))
    tick = check_health(app)["checks"]["tick"]
    assert not tick["ok"]
    assert tick["age_seconds"] >= 700


def test_a_deployment_has_its_limit_and_what_waits_for_it(app: App) -> None:
    job = app.tables.insert_if_absent(a_job()).row
    waits = a_part(estimated_tokens=70)
    runs = a_part(number=2, state=PartState.OPEN, batch_id="b", estimated_tokens=30)
    app.tables.change([Change(waits), Change(runs)])
    app.tables.update_deployment("batch-small", lambda known: msgspec.structs.replace(known, limit=90, correction=2.0))
    app.tables.record_tick(NOON)
    [shown] = list_deployments(app)
    assert job.job_id == waits.job_id
    assert (shown["name"], shown["limit"], shown["enqueued"], shown["waiting_tokens"]) == ("batch-small", 90, 60, 140)
    assert (shown["waiting_parts"], shown["open_batches"]) == (1, 1)
    assert (shown["oldest_waiting"], shown["oldest_job"]) == ("2026-11-22T12:00:00Z", job.job_id)


def test_a_deployment_that_refuses_says_what_is_not_known_and_until_when_it_waits(app: App) -> None:
    app.tables.insert_if_absent(a_job())
    waits = [a_part(number=number, wait=Wait(reason=reason)) for number, reason in enumerate("aab", start=1)]
    reserved = a_part(number=4, estimated_tokens=30, admitted_at=NOON)
    app.tables.change([*map(Change, waits), Change(reserved)])
    later = clock.now() + timedelta(hours=1)
    learned = {"refusals": 2, "not_before": later, "extra": 7, "extra_until": later}
    app.tables.update_deployment("batch-small", lambda known: msgspec.structs.replace(known, **learned))
    [shown] = list_deployments(app)
    assert (shown["limit"], shown["largest_part"], shown["enqueued"]) == (None, None, 37)
    assert (shown["refusals"], shown["not_before"]) == (2, to_iso(later))
    assert (shown["waiting_parts"], shown["waits"]) == (3, {"a": 2, "b": 1})
    over = learned | {"not_before": NOON, "largest": 5, "largest_until": later}
    app.tables.update_deployment("batch-small", lambda known: msgspec.structs.replace(known, **over))
    [shown] = list_deployments(app)
    assert (shown["not_before"], shown["largest_part"]) == (None, 5)


def test_each_day_has_what_its_jobs_came_to(app: App) -> None:
    now = clock.now().replace(microsecond=0)
    yesterday = now - timedelta(days=1)
    app.tables.finish(finished_at(now, 1, cost=0.25, prompt_tokens=400, completion_tokens=110))
    app.tables.finish(finished_at(now, 2, cost=0.5, succeeded=8, failed=2))
    app.tables.finish(finished_at(yesterday, cost=None))
    app.tables.finish(finished_at(now - timedelta(days=9)))
    [before, last, today] = daily_usage(app, 3)
    assert (before["jobs"], before["cost"]) == (0, 0.0)
    assert (last["day"], last["jobs"], last["cost"]) == (f"{yesterday:%Y-%m-%d}", 1, None)
    assert (today["jobs"], today["succeeded"], today["failed"], today["cost"]) == (2, 18, 2, 0.75)
    assert (today["prompt_tokens"], today["completion_tokens"], today["total_tokens"]) == (400, 110, 1_020)
