"""Large steps go one after another, all others at once; freed memory goes back to the system."""

import platform
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from batch_fn.runtime.memory import LARGE_BYTES, large_step_lock


@pytest.fixture
def others() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def came_at_once(size: int) -> bool:
    with large_step_lock(size) as at_once:
        return at_once


def test_of_many_bytes_one_step_waits_for_the_other(others: ThreadPoolExecutor) -> None:
    with large_step_lock(LARGE_BYTES):
        waiting = others.submit(came_at_once, LARGE_BYTES)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.2)
    assert waiting.result(timeout=10) is False


def test_a_step_of_few_bytes_does_not_wait(others: ThreadPoolExecutor) -> None:
    with large_step_lock(LARGE_BYTES):
        assert others.submit(came_at_once, LARGE_BYTES - 1).result(timeout=10)


def test_a_step_within_a_step_does_not_wait_for_itself(others: ThreadPoolExecutor) -> None:
    with large_step_lock(LARGE_BYTES):
        assert came_at_once(LARGE_BYTES)
        waiting = others.submit(came_at_once, LARGE_BYTES)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.2)


def test_a_step_that_fails_gives_its_turn_on(others: ThreadPoolExecutor) -> None:
    with pytest.raises(OSError, match="no network"), large_step_lock(LARGE_BYTES):
        raise OSError("no network")
    assert others.submit(came_at_once, LARGE_BYTES).result(timeout=10)


FREED = """
import re
from pathlib import Path
from batch_fn.runtime.memory import trim_malloc

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

before = resident()
pieces = [b"x" * 1000 * (1 + number % 7) for number in range(20_000)]
held = resident()
kept = pieces[::1000]  # they lie between what is free
del pieces
trim_malloc()
print(held - before, resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="elsewhere nothing is done")
def test_what_lies_free_between_what_is_in_use_goes_back() -> None:
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    held, left = map(float, done.stdout.split())
    assert held > 70
    assert left < held / 4
