"""A finished job's failed lines go again; until the new report is there, the old one and its blobs stand."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from batch_fn.app import App
from batch_fn.core.errors import JobActiveError, NoSuchJobError, NothingToRetryError
from batch_fn.steps.cancelling import cancel
from batch_fn.steps.retrying import retry
from devkit.azure_openai.process import AzureOpenAI
from tests.end_to_end.bench import Bench, Dropped, wait_for
from tests.end_to_end.stories import check_report, jsonl, line, lines, rejected, statuses

pytestmark = pytest.mark.xdist_group("retry")


@pytest.fixture(scope="module")
def stack() -> Iterator[Bench]:
    with Bench({"MIXED_FILES": "split", "TROUBLE_SECONDS": "1"}) as bench:
        yield bench


@pytest.fixture
def service(stack: Bench) -> Iterator[AzureOpenAI]:
    before = stack.service.options()
    yield stack.service
    stack.service.options(**before)


@pytest.fixture(scope="module")
def app(stack: Bench) -> App:
    return App(stack.settings)


def whole(dropped: Dropped) -> dict[str, Any]:
    """Return the report of a job when it has left work, if every line is in exactly one of output and errors."""
    dropped.wait()
    stack = dropped.bench
    report: dict[str, Any] = json.loads(stack.user.read(f"batch-reports/{dropped.path}.json") or b"")
    check_report(dropped, report)
    ids = [json.loads(raw)["custom_id"] for raw in dropped.content.splitlines()]
    output = [each["custom_id"] for each in stack.user.lines(report["outputs"]["output"])]
    errors = [each["custom_id"] for each in stack.user.lines(report["outputs"]["errors"])]
    assert output == [each for each in ids if each in output]
    assert errors == [each for each in ids if each in errors]
    assert sorted(output + errors) == sorted(ids)
    assert report["counts"] == {"requests": len(ids), "succeeded": len(output), "failed": len(errors)}
    assert (report["outputs"]["errors"] is not None) == (stack.names("batch-errors", dropped.path) != [])
    assert report["usage"]["total_tokens"] == sum(
        each["response"]["body"]["usage"]["total_tokens"] for each in stack.user.lines(report["outputs"]["output"])
    )
    assert stack.names("batch-work", dropped.job_id) == stack.files(dropped.job_id) == []
    return report


def retried(app: App, dropped: Dropped) -> dict[str, Any]:
    """Retry a job, and return its new report. The old one can be read until then."""
    before = dropped.bench.user.read(f"batch-reports/{dropped.path}.json")
    asked_at = retry(app, dropped.job_id).retried_at
    assert asked_at is not None
    stamp = asked_at.strftime("%Y-%m-%dT%H:%M:%SZ")

    def new() -> bool:
        report = dropped.bench.user.read(f"batch-reports/{dropped.path}.json")
        assert report is not None
        assert report == before or json.loads(report)["times"]["retried"] == stamp
        return report != before

    wait_for(new, "the new report")
    return whole(dropped)


def test_failed_lines_succeed_when_the_trouble_is_over(stack: Bench, app: App) -> None:
    dropped = stack.drop("retry/over.jsonl", jsonl(*lines(3), line("odd", "[[status 500 x3]]"), line("last")))
    first = whole(dropped)
    assert first["status"] == "partially_succeeded"
    assert first["times"]["retried"] is None
    second = retried(app, dropped)
    assert second["status"] == "succeeded"
    assert second["outputs"]["errors"] is None
    assert statuses(second) == [(1, "completed"), (2, "completed"), (3, "completed"), (4, "completed")]
    assert second["batches"][:3] == first["batches"]
    assert second["batches"][3]["requests"] == 1
    names = ("dropped", "accepted", "submitted")
    assert [second["times"][name] for name in names] == [first["times"][name] for name in names]
    jobs = [message["job"]["status"] for message in stack.messages(dropped.job_id)]
    assert jobs == ["partially_succeeded", "succeeded"]
    assert [row["status"] for row in stack.history(dropped.job_id)] == ["succeeded"]
    with pytest.raises(NothingToRetryError, match="No line"):
        retry(app, dropped.job_id)


def test_a_job_is_retried_twice_and_each_has_fresh_attempts(stack: Bench, app: App) -> None:
    mixed = [line("a", body_model="one"), line("b", "[[status 500 x7]]", body_model="two"), line("c", body_model="one")]
    dropped = stack.drop("retry/twice.jsonl", jsonl(*mixed, line("d", "[[status 429 x7]]", body_model="one")))
    assert whole(dropped)["counts"]["failed"] == 2
    second = retried(app, dropped)
    assert second["counts"]["failed"] == 2
    assert max(batch["attempt"] for batch in second["batches"]) == 6
    third = retried(app, dropped)
    assert third["status"] == "succeeded"
    assert max(batch["attempt"] for batch in third["batches"]) == 8
    assert len({batch["id"] for batch in third["batches"]}) == len(third["batches"])


def test_a_line_whose_model_was_filled_in_is_filled_in_again(stack: Bench, app: App) -> None:
    content = jsonl(line("a", "[[status 500 x3]]", body_model=...), line("b", body_model=...))
    dropped = stack.drop("retry/filled.jsonl", content, deployment="filled")
    assert whole(dropped)["counts"]["failed"] == 1
    second = retried(app, dropped)
    assert second["status"] == "succeeded"
    assert {batch["deployment"] for batch in second["batches"]} == {"filled"}


def test_a_retry_that_is_cancelled_keeps_what_was_answered_before(stack: Bench, app: App, service: AzureOpenAI) -> None:
    dropped = stack.drop("retry/cancelled.jsonl", jsonl(*lines(3), line("odd", "[[status 500 x3]]")))
    assert whole(dropped)["counts"]["succeeded"] == 3
    service.options(in_progress_seconds=1e9)
    old = stack.user.read(f"batch-reports/{dropped.path}.json")
    job = retry(app, dropped.job_id)
    assert retry(app, dropped.job_id).retried_at == job.retried_at, "one that is under way is not begun again"
    wait_for(lambda: len(stack.batches(dropped.job_id)) == 4, "the fourth batch")
    assert stack.user.read(f"batch-reports/{dropped.path}.json") == old
    cancel(app, dropped.job_id)
    wait_for(lambda: not stack.work(dropped.job_id), "the job to leave work")
    report = whole(dropped)
    assert report["status"] == "cancelled"
    assert report["counts"] == {"requests": 4, "succeeded": 3, "failed": 1}
    service.options(in_progress_seconds=60)
    assert retried(app, dropped)["status"] == "succeeded"


def test_there_is_nothing_to_retry(stack: Bench, app: App, service: AzureOpenAI) -> None:
    bad = stack.drop("retry/bad.jsonl", b"{}\n")
    rejected(bad)
    with pytest.raises(NothingToRetryError, match="was rejected"):
        retry(app, bad.job_id)
    with pytest.raises(NoSuchJobError):
        retry(app, "20261122T010203Z-0123456789")
    service.options(in_progress_seconds=1e9)
    good = stack.drop("retry/good.jsonl", jsonl(*lines(2)))
    [batch] = good.batches()
    with pytest.raises(JobActiveError):
        retry(app, good.job_id)
    service.end_batch(batch["id"], "completed")
    assert whole(good)["status"] == "succeeded"
