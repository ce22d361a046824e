"""Steps that work on many bytes take turns; all others go on at once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from batch_fn.turn import MANY_BYTES, turn


@pytest.fixture
def others() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def came_at_once(size: int) -> bool:
    with turn(size) as at_once:
        return at_once


def test_of_many_bytes_one_step_waits_for_the_other(others: ThreadPoolExecutor) -> None:
    with turn(MANY_BYTES):
        waiting = others.submit(came_at_once, MANY_BYTES)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.2)
    assert waiting.result(timeout=10) is False


def test_a_step_of_few_bytes_does_not_wait(others: ThreadPoolExecutor) -> None:
    with turn(MANY_BYTES):
        assert others.submit(came_at_once, MANY_BYTES - 1).result(timeout=10)


def test_a_step_within_a_step_does_not_wait_for_itself(others: ThreadPoolExecutor) -> None:
    with turn(MANY_BYTES):
        assert came_at_once(MANY_BYTES)
        waiting = others.submit(came_at_once, MANY_BYTES)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.2)


def test_a_step_that_fails_gives_its_turn_on(others: ThreadPoolExecutor) -> None:
    with pytest.raises(OSError, match="no network"), turn(MANY_BYTES):
        raise OSError("no network")
    assert others.submit(came_at_once, MANY_BYTES).result(timeout=10)
