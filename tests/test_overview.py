"""What is told of jobs: on Azurite, pages of those in hand and those that are finished; the rest is pure."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from batch_fn import clock
from batch_fn.app import App
from batch_fn.jobs import Job, JobState, Outcome, PartState
from batch_fn.ledger import Change, Finished, Held, NoSuchJobError, Work
from batch_fn.overview import (
    ReportGoneError,
    daily_totals,
    health,
    in_hand,
    is_job_id,
    list_deployments,
    list_jobs,
    show_job,
    transitions,
)
from batch_fn.settings import Settings
from devkit.azurite import Azurite
from devkit.stack import provision
from tests.conftest import NOON, a_job, a_part
from tests.test_ledger import FINISHED


@pytest.fixture
def app(azurite: Azurite, settings: Settings) -> App:
    provision(azurite.connection_string, settings)
    return App(settings)


def job_at(time: datetime, digit: int = 0, **changes: object) -> Job:
    return a_job(job_id=f"{time:%Y%m%dT%H%M%SZ}-{digit:010x}", dropped_at=time, **changes)


def finished_at(time: datetime, digit: int = 0, **changes: object) -> Finished:
    return msgspec.structs.replace(
        FINISHED, job_id=f"{time:%Y%m%dT%H%M%SZ}-{digit:010x}", dropped_at=time, finished_at=time, **changes
    )


def days_ago(days: float) -> datetime:
    return NOON - timedelta(days=days)


def test_of_a_hundred_jobs_each_is_on_one_page_and_the_last_dropped_comes_first(app: App) -> None:
    times = [days_ago(number / 7) for number in range(40)]
    for number, time in enumerate(times):
        app.ledger.finish(finished_at(time, 2 * number))
        app.ledger.begin(job_at(time, 2 * number + 1))  # in the same second
    app.ledger.finish(finished_at(times[3], 7, status=Outcome.FAILED))  # comes back into hand, or has just left it
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
    app.ledger.finish(finished_at(days_ago(1)))
    app.ledger.finish(finished_at(days_ago(2), status=Outcome.REJECTED, name="other.jsonl"))
    app.ledger.begin(job_at(days_ago(3), state=JobState.ACCEPTED))
    app.ledger.begin(job_at(days_ago(4), state=JobState.ACCEPTED, cancelled=True))
    app.ledger.begin(job_at(days_ago(5), bundle=True))

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
    monkeypatch.setattr("batch_fn.overview.SCANNED_ROWS", 3)
    for number in range(5):
        app.ledger.finish(finished_at(days_ago(number), name="x.jsonl" if number == 4 else "y.jsonl"))
    first = list_jobs(app, prefix="x")
    assert first.jobs == []
    assert first.after is not None
    second = list_jobs(app, prefix="x", after=first.after)
    assert [row["input"]["name"] for row in second.jobs] == ["x.jsonl"]
    assert second.after is None


def test_a_job_that_is_not_there_or_lost_its_report_is_said_to_be(app: App) -> None:
    for odd in ("nothing", "99999999T999999Z-0123456789", "20261122T010203Z-0123456789"):
        with pytest.raises(NoSuchJobError):
            show_job(app, odd)
    gone = finished_at(NOON)
    app.ledger.finish(gone)
    with pytest.raises(ReportGoneError, match=gone.report):
        show_job(app, gone.job_id)


def test_of_a_retried_job_its_new_run_is_shown_until_it_is_over(app: App) -> None:
    finished = finished_at(NOON)
    app.ledger.finish(finished)
    job = job_at(NOON, state=JobState.ACCEPTED, retried_at=NOON, attempts_before=1, requests=10)
    app.ledger.begin(job)
    app.ledger.change([Change(a_part(job_id=job.job_id, attempt=2, attempts_before=1))])
    assert show_job(app, job.job_id)["status"] == "retrying"
    assert [row["status"] for row in list_jobs(app).jobs] == ["retrying"]


def test_what_is_settled_counts_once_and_what_is_open_as_the_service_counts() -> None:
    parts = [
        a_part(number=0, state=PartState.SETTLED, requests=5),
        a_part(number=1, state=PartState.SETTLED, succeeded=7, failed=1, completed=7, failed_so_far=3, batch_id="b1"),
        a_part(number=1, attempt=2, state=PartState.OPEN, completed=1, batch_id="b2", created_at=NOON),
    ]
    work = Work(Held(a_job(requests=15), ""), [Held(part, "") for part in parts])
    detail = in_hand(work)
    assert detail["progress"] == {"requests": 15, "completed": 13, "failed": 1}
    assert detail["counts"] == {"requests": 15, "succeeded": 12, "failed": 1}
    assert [batch.get("completed") for batch in detail["batches"]] == [None, 1]
    assert [part["part"] for part in detail["parts"]] == [1, 1]


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
    monkeypatch.setattr("batch_fn.overview.HEALTH_SECONDS", 3)
    found = health(app)  # at an endpoint that nobody answers
    assert found["status"] == "unhealthy"
    checks = found["checks"]
    assert [name for name, check in checks.items() if check["ok"]] == ["blob", "queue", "table", "poison"]
    assert checks["service"]["detail"]
    assert checks["tick"]["detail"] == "no tick has come to its end yet"
    app.ledger.note_tick(clock.now() - timedelta(seconds=700))
    tick = health(app)["checks"]["tick"]
    assert not tick["ok"]
    assert tick["age_seconds"] >= 700


def test_a_deployment_has_its_limit_and_what_waits_for_it(app: App) -> None:
    job = app.ledger.begin(a_job()).row
    waits = a_part(estimated_tokens=70)
    runs = a_part(number=2, state=PartState.OPEN, batch_id="b", estimated_tokens=30)
    app.ledger.change([Change(waits), Change(runs)])
    app.ledger.note_deployment("gpt-4o-mini", lambda known: msgspec.structs.replace(known, limit=90, correction=2.0))
    app.ledger.note_tick(NOON)
    [shown] = list_deployments(app)
    assert job.job_id == waits.job_id
    assert (shown["name"], shown["limit"], shown["enqueued"], shown["waiting_tokens"]) == ("gpt-4o-mini", 90, 60, 140)
    assert (shown["waiting_parts"], shown["open_batches"]) == (1, 1)
    assert shown["oldest_waiting"] == "2026-11-22T12:00:00Z"


def test_each_day_has_what_its_jobs_came_to(app: App) -> None:
    now = clock.now().replace(microsecond=0)
    yesterday = now - timedelta(days=1)
    app.ledger.finish(finished_at(now, 1, cost=0.25, prompt_tokens=400, completion_tokens=110))
    app.ledger.finish(finished_at(now, 2, cost=0.5, succeeded=8, failed=2))
    app.ledger.finish(finished_at(yesterday, cost=None))
    app.ledger.finish(finished_at(now - timedelta(days=9)))
    [before, last, today] = daily_totals(app, 3)
    assert (before["jobs"], before["cost"]) == (0, 0.0)
    assert (last["day"], last["jobs"], last["cost"]) == (f"{yesterday:%Y-%m-%d}", 1, None)
    assert (today["jobs"], today["succeeded"], today["failed"], today["cost"]) == (2, 18, 2, 0.75)
    assert (today["prompt_tokens"], today["completion_tokens"], today["total_tokens"]) == (400, 110, 1_020)
