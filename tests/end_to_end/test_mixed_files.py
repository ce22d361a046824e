"""Lines of several deployments and urls in one drop: a part for each, and one output in the drop's order."""

from collections.abc import Iterator

import pytest

from tests.end_to_end.bench import Bench
from tests.end_to_end.stories import ABSENT, answered, jsonl, line

pytestmark = pytest.mark.xdist_group("mixed")


@pytest.fixture(scope="module")
def stack() -> Iterator[Bench]:
    with Bench({"MIXED_FILES": "split", "MAX_PART_REQUESTS": "5"}) as bench:
        yield bench


def deployments(report: dict[str, list[dict[str, object]]]) -> list[tuple[object, object]]:
    """Return deployment and requests of each first attempt, in the order of the parts."""
    return [(batch["deployment"], batch["requests"]) for batch in report["batches"] if batch["attempt"] == 1]


def test_lines_in_turns_go_to_their_own_deployments_and_come_back_in_order(stack: Bench) -> None:
    texts = ["Hello", "[[status 500 x1]]", "[[status 400]]"]
    content = jsonl(*(line(f"task-{n}", texts[n % 3], body_model=["north", "south"][n % 2]) for n in range(14)))
    report = answered(stack.drop("mixed/turns.jsonl", content))
    assert sorted(deployments(report)) == [("north", 2), ("north", 5), ("south", 2), ("south", 5)]
    assert report["counts"] == {"requests": 14, "succeeded": 10, "failed": 4}


def test_deployments_one_after_the_other_need_no_copy(stack: Bench) -> None:
    content = jsonl(*(line(f"task-{n}", body_model=["north", "south"][n // 4]) for n in range(8)))
    report = answered(stack.drop("mixed/blocks.jsonl", content))
    assert deployments(report) == [("north", 4), ("south", 4)]


def test_urls_may_be_mixed_too_and_windows_line_ends_and_gaps_with_them(stack: Bench) -> None:
    chat = line("chat", body_model="")
    response = line("response", url="/v1/responses", body_messages=ABSENT, body_input="Hello", body_model="")
    more = line("more", body_model="")
    dropped = stack.drop("mixed/urls.jsonl", b"\r\n\r\n".join([chat, response, more]), deployment="east")
    report = dropped.wait()
    assert report["status"] == "succeeded"
    assert [each["custom_id"] for each in stack.user.lines(report["outputs"]["output"])] == ["chat", "response", "more"]
    assert {batch["endpoint"]: batch["requests"] for batch in report["batches"]} == {
        "/chat/completions": 2,
        "/v1/responses": 1,
    }
