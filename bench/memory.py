"""Peak resident memory of the real worker process, step by step, for drops of any size."""

import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench.data import small_drop, write_bad, write_drop, write_one_line
from bench.measuring import MB, Sizes
from bench.results import Result, Row, at_most
from devkit.stack import Stack

LIMIT = 64.0  # MB over what it is after start
PATIENCE = 900.0  # seconds
MARKS = {"validation": "job_accepted", "submission": "batch_created", "collection": "job_finished"}
"""The steps of a job, and what the app's log says at the end of each."""


class Peaks(NamedTuple):
    """Resident memory of the worker, in MB."""

    start: float
    """As soon as it runs."""
    warm: float
    """After a first small job: the SDKs and clients are there."""
    steps: dict[str, float]
    """The peak of each step."""
    after: float
    """What is left a moment after the job."""

    @property
    def over(self) -> float:
        """The highest peak, over what there was at the start."""
        return max(self.steps.values()) - self.start


def run(sizes: Sizes, folder: Path) -> Result:
    """Measure."""
    rows: list[Row] = []
    details = ["Peak resident memory of the worker, MB:", ""]
    details += ["| drop | after start | after a small job | validation | submission | collection | left |"]
    details += ["|---|---|---|---|---|---|---|"]
    for name, write in _drops(sizes):
        path = folder / "drop.jsonl"
        write(path)
        peaks = _through_the_worker(path)
        rows.append(_row(name, peaks))
        cells = [f"{peaks.steps[step]:.0f}" if step in peaks.steps else "-" for step in MARKS]
        details.append(f"| {name} | {peaks.start:.0f} | {peaks.warm:.0f} | {' | '.join(cells)} | {peaks.after:.0f} |")
        path.unlink()
    return Result(rows=rows, details=[*details, ""])


def _drops(sizes: Sizes) -> list[tuple[str, Callable[[Path], object]]]:
    small, middle, large = sizes.of((20, 200, 1000), (2, 20, 60))
    bad, line = sizes.of((200, 1000), (20, 200))
    return [
        *((f"{size} MB", partial(write_drop, size=size * MB)) for size in (small, middle, large)),
        (f"{bad} MB, every line bad", partial(write_bad, size=bad * MB)),
        (f"{line} MB in a single line", partial(write_one_line, size=line * MB)),
    ]


def _row(name: str, peaks: Peaks) -> Row:
    return at_most(
        f"peak memory, {name}",
        peaks.over,
        LIMIT,
        ours=f"{max(peaks.steps.values()):.0f} MB",
        compared=f"after start: {peaks.start:.0f} MB; after a small job: {peaks.warm:.0f} MB",
        ratio=f"+{peaks.over:.0f} MB; +{max(peaks.steps.values()) - peaks.warm:.0f} MB",
        aim=f"<= +{LIMIT:.0f} MB over start",
    )


def _through_the_worker(path: Path) -> Peaks:
    """Send one drop through a stack of its own."""
    service = {"speed": 1000, "seconds_per_line": 0.0}
    with Stack(service=service, host={"event_seconds": 0.2, "max_poll_seconds": 0.5}) as stack:
        worker = Path(f"/proc/{stack.host.worker_pid()}")
        start = _resident(worker, "VmRSS")
        stack.user.wait(stack.user.drop("small.jsonl", small_drop(1)))
        _until(lambda: "job_finished" in stack.host.log_text())
        warm = _resident(worker, "VmRSS")
        with path.open("rb") as file:
            job_id = stack.user.drop(path.name, file).rpartition("/")[2]
        steps = _watched(stack, worker, job_id)
        time.sleep(1)
        return Peaks(start, warm, steps, _resident(worker, "VmRSS"))


def _watched(stack: Stack, worker: Path, job_id: str) -> dict[str, float]:
    """Return the peak of each step. Parts go at the same time: the last batch made ends the submission."""
    peaks: dict[str, float] = {}
    _forget_peak(worker)
    marks = list(MARKS.items())
    for step, mark in marks:
        _until(partial(_said_or_finished, stack, job_id, mark))
        peaks[step] = _resident(worker, "VmHWM")
        _forget_peak(worker)
        if step != marks[-1][0] and _said(stack, job_id, "job_finished"):
            break  # it was rejected
    return peaks


def _said_or_finished(stack: Stack, job_id: str, event: str) -> bool:
    return _said(stack, job_id, event) or _said(stack, job_id, "job_finished")


def _said(stack: Stack, job_id: str, event: str) -> bool:
    """Return whether the app's log has that event of the job, as often as the job has parts."""
    events = re.findall(rf'"event": "{event}", "job_id": "{job_id}".*', stack.host.log_text())
    if event != "batch_created" or not events:
        return bool(events)
    accepted = re.search(rf'"job_accepted", "job_id": "{job_id}".*"parts": (\d+)', stack.host.log_text())
    return accepted is not None and len(events) >= int(accepted[1])


def _until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not happened():
        if time.monotonic() > end:
            raise TimeoutError(f"it did not happen within {PATIENCE:.0f} seconds")
        time.sleep(0.05)


def _resident(worker: Path, line: str) -> float:
    """Return a line of the process's status, in MB."""
    found = re.search(rf"^{line}:\s+(\d+) kB", (worker / "status").read_text(), re.MULTILINE)
    assert found  # noqa: S101 - Linux says it of every process
    return int(found[1]) * 1024 / MB


def _forget_peak(worker: Path) -> None:
    """Have the kernel start anew with the highest resident memory."""
    (worker / "clear_refs").write_text("5")
