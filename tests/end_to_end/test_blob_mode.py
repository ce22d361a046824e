"""SUBMIT_MODE=blob: the service reads the input from blob storage and writes its results there."""

from collections.abc import Iterator

import pytest

from tests.end_to_end.bench import Bench, Dropped
from tests.end_to_end.stories import check_report, error_codes, jsonl, line, lines, statuses, went_well

pytestmark = pytest.mark.xdist_group("blob mode")


@pytest.fixture(scope="module")
def stack() -> Iterator[Bench]:
    with Bench({"SUBMIT_MODE": "blob", "MAX_PART_REQUESTS": "5"}) as bench:
        yield bench


def inputs(stack: Bench, dropped: Dropped) -> list[str]:
    """Return the containers that the service read the job's lines from, oldest first."""
    urls = [batch["input_blob"] for batch in reversed(stack.service.batches())]
    return [url.split("/")[4] for url in urls if dropped.job_id in url]


def test_a_good_file_is_read_from_its_copy_in_the_archive(stack: Bench) -> None:
    dropped = stack.drop("blob/good #1.jsonl", jsonl(*lines(4)))
    report = went_well(dropped)
    check_report(dropped, report)
    assert report["counts"] == {"requests": 4, "succeeded": 4, "failed": 0}
    assert inputs(stack, dropped) == ["batch-archive"]
    assert stack.service.files() == []


def test_parts_retries_and_failures_come_together(stack: Bench) -> None:
    texts = {2: "[[status 400]]", 3: "[[status 500 x1]]", 8: "[[missing x1]]"}
    dropped = stack.drop("blob/parts.jsonl", jsonl(*(line(f"task-{n}", texts.get(n, "Hello")) for n in range(12))))
    report = went_well(dropped)
    check_report(dropped, report)
    assert report["counts"] == {"requests": 12, "succeeded": 11, "failed": 1}
    assert error_codes(stack, report) == {"task-2": 400}
    order = [each["custom_id"] for each in stack.user.lines(report["outputs"]["output"])]
    assert order == [f"task-{n}" for n in range(12) if n != 2]
    assert sorted(statuses(report)) == [(1, "completed")] * 3 + [(2, "completed")] * 2


def test_no_line_answered_means_no_result_blob_though_its_url_is_given(stack: Bench) -> None:
    dropped = stack.drop("blob/none.jsonl", jsonl(line("a", "[[status 400]]"), line("b", "[[status 404]]")))
    report = went_well(dropped)
    assert error_codes(stack, report) == {"a": 400, "b": 404}
    assert report["outputs"]["output"] is None


def test_an_expired_batch_keeps_what_was_answered(stack: Bench) -> None:
    dropped = stack.drop("blob/expired.jsonl", jsonl(*lines(4, "[[batch expired x1]]")))
    report = went_well(dropped)
    assert report["counts"]["succeeded"] == 4
    assert statuses(report) == [(1, "expired"), (2, "completed")]


def test_a_role_that_is_not_there_yet_is_waited_for(stack: Bench) -> None:
    stack.service.options(no_blob_permission=True)
    dropped = stack.drop("blob/role.jsonl", jsonl(*lines(2)))
    waiting = stack.wait_for_wait(dropped.job_id)
    stack.service.options(no_blob_permission=False)
    report = went_well(dropped)
    assert report["status"] == "succeeded"
    assert waiting == "input_no_permissions"
    assert statuses(report) == [(1, "completed")]
