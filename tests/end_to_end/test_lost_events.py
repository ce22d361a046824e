"""No event ever comes: the tick finds what lies in the inbox."""

from collections.abc import Iterator

import pytest

from tests.end_to_end.bench import Bench
from tests.end_to_end.stories import answered, jsonl, lines, rejected

pytestmark = pytest.mark.xdist_group("lost events")


@pytest.fixture(scope="module")
def stack() -> Iterator[Bench]:
    with Bench(host={"lose_events": True}) as bench:
        yield bench


def test_files_whose_events_are_lost_are_found_in_the_inbox(stack: Bench) -> None:
    good = stack.drop("lost/good #1.jsonl", jsonl(*lines(5)))
    bad = stack.drop("lost/bad.jsonl", b"nonsense")
    filled = stack.drop("lost/filled.jsonl", jsonl(*lines(2, body_model="")), deployment="mine")
    assert answered(good)["status"] == "succeeded"
    assert rejected(bad)["finding_count"] == 1
    assert filled.wait()["status"] == "succeeded"
