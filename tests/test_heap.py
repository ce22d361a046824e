"""What is freed goes back to the system."""

import platform
import subprocess
import sys

import pytest

FREED = """
import re
from pathlib import Path
from batch_fn.heap import give_back

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

before = resident()
pieces = [b"x" * 1000 * (1 + number % 7) for number in range(20_000)]
held = resident()
kept = pieces[::1000]  # they lie between what is free
del pieces
give_back()
print(held - before, resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="elsewhere nothing is done")
def test_what_lies_free_between_what_is_in_use_goes_back() -> None:
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    held, left = map(float, done.stdout.split())
    assert held > 70
    assert left < held / 4
