"""Some lines fail: each is tried again where that helps, and ends in exactly one place."""

from collections.abc import Mapping

import pytest

from tests.end_to_end.bench import Bench, Dropped
from tests.end_to_end.stories import answered, error_codes, jsonl, line, lines, statuses

FILES = {
    "final": jsonl(line("a"), line("b", "[[status 400]]"), line("c")),
    "unlucky": jsonl(
        line("a", "[[status 429 x1]]"), line("b", "[[status 500 x2]]"), line("c"), line("d", "[[status 408 x1]]")
    ),
    "hopeless": jsonl(line("a", "[[status 500]]"), line("b"), line("c", "[[status 429]]")),
    "missing": jsonl(line("a"), line("b", "[[missing x1]]"), line("c", "[[missing x2]]")),
    "lost": jsonl(line("a", "[[missing]]"), line("b")),
    "nothing": jsonl(*lines(3, "[[missing]]")),
    "all wrong": jsonl(*lines(3, "[[status 404]]")),
    "in turns": jsonl(line("a", "[[status 503 x1]] [[missing x1]]"), line("b", "[[status 500 x1]] [[status 400]]")),
}


@pytest.fixture(scope="module")
def dropped(stack: Bench) -> Mapping[str, Dropped]:
    """Every file of these stories, dropped at once."""
    return {name: stack.drop(f"lines/{name}.jsonl", content) for name, content in FILES.items()}


def test_a_line_that_is_wrong_is_not_tried_again(dropped: Mapping[str, Dropped], stack: Bench) -> None:
    report = answered(dropped["final"])
    assert report["status"] == "partially_succeeded"
    assert statuses(report) == [(1, "completed")]
    assert error_codes(stack, report) == {"b": 400}


def test_lines_that_failed_by_bad_luck_are_tried_again_alone(dropped: Mapping[str, Dropped]) -> None:
    report = answered(dropped["unlucky"])
    assert report["status"] == "succeeded"
    assert [(batch["attempt"], batch["requests"], batch["succeeded"]) for batch in report["batches"]] == [
        (1, 4, 1),
        (2, 3, 2),
        (3, 1, 1),
    ]


def test_after_three_attempts_the_services_own_line_is_final(dropped: Mapping[str, Dropped], stack: Bench) -> None:
    report = answered(dropped["hopeless"])
    assert report["status"] == "partially_succeeded"
    assert statuses(report) == [(1, "completed"), (2, "completed"), (3, "completed")]
    assert error_codes(stack, report) == {"a": 500, "c": 429}


def test_lines_that_the_service_left_out_are_tried_again(dropped: Mapping[str, Dropped]) -> None:
    report = answered(dropped["missing"])
    assert report["status"] == "succeeded"
    assert [batch["requests"] for batch in report["batches"]] == [3, 2, 1]


def test_a_line_that_is_always_left_out_ends_as_no_response(dropped: Mapping[str, Dropped], stack: Bench) -> None:
    report = answered(dropped["lost"])
    assert report["status"] == "partially_succeeded"
    assert len(report["batches"]) == 3
    assert error_codes(stack, report) == {"a": "no_response"}


def test_a_file_that_gets_no_answer_at_all_has_failed(dropped: Mapping[str, Dropped], stack: Bench) -> None:
    report = answered(dropped["nothing"])
    assert report["status"] == "failed"
    assert report["outputs"]["output"] is None
    assert set(error_codes(stack, report).values()) == {"no_response"}


def test_a_file_of_wrong_lines_has_failed_after_one_attempt(dropped: Mapping[str, Dropped], stack: Bench) -> None:
    report = answered(dropped["all wrong"])
    assert report["status"] == "failed"
    assert statuses(report) == [(1, "completed")]
    assert set(error_codes(stack, report).values()) == {404}


def test_each_attempt_is_judged_by_itself(dropped: Mapping[str, Dropped], stack: Bench) -> None:
    report = answered(dropped["in turns"])
    assert [(batch["attempt"], batch["succeeded"], batch["failed"]) for batch in report["batches"]] == [
        (1, 0, 0),
        (2, 0, 1),
        (3, 1, 0),
    ]
    assert error_codes(stack, report) == {"b": 400}
