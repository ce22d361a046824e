"""A batch may end in many ways: what was answered is kept, the rest is tried again, or the report says why not."""

from collections.abc import Mapping
from urllib.request import Request, urlopen

import pytest

from devkit.azure_openai.process import AzureOpenAI
from tests.end_to_end.bench import Bench, Dropped, wait_for
from tests.end_to_end.stories import NEVER, answered, error_codes, jsonl, line, lines, statuses

CODES = [
    "invalid_json_line",
    "too_many_tasks",
    "url_mismatch",
    "model_not_found",
    "duplicate_custom_id",
    "empty_file",
    "model_mismatch",
    "invalid_request",
]

FILES = {
    "expired": jsonl(line("first", "[[batch expired x1]]"), *lines(9)),
    "ever expired": jsonl(*lines(8, "[[batch expired]]")),
    "cancelled": jsonl(line("first", "[[batch cancelled x1]]"), *lines(9)),
    "ever cancelled": jsonl(*lines(8, "[[batch cancelled]]")),
    "failed": jsonl(line("first", "[[batch failed x1]]"), *lines(9)),
    "ever failed": jsonl(line("first", "[[batch failed]]"), *lines(2)),
    "failed late": jsonl(line("first", "[[batch failed-late x1]]"), *lines(9)),
}


@pytest.fixture(scope="module")
def dropped(stack: Bench) -> Mapping[str, Dropped]:
    """Every file of the stories that script their batch's end, dropped at once."""
    return {name: stack.drop(f"ends/{name}.jsonl", content) for name, content in FILES.items()}


@pytest.mark.parametrize(
    ("name", "status", "kept"),
    [("expired", "expired", 5), ("cancelled", "cancelled", 5), ("failed late", "failed", 5), ("failed", "failed", 0)],
)
def test_what_a_batch_answered_before_it_ended_is_kept_and_the_rest_sent_again(
    dropped: Mapping[str, Dropped], name: str, status: str, kept: int
) -> None:
    report = answered(dropped[name])
    assert report["status"] == "succeeded"
    assert statuses(report) == [(1, status), (2, "completed")]
    assert [batch["succeeded"] for batch in report["batches"]] == [kept, 10 - kept]
    assert report["finding_count"] == 0 or status == "failed"


@pytest.mark.parametrize(
    ("status", "code"), [("expired", "batch_expired"), ("cancelled", "no_response")], ids=["expired", "cancelled"]
)
def test_after_three_batches_that_ended_early_what_is_left_is_an_error(
    dropped: Mapping[str, Dropped], stack: Bench, status: str, code: str
) -> None:
    report = answered(dropped[f"ever {status}"])
    assert report["status"] == "partially_succeeded"
    assert statuses(report) == [(1, status), (2, status), (3, status)]
    assert [batch["succeeded"] for batch in report["batches"]] == [4, 2, 1]
    assert list(error_codes(stack, report).values()) == [code]


def test_a_job_whose_batches_fail_three_times_has_failed(dropped: Mapping[str, Dropped], stack: Bench) -> None:
    report = answered(dropped["ever failed"])
    assert report["status"] == "failed"
    assert statuses(report) == [(1, "failed"), (2, "failed"), (3, "failed")]
    assert set(error_codes(stack, report).values()) == {"no_response"}


def test_a_failure_for_good_is_not_tried_again_and_its_reason_is_a_finding(
    stack: Bench, outspoken: AzureOpenAI
) -> None:
    jobs = {code: stack.drop(f"ends/{code}.jsonl", jsonl(*lines(3, f"[[batch failed {code}]]"))) for code in CODES}
    for code, job in jobs.items():
        report = answered(job)
        assert report["status"] == "failed"
        assert statuses(report) == [(1, "failed")]
        assert [finding["code"] for finding in report["findings"]] == [code]
        errors = stack.user.lines(report["outputs"]["errors"])
        assert all(error["error"]["code"] == "no_response" and code in error["error"]["message"] for error in errors)


def test_a_deployment_that_is_not_there_is_told(stack: Bench, outspoken: AzureOpenAI) -> None:
    outspoken.options(deployments=["there"])
    report = answered(stack.drop("ends/elsewhere.jsonl", jsonl(*lines(3, body_model="elsewhere"))))
    assert report["status"] == "failed"
    assert statuses(report) == [(1, "failed")]
    [finding] = report["findings"]
    assert finding["code"] == "model_not_found"
    assert "elsewhere" in finding["message"]


def test_a_service_that_does_not_say_why_is_asked_three_times(stack: Bench, service: AzureOpenAI) -> None:
    service.options(deployments=["there"], quirks=["null_errors"])
    report = answered(stack.drop("ends/silent.jsonl", jsonl(*lines(3, body_model="elsewhere"))))
    assert report["status"] == "failed"
    assert statuses(report) == [(1, "failed"), (2, "failed"), (3, "failed")]


def test_what_was_answered_before_a_failure_for_good_is_kept(stack: Bench, outspoken: AzureOpenAI) -> None:
    content = jsonl(line("first", "[[batch failed-late invalid_request]]"), *lines(9))
    report = answered(stack.drop("ends/halfway.jsonl", content))
    assert report["status"] == "partially_succeeded"
    assert statuses(report) == [(1, "failed")]
    assert report["counts"] == {"requests": 10, "succeeded": 5, "failed": 5}
    assert [finding["code"] for finding in report["findings"]] == ["invalid_request"]
    assert set(error_codes(stack, report).values()) == {"no_response"}


def test_a_url_that_the_service_does_not_take_is_told(stack: Bench, service: AzureOpenAI) -> None:
    service.options(endpoints=["/chat/completions"])
    content = jsonl(*lines(2, url="/responses", body_input="Hello"))
    report = answered(stack.drop("ends/refused.jsonl", content))
    assert report["status"] == "failed"
    assert report["batches"] == []
    assert [finding["code"] for finding in report["findings"]] == ["invalid_request"]
    assert set(error_codes(stack, report).values()) == {"no_response"}


def test_a_batch_that_somebody_else_cancels_loses_nothing_that_was_answered(stack: Bench, service: AzureOpenAI) -> None:
    job = stack.drop("ends/by others.jsonl", jsonl(*lines(2), *(line(f"never-{n}", NEVER) for n in range(8))))
    [batch] = job.batches()
    wait_for(lambda: stack.batches(job.job_id)[0]["request_counts"]["completed"] == 2, "two answers")
    request = Request(
        f"{service.v1_url}batches/{batch['id']}/cancel", method="POST", headers={"api-key": service.api_key}
    )
    urlopen(request, timeout=10).close()
    service.end_batch(job.batches(2)[1]["id"], "completed")
    report = answered(job)
    assert report["status"] == "succeeded"
    assert statuses(report) == [(1, "cancelled"), (2, "completed")]
    assert [(each["requests"], each["succeeded"]) for each in report["batches"]] == [(10, 2), (8, 8)]
