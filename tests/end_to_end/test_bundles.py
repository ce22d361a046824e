"""Small drops of the same deployment share a batch, and nobody can tell by their results."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.end_to_end.bench import NO_WINDOW, Bench, Dropped, wait_for
from tests.end_to_end.stories import check_report, jsonl, line, lines, went_well

pytestmark = pytest.mark.xdist_group("bundles")


@pytest.fixture(scope="module")
def stack() -> Iterator[Bench]:
    with Bench(NO_WINDOW | {"MAX_PART_REQUESTS": "1000"}) as bench:
        yield bench


def came_back_together(stack: Bench, drops: list[Dropped]) -> list[dict[str, Any]]:
    """Return the reports of drops whose first attempts share a bundle; what is tried again goes when it waits."""
    stack.send_together(drops)

    def done() -> bool:
        left[:] = [dropped for dropped in left if stack.user.report(dropped.path) is None]
        stack.send_waiting(left)
        return not left

    left = list(drops)
    wait_for(done, "the reports")
    return [came_back(dropped) for dropped in drops]


def came_back(dropped: Dropped) -> dict[str, Any]:
    """Return the report, if each line of the drop is in one of output and errors, under its own custom_id, in order."""
    report = went_well(dropped)
    check_report(dropped, report)
    ids = [each["custom_id"] for each in dropped.bench.user.lines(f"batch-archive/{dropped.path}.jsonl")]
    output = [each["custom_id"] for each in dropped.bench.user.lines(report["outputs"]["output"])]
    errors = [each["custom_id"] for each in dropped.bench.user.lines(report["outputs"]["errors"])]
    assert output == [each for each in ids if each in output]
    assert errors == [each for each in ids if each in errors]
    assert sorted(output + errors) == sorted(ids)
    return report


def test_drops_that_come_together_share_batches_and_each_has_its_own_report(stack: Bench) -> None:
    texts = ["Hello", "[[status 400]]", "[[status 500]]", "[[missing]]"]
    drops = [
        stack.drop(f"together/{number}.jsonl", jsonl(*lines(3, f"I am {number}"), line("odd", texts[number % 4])))
        for number in range(12)
    ]
    reports = came_back_together(stack, drops)
    assert [report["counts"]["failed"] for report in reports] == [0, 1, 1, 1] * 3
    assert [report["usage"]["total_tokens"] > 0 for report in reports] == [True] * 12
    firsts = {batch["id"] for report in reports for batch in report["batches"] if batch["attempt"] == 1}
    assert len(firsts) == 1, "12 drops share a batch"


def test_the_answers_are_those_to_each_drops_own_lines(stack: Bench) -> None:
    words = ("one", "two", "three")
    drops = [stack.drop(f"own/{word}.jsonl", jsonl(line("same", word))) for word in words]
    for word, report in zip(words, came_back_together(stack, drops), strict=True):
        [answer] = stack.user.lines(report["outputs"]["output"])
        assert answer["response"]["body"]["choices"][0]["message"]["content"].endswith(word)


def test_one_bad_member_harms_nobody_else(stack: Bench) -> None:
    good = [stack.drop(f"harm/{number}.jsonl", jsonl(*lines(2))) for number in range(3)]
    bad = stack.drop("harm/bad.jsonl", jsonl(line("bad", "[[batch failed invalid_request]]")))
    *reports, report = came_back_together(stack, [*good, bad])
    assert [each["status"] for each in reports] == ["succeeded"] * 3
    assert report["status"] == "failed"
    assert [finding["code"] for finding in report["findings"]] == ["invalid_request"]


def test_a_bundle_that_expires_keeps_what_was_answered(stack: Bench) -> None:
    drops = [stack.drop(f"expired/{n}.jsonl", jsonl(*lines(4, "[[batch expired x1]]"))) for n in range(3)]
    assert [report["status"] for report in came_back_together(stack, drops)] == ["succeeded"] * 3


def test_a_drop_that_is_alone_goes_alone(stack: Bench) -> None:
    dropped = stack.drop("alone.jsonl", jsonl(*lines(2, body_model="nobody-elses")))
    wait_for(lambda: stack.waiting(dropped), "the drop to wait for company")
    stack.send_waiting([dropped])
    assert came_back(dropped)["status"] == "succeeded"
    assert len(stack.batches(dropped.job_id)) == 1
