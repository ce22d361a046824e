"""The HTTP API on the whole stack: jobs are listed, shown, cancelled and retried; what cannot be is explained."""

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest

from devkit.azure_openai.process import AzureOpenAI
from tests.end_to_end.bench import Bench, wait_for
from tests.end_to_end.stories import answered, jsonl, line, lines, rejected

pytestmark = pytest.mark.xdist_group("http")

NOBODY = "20261122T010203Z-0123456789"


@pytest.fixture(scope="module")
def stack() -> Iterator[Bench]:
    with Bench({"TROUBLE_SECONDS": "1", "PRICES": "priced=1000000/2000000"}) as bench:
        yield bench


@pytest.fixture
def service(stack: Bench) -> Iterator[AzureOpenAI]:
    before = stack.service.options()
    yield stack.service
    stack.service.options(**before)
    stack.service.release()


def ask(stack: Bench, path: str, method: str = "GET", *, key: str | None = None, **query: object) -> tuple[int, Any]:
    """Return status and body of an answer."""
    url = f"{stack.host.url}/api/{path}?{urlencode(query, doseq=True)}"
    headers = {"x-functions-key": stack.host.keys["function"] if key is None else key}
    try:
        with urlopen(Request(url, method=method, headers=headers), timeout=30) as answer:
            assert answer.headers["Content-Type"].startswith("application/json")
            assert answer.headers["Cache-Control"] == "no-store"
            return answer.status, json.load(answer)
    except HTTPError as error:
        body = error.read()
        if not body:
            return error.code, None
        assert error.headers["Content-Type"].startswith("application/problem+json")
        problem = json.loads(body)
        assert problem.keys() == {"type", "title", "status", "detail", "instance"}
        assert problem["status"] == error.code
        return error.code, problem


def test_finished_jobs_are_listed_by_the_page_and_shown_as_their_reports(stack: Bench) -> None:
    good = [stack.drop(f"http/good-{number}.jsonl", jsonl(*lines(3))) for number in range(3)]
    bad = stack.drop("http/bad.jsonl", b"{}\n")
    reports = {each.job_id: answered(each) for each in good} | {bad.job_id: rejected(bad)}
    status, first = ask(stack, "jobs", prefix="http/", limit=3)
    assert status == 200
    _, second = ask(stack, "jobs", prefix="http/", limit=3, after=first["after"])
    assert second["after"] is None
    rows = first["jobs"] + second["jobs"]
    assert {row["job_id"] for row in rows} == reports.keys()
    for row in rows:
        report = reports[row["job_id"]]
        assert {name: row[name] for name in ("status", "counts", "finding_count", "usage")} == {
            name: report[name] for name in ("status", "counts", "finding_count", "usage")
        }
        assert row["times"] == {name: report["times"][name] for name in row["times"]}
        status, detail = ask(stack, f"jobs/{row['job_id']}")
        assert status == 200
        assert {name: detail[name] for name in report} == report
        happened = [each["what"] for each in detail["transitions"]]
        assert happened == (
            ["dropped", "finished"]
            if report["status"] == "rejected"
            else ["dropped", "accepted", "submitted", "ended", "finished"]
        )
    _, only = ask(stack, "jobs", prefix="http/", status="rejected,failed")
    assert [row["job_id"] for row in only["jobs"]] == [bad.job_id]
    _, only = ask(stack, "jobs", prefix="http/", status=["rejected", "failed"])
    assert [row["job_id"] for row in only["jobs"]] == [bad.job_id]


