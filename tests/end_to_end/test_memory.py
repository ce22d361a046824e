"""Through the real worker, a drop of many parts takes no more memory than one of two."""

import re
import sys
from pathlib import Path

import pytest

from devkit.stack import Stack
from tests.end_to_end.stories import jsonl, lines

pytestmark = [
    pytest.mark.xdist_group("memory"),
    pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc"),
]

MB = 1_000_000
PART_LINES = 1500  # of 4 KB: a part is of many bytes, and so are its results
MAY_GROW = 10 * MB  # ids and rows of what is larger; side by side, such parts took 50 MB more


def peak_bytes(stack: Stack, parts: int) -> int:
    """Return the worker's highest resident memory while a drop of so many parts goes all its way."""
    worker = Path(f"/proc/{stack.host.worker_pid()}")
    (worker / "clear_refs").write_text("5")  # the kernel starts anew with the peak
    path = stack.user.drop("memory.jsonl", jsonl(*lines(parts * PART_LINES, "x" * 3_800)))
    report = stack.user.wait(path, seconds=300)
    assert report["counts"]["succeeded"] == parts * PART_LINES
    assert len(report["batches"]) == parts
    peak = re.search(r"^VmHWM:\s+(\d+) kB", (worker / "status").read_text(), re.MULTILINE)
    assert peak
    return int(peak[1]) * 1024


def test_memory_does_not_grow_with_the_parts_of_a_drop() -> None:
    service = {"speed": 1000, "seconds_per_line": 0.0}
    with Stack({"MAX_PART_REQUESTS": str(PART_LINES)}, service=service) as stack:
        few, many = (peak_bytes(stack, parts) for parts in (2, 8))
    assert many < few + MAY_GROW
