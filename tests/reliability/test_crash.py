"""The app dies at calls spread over one small job's way; `make crash` tries every single one."""

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.reliability.crash import STORIES, Laboratories, Outcome, spread, table

pytestmark = pytest.mark.xdist_group("reliability")

DEATHS, DEATHS_OF_A_USER_STORY = 10, 5

MOST_CALLS = {"tables": 72, "blobs": 37, "queues": 8, "service": 30}
"""What one small job of three batches costs; `python -m tests.reliability.crash --list` shows each call."""


@pytest.fixture(scope="module")
def laboratories() -> Iterator[Laboratories]:
    with Laboratories(jobs=2) as laboratories:
        yield laboratories


@pytest.fixture(scope="module")
def calm(laboratories: Laboratories) -> Outcome:
    """How it goes without a fault."""
    return laboratories.undisturbed("untouched")


def test_a_small_job_makes_no_more_calls_than_are_known(calm: Outcome) -> None:
    print(table(calm.calls))  # noqa: T201 - pytest shows it with -s, or when the test fails
    assert calm.complaints == []
    counted = Counter(call.partition(" ")[0] for call in calm.calls)
    assert counted.keys() == MOST_CALLS.keys()
    assert counted <= Counter(MOST_CALLS)
    assert calm.calls.count("service POST /openai/v1/batches") == 3


def test_whenever_the_app_dies_every_promise_is_kept(laboratories: Laboratories, calm: Outcome) -> None:
    _all_is_kept(laboratories, "untouched", calm, DEATHS)


@pytest.mark.parametrize("story", [story for story in STORIES if story != "untouched"])
def test_a_job_is_cancelled_or_retried_and_the_app_dies(laboratories: Laboratories, story: str) -> None:
    calm = laboratories.undisturbed(story)
    assert calm.complaints == []
    _all_is_kept(laboratories, story, calm, DEATHS_OF_A_USER_STORY)


def _all_is_kept(laboratories: Laboratories, story: str, calm: Outcome, deaths: int) -> None:
    outcomes = list(laboratories.deaths(story, spread(len(calm.calls), deaths)))
    assert {outcome.what: outcome.complaints for outcome in outcomes if outcome.complaints} == {}
    assert len(outcomes) == deaths
