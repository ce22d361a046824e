"""What `make demo` and `make drop` share: follow drops to their reports, and bring the results to disk."""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from batch_fn.jobs import Job, JobState, Part, PartState
from batch_fn.ledger import Ledger, Work
from batch_fn.settings import Settings
from devkit.user import User

LOOK_SECONDS = 0.25
SHOWN_FINDINGS = 20
PLAIN_WIDTH = 120

IMPATIENT = {"max_poll_seconds": 0.5}
"""An option of the host, where somebody looks on: it looks into an idle queue this often."""

type Report = dict[str, Any]


class Row(NamedTuple):
    """One line of what is to be seen: a drop, or one batch of its job."""

    label: str
    state: str
    done: int = 0
    total: int | None = None
    """None as long as it is not known, which it is when the drop has been read."""
    batch_id: str = ""


class Display(Protocol):
    """Shows rows while they change."""

    def show(self, key: str, row: Row) -> None:
        """Show the row of that key, in the place of what it was before."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Bars:
    """On a terminal: a progress bar for each row."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}", markup=False), BarColumn(30), MofNCompleteColumn())
        self._progress = Progress(*columns, TextColumn("{task.fields[state]}", markup=False), console=console)
        self._tasks: dict[str, TaskID] = {}

    def show(self, key: str, row: Row) -> None:
        """Move the row's bar."""
        if key not in self._tasks:
            self._tasks[key] = self._progress.add_task(row.label, total=None, state="")
        self._progress.update(self._tasks[key], completed=row.done, total=row.total, state=row.state)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


class Lines:
    """Anywhere else: a plain line for each change."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()

    def show(self, key: str, row: Row) -> None:  # noqa: ARG002 - a line that is written stays
        """Write the row."""
        done = f"{row.done}/{row.total} " if row.total else ""
        seconds = time.monotonic() - self._began
        self._console.print(f"{seconds:5.1f} s  {row.label}: {done}{row.state}", markup=False, soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class Follower:
    """Follows drops to their reports. Where a job stands is read from the ledger: the tables are the truth."""

    def __init__(self, user: User, ledger: Ledger, console: Console) -> None:
        self._user, self._ledger = user, ledger
        self._display: Display = Bars(console) if console.is_terminal else Lines(console)
        self._rows: dict[str, Row] = {}

    def follow(self, drops: dict[str, str], still_there: Callable[[], object] = lambda: None) -> dict[str, Report]:
        """Return the report of each drop, as soon as all are there. `drops`: what to call each, by its path.

        `still_there` is called now and then; what it raises ends the following.
        """
        reports: dict[str, Report] = {}
        with self._display:
            while True:
                for path in [path for path in drops if path not in reports]:
                    report = self._look(path, drops[path])
                    if report is not None:
                        reports[path] = report
                if len(reports) == len(drops):
                    return reports
                still_there()
                time.sleep(LOOK_SECONDS)

    def _look(self, path: str, name: str) -> Report | None:
        """Show where one drop stands. Return its report, None if it is not written yet."""
        report = self._user.report(path)
        if report is None:
            work = self._ledger.work(path.rpartition("/")[2])
            for key, row in rows_in_hand(name, work).items():
                self._show(f"{path} {key}", row)
            return None
        for key, row in list(self._rows.items()):
            for batch in report["batches"]:
                if row.batch_id == batch["id"]:
                    self._show(key, row._replace(state=_batch_ended(batch), done=batch["requests"]))
        requests = report["counts"]["requests"]
        self._show(f"{path} job", Row(name, ended(report), requests, requests))
        return report

    def _show(self, key: str, row: Row) -> None:
        if self._rows.get(key) != row:
            self._rows[key] = row
            self._display.show(key, row)


def rows_in_hand(name: str, work: Work | None) -> dict[str, Row]:
    """Return what is to be seen of a drop whose report is not written yet: its job, and each attempt of its parts."""
    if work is None:
        return {"job": Row(name, "dropped")}
    parts = [held.row for held in work.parts]
    rows = {"job": _job_row(name, work.job.row, parts)}
    return rows | {part.key: _part_row(name, part) for part in parts}


def _job_row(name: str, job: Job, parts: list[Part]) -> Row:
    match job.state:
        case JobState.DROPPED:
            state = "is read and checked"
        case JobState.ACCEPTED:
            count = len({part.number for part in parts})
            state = f"accepted, in {count} part{'s' if count > 1 else ''}"
        case JobState.FINISHING:
            state = "results are written"
    return Row(name, state, sum(part.succeeded + part.failed for part in parts), job.requests or None)


def _part_row(name: str, part: Part) -> Row:
    label = f"{name}, part {part.number}, attempt {part.attempt}"
    done = part.completed + part.failed_so_far
    match part.state:
        case PartState.WAITING:
            state = f"waits: {part.wait.message or part.wait.reason}" if part.wait else "waits to be sent"
        case PartState.CLAIMED:
            state = "is sent to the service"
        case PartState.OPEN:
            state = f"{part.batch_status}: {part.completed} completed, {part.failed_so_far} failed"
        case PartState.ENDED:
            state, done = f"{part.batch_status or 'refused'}: results are collected", part.requests
        case PartState.SETTLED:
            how = part.batch_status or ("refused" if part.errors else "split")
            state, done = _settled(how, part.requests, part.succeeded, part.failed), part.requests
    return Row(label, state, done, part.requests, part.batch_id)


def _batch_ended(batch: dict[str, Any]) -> str:
    return _settled(batch["status"], batch["requests"], batch["succeeded"], batch["failed"])


def _settled(how: str, requests: int, succeeded: int, failed: int) -> str:
    again = requests - succeeded - failed
    return f"{how}: {succeeded} succeeded, {failed} failed" + (f", {again} tried again" if again else "")


def ended(report: Report) -> str:
    """Return in words how a job ended."""
    if report["status"] == "rejected":
        return f"rejected: {report['finding_count']} findings, nothing was sent"
    counts = report["counts"]
    return f"{report['status']}: {counts['succeeded']} succeeded, {counts['failed']} failed"


def findings_table(report: Report) -> Table:
    """Return the report's findings as a table: where, which code, and what to change."""
    findings, count = report["findings"][:SHOWN_FINDINGS], report["finding_count"]
    rest = Text(f"the first {len(findings)} of {count}; all are in {report['outputs']['errors']}")
    table = Table(box=SIMPLE_HEAD, caption=rest if count > len(findings) else None, caption_justify="left")
    table.add_column("line", justify="right")
    table.add_column("code", no_wrap=True)
    table.add_column("what to change", overflow="fold")
    for finding in findings:
        # As Text, so that brackets in a message are not taken for markup.
        table.add_row(str(finding["line"]), finding["code"], Text(finding["message"]))
    return table


