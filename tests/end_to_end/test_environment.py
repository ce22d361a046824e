"""The service cannot be used for a while, for a reason that is in no file: work waits, and no line is paid twice."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from devkit.azure_openai.process import AzureOpenAI
from tests.end_to_end.bench import Bench, Dropped, wait_for
from tests.end_to_end.stories import answered, jsonl, lines, statuses

pytestmark = pytest.mark.xdist_group("environment")

TICKS = 5
"""In SETTLE_SECONDS there are two of them."""


@pytest.fixture(scope="module")
def stack() -> Iterator[Bench]:
    with Bench({"TROUBLE_SECONDS": "1", "BUNDLE_SECONDS": "0"}) as bench:
        yield bench


@pytest.fixture
def service(stack: Bench) -> Iterator[AzureOpenAI]:
    yield stack.service
    stack.service.clear_faults()
    stack.service.release()


def part_of(dropped: Dropped) -> dict[str, Any]:
    """The row of the job's one part."""
    rows = [row for row in dropped.bench.work(dropped.job_id) if row["RowKey"] != "job"]
    return rows[0] if rows else {}


def reason(dropped: Dropped) -> str:
    """Why the part waits."""
    return str(json.loads(part_of(dropped).get("wait", "{}")).get("reason", ""))


def asked(service: AzureOpenAI, beginning: str) -> int:
    """How many requests came that begin so."""
    return sum(count for name, count in service.requests().items() if name.startswith(beginning))


def wait_for_more(service: AzureOpenAI, beginning: str, count: int = TICKS) -> None:
    """Wait until so many more requests of that kind have come."""
    before = asked(service, beginning)
    wait_for(lambda: asked(service, beginning) >= before + count, f"{count} more of {beginning}")


@pytest.mark.parametrize("status", [403, 404, 405, 500])
def test_a_batch_that_cannot_be_asked_for_is_not_sent_again(stack: Bench, service: AzureOpenAI, status: int) -> None:
    service.hold()
    dropped = stack.drop(f"environment/polls-{status}.jsonl", jsonl(*lines(5)))
    wait_for(lambda: part_of(dropped).get("state") == "open", "an open batch")
    service.fault("status", status=status, method="GET", path="/batches")
    wait_for(lambda: reason(dropped) == "service", "a wait")
    wait_for_more(service, "GET /openai/v1/batches")
    assert part_of(dropped)["state"] == "open"
    service.clear_faults()
    service.release()
    assert statuses(answered(dropped)) == [(1, "completed")]
    assert len(stack.batches(dropped.job_id)) == 1


def test_a_batch_that_is_not_found_by_its_id_and_listed_goes_on(stack: Bench, service: AzureOpenAI) -> None:
    service.fault("status", status=404, method="GET", path="/batches/")
    dropped = stack.drop("environment/listed.jsonl", jsonl(*lines(5)))
    assert statuses(answered(dropped)) == [(1, "completed")]


@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_a_create_that_every_file_would_be_refused_waits_and_uses_no_attempt(
    stack: Bench, service: AzureOpenAI, status: int
) -> None:
    service.fault("status", status=status, method="POST", path="/batches$")
    dropped = stack.drop(f"environment/create-{status}.jsonl", jsonl(*lines(5)))
    wait_for(lambda: reason(dropped) == "service", "a wait")
    wait_for_more(service, "POST /openai/v1/batches", 3)
    service.clear_faults()
    report = answered(dropped)
    assert statuses(report) == [(1, "completed")]
    [wait] = report["waits"]
    assert str(status) in wait["message"]


def test_a_file_that_is_pending_is_waited_for(stack: Bench, service: AzureOpenAI) -> None:
    refusal = {"error": {"code": "invalid_request", "message": "Only files with status 'Processed' are accepted."}}
    service.fault("status", status=400, body=refusal, method="POST", path="/batches$")
    dropped = stack.drop("environment/pending.jsonl", jsonl(*lines(5)))
    wait_for(lambda: reason(dropped) == "file_pending", "a wait")
    wait_for_more(service, "POST /openai/v1/batches", 2)
    service.clear_faults()
    assert statuses(answered(dropped)) == [(1, "completed")]


@pytest.mark.parametrize("status", [400, 404, 405, 422, 500])
def test_a_lost_create_is_looked_for_until_a_list_answers(stack: Bench, service: AzureOpenAI, status: int) -> None:
    service.fault("drop_after", method="POST", path="/batches$", times=1)
    service.fault("status", status=status, method="GET", path="/batches$")
    dropped = stack.drop(f"environment/lost-{status}.jsonl", jsonl(*lines(5)))
    wait_for(lambda: reason(dropped) == "lost_create", "a wait")
    wait_for_more(service, "GET /openai/v1/batches", 2 * TICKS)
    service.clear_faults()
    assert statuses(answered(dropped)) == [(1, "completed")]
    assert len(stack.batches(dropped.job_id)) == 1