def test_a_running_job_is_shown_cancelled_and_retried(stack: Bench, service: AzureOpenAI) -> None:
    service.hold()
    dropped = stack.drop("http-runs.jsonl", jsonl(*lines(4)))
    dropped.batches()
    detail = wait_for(lambda: _with_batch(stack, dropped.job_id), "the batch to be shown")
    assert detail["status"] == "accepted"
    assert detail["progress"]["requests"] == 4
    assert detail["times"]["finished"] is None
    assert detail["estimate"] == {"prompt_tokens": detail["batches"][0]["estimated_tokens"], "cost": None}
    assert detail["cost"] == 0, "so far"
    assert ask(stack, f"jobs/{dropped.job_id}/retry", "POST")[1]["type"] == "urn:batch_fn:job-active"
    [row] = ask(stack, "jobs", prefix="http-runs")[1]["jobs"]
    assert (row["status"], row["report"]) == ("accepted", None)
    status, detail = ask(stack, f"jobs/{dropped.job_id}/cancel", "POST")
    assert (status, detail["status"]) == (202, "cancelling")
    service.release()
    assert dropped.wait()["status"] == "cancelled"
    assert ask(stack, f"jobs/{dropped.job_id}/cancel", "POST")[0] == 200
    service.hold()
    status, detail = ask(stack, f"jobs/{dropped.job_id}/retry", "POST")
    assert (status, detail["status"]) == (202, "retrying")
    service.release()
    wait_for(lambda: ask(stack, f"jobs/{dropped.job_id}")[1]["status"] == "succeeded", "the retry to succeed")
    wait_for(lambda: not stack.work(dropped.job_id), "the job to leave work")
    detail = ask(stack, f"jobs/{dropped.job_id}")[1]
    assert [each["what"] for each in detail["transitions"]].count("submitted") == 2
    assert ask(stack, f"jobs/{dropped.job_id}/cancel", "POST")[1]["type"] == "urn:batch_fn:job-finished"
    assert ask(stack, f"jobs/{dropped.job_id}/retry", "POST")[1]["type"] == "urn:batch_fn:nothing-to-retry"


def _with_batch(stack: Bench, job_id: str) -> dict[str, Any]:
    status, detail = ask(stack, f"jobs/{job_id}")
    return detail if status == 200 and detail["batches"] else {}


@pytest.mark.parametrize(
    ("path", "method"), [(NOBODY, "GET"), ("odd", "GET"), (f"{NOBODY}/cancel", "POST"), (f"{NOBODY}/retry", "POST")]
)
def test_an_unknown_job_is_not_found(stack: Bench, path: str, method: str) -> None:
    status, problem = ask(stack, f"jobs/{path}", method)
    assert (status, problem["type"]) == (404, "urn:batch_fn:job-not-found")
    assert problem["instance"] == f"/api/jobs/{path}"


@pytest.mark.parametrize(
    "query", [{"limit": 0}, {"limit": 201}, {"limit": "x"}, {"status": "odd"}, {"since": "odd"}, {"after": "odd"}]
)
def test_a_wrong_query_is_told_what_is_wrong(stack: Bench, query: dict[str, Any]) -> None:
    status, problem = ask(stack, "jobs", **query)
    assert (status, problem["type"]) == (400, "urn:batch_fn:bad-query")
    assert next(iter(query)) in problem["detail"]


@pytest.mark.parametrize(("path", "method"), [("jobs", "GET"), (f"jobs/{NOBODY}/cancel", "POST")])
def test_nothing_is_told_without_a_key(stack: Bench, path: str, method: str) -> None:
    assert ask(stack, path, method, key="wrong") == (401, None)


def test_a_line_that_fails_is_counted_while_others_run(stack: Bench) -> None:
    dropped = stack.drop("http-mixed.jsonl", jsonl(line("good"), line("bad", "[[status 400]]")))
    report = answered(dropped)
    [row] = ask(stack, "jobs", prefix="http-mixed")[1]["jobs"]
    assert (row["status"], row["counts"]) == ("partially_succeeded", report["counts"])