def save(user: User, settings: Settings, path: str, report: Report, folder: Path) -> dict[Path, str]:
    """Write the results of a job below `folder`. Return each file with the place it came from, the report last."""
    outputs = {"output": report["outputs"]["output"], "errors": report["outputs"]["errors"]}
    files = {folder / f"{path}.{kind}.jsonl": place for kind, place in outputs.items() if place}
    files[folder / f"{path}.report.json"] = f"{settings.reports_container}/{path}.json"
    for file, place in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        container, _, name = place.partition("/")
        with file.open("wb") as f:
            user.blobs.get_blob_client(container, name).download_blob().readinto(f)
    return files


def show_files(console: Console, files: dict[Path, str]) -> None:
    """Say where the results lie: on disk, and in storage."""
    for file, place in files.items():
        console.print(f"  {shown(file)}\n      from {place}", markup=False, soft_wrap=True)


def shown(file: Path) -> Path:
    """Return the path as a user in the project's folder would write it."""
    return file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file


class Reader(Protocol):
    """What the check needs of a user."""

    def read(self, place: str) -> bytes | None:
        """Return the content of a blob."""

    def lines(self, place: str | None) -> list[dict[str, Any]]:
        """Return the lines of an output or errors blob."""


def what_does_not_add_up(user: Reader, report: Report) -> list[str]:
    """Return a sentence for each promise that the results of a job do not keep; none if all is well."""
    outputs = report["outputs"]
    output, errors = user.lines(outputs["output"]), user.lines(outputs["errors"])
    if report["status"] == "rejected":
        if not output and report["finding_count"] == len(errors):
            return []
        return [f"There are {report['finding_count']} findings, but {len(errors)} lines in the errors blob."]
    dropped = [json.loads(line) for line in (user.read(outputs["archive"]) or b"").splitlines() if line.strip()]
    found = {"requests": len(dropped), "succeeded": len(output), "failed": len(errors)}
    wrong = []
    if report["counts"] != found or len(dropped) != len(output) + len(errors):
        wrong.append(f"The report counts {report['counts']}, but the blobs have {found}.")
    if Counter(_custom_ids(dropped)) != Counter(_custom_ids(output + errors)):
        wrong.append("The requests in output and errors are not those that were dropped, each once.")
    return wrong


def _custom_ids(lines: list[dict[str, Any]]) -> list[str]:
    return [line["custom_id"] for line in lines]


def open_console() -> Console:
    """Return the console to write to: as wide as the terminal, or wide enough to keep paths whole."""
    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)