def test_batches_are_listed_with_their_jobs_and_those_of_others(stack: Bench) -> None:
    dropped = stack.drop("http-batches.jsonl", jsonl(*lines(2)))
    report = answered(dropped)
    _, every = ask(stack, "batches", limit=200)
    [ours] = [each for each in every["batches"] if each["job_id"] == dropped.job_id]
    assert (ours["id"], ours["part"], ours["attempt"], ours["ours"]) == (report["batches"][0]["id"], 1, 1, True)
    assert ours["requests"] == {"total": 2, "completed": 2, "failed": 0}
    seen = list[str]()
    after = dict[str, Any]()
    while True:
        _, page = ask(stack, "batches", limit=2, **after)
        seen += [each["id"] for each in page["batches"]]
        if page["after"] is None:
            break
        after = {"after": page["after"]}
    assert seen == [each["id"] for each in every["batches"]]
    assert ask(stack, "batches", status="expired")[1] == {"batches": [], "after": None}
    assert ask(stack, "batches", since="2099-01-01")[1] == {"batches": [], "after": None}
    assert ask(stack, "batches", status="odd")[0] == 400
    assert ask(stack, "batches", after="odd")[1]["type"] == "urn:batch_fn:bad-query"


def test_a_deployment_is_shown_with_what_waits_for_it(stack: Bench, service: AzureOpenAI) -> None:
    service.options(token_limits={"full": 10}, quota_headers=False)
    dropped = stack.drop("http-waits.jsonl", jsonl(*lines(8, body_model="full")))
    assert stack.wait_for_wait(dropped.job_id) == "token_limit"
    wait_for(lambda: _deployment(stack, "full")["waiting_parts"], "the wait to be shown")
    shown = _deployment(stack, "full")
    assert shown["waiting_tokens"] > 0
    assert shown["oldest_waiting"]
    detail = ask(stack, f"jobs/{dropped.job_id}")[1]
    assert detail["waits"][0]["reason"]
    assert ask(stack, f"jobs/{dropped.job_id}/cancel", "POST")[0] == 202
    dropped.wait()
    assert _deployment(stack, "full")["waiting_parts"] == 0


def _deployment(stack: Bench, name: str) -> dict[str, Any]:
    found = ask(stack, "deployments")[1]["deployments"]
    return next((each for each in found if each["name"] == name), {"waiting_parts": 0})


def test_the_app_says_whether_it_is_well(stack: Bench) -> None:
    found = wait_for(lambda: body if (body := ask(stack, "health")[1])["status"] == "healthy" else None, "a tick")
    assert found is not None
    assert found["checks"].keys() == {"blob", "queue", "table", "service", "tick", "poison", "doctor"}
    assert found["checks"]["tick"]["age_seconds"] >= 0


def test_what_a_job_cost_is_in_its_report_its_row_and_its_day(stack: Bench) -> None:
    dropped = stack.drop("http-priced.jsonl", jsonl(*lines(3, body_model="priced")))
    report = dropped.wait()
    cost = report["usage"]["prompt_tokens"] + 2 * report["usage"]["completion_tokens"]
    assert report["cost"] == report["batches"][0]["cost"] == cost > 0
    assert report["estimate"]["cost"] == report["estimate"]["prompt_tokens"] > 0
    [row] = ask(stack, "jobs", prefix="http-priced")[1]["jobs"]
    assert row["cost"] == cost
    status, found = ask(stack, "usage", days=2)
    assert (status, len(found["days"])) == (200, 2)
    assert sum(day["total_tokens"] for day in found["days"]) >= report["usage"]["total_tokens"]
    assert ask(stack, "usage", days=91)[0] == 400


def test_a_mistake_of_the_app_is_told_without_its_insides(stack: Bench) -> None:
    with stack.broken_history():
        status, problem = ask(stack, "jobs")
    assert (status, problem["type"]) == (500, "urn:batch_fn:internal")
    assert "ValidationError" not in json.dumps(problem)
    assert re.search(r"request_broke.*/api/jobs.*ValidationError.*rows.py", stack.host.log_text())
    assert ask(stack, "jobs")[0] == 200
