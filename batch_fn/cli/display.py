"""The output of the commands: progress, and jobs as plain lines."""

import sys
import time
from collections import Counter

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from batch_fn.core.jobs import Outcome, PartState
from batch_fn.queries.job_detail import JobDetail

DOING = {
    PartState.WAITING: "to be sent",
    PartState.CLAIMED: "being sent",
    PartState.BUNDLED: "waiting to be bundled",
    PartState.ENDED: "not sent",
    PartState.SETTLED: "not sent",
}
"""The state of a part that has no batch."""
PLAIN_WIDTH = 160


class Display:
    """Shows progress: bars on a terminal, else a plain line for each change of state, with the seconds so far."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._began = time.monotonic()
        columns = (TextColumn("{task.description}", markup=False), BarColumn(30))
        state = TextColumn("{task.fields[state]}", markup=False)
        self._bars = Progress(*columns, state, console=self._console) if self._console.is_terminal else None
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, str] = {}

    def show(self, name: str, state: str, done: int = 0, total: int | None = None) -> None:
        """Show the state of something, and how much of it is done."""
        name = printable(name)
        if self._bars is None:
            if self._said.get(name) != state:
                seconds = time.monotonic() - self._began
                self._console.print(f"{seconds:5.1f} s  {name}: {state}", markup=False, soft_wrap=True)
        else:
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name, total=None, state="")
            self._bars.update(self._tasks[name], completed=done, total=total, state=state)
        self._said[name] = state

    def __enter__(self) -> "Display":
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()


def standing(detail: JobDetail) -> str:
    """Return the state of a job in a few words."""
    status, counts, progress = detail["status"], detail["counts"], detail["progress"]
    if status == Outcome.REJECTED:
        return f"{status}: {detail['finding_count']} findings, nothing was sent"
    if status in Outcome:
        return f"{status}: {counts['succeeded']} succeeded, {counts['failed']} failed"
    so_far = f", {progress['failed_so_far']} failed so far" if progress["failed_so_far"] else ""
    done = f", {done_count(detail)}/{progress['requests']}{so_far}" if progress["requests"] else ""
    doing = Counter(_doing(part) for part in detail["parts"] if part["state"] != PartState.SETTLED)
    parts = (f"{count} {each}" if doing.total() > 1 else each for each, count in doing.items())
    return ": ".join(filter(None, (f"{status}{done}", "; ".join(parts))))


def _doing(part: JobDetail) -> str:
    return f"{_how(part)} (attempt {part['attempt']})" if part["attempt"] > 1 else _how(part)


def _how(part: JobDetail) -> str:
    if part["waits_for"]:
        return f"waits: {printable(part['waits_for'])}"
    return printable(part["batch_status"] or DOING[part["state"]])


def done_count(detail: JobDetail) -> int:
    """Return how many requests of a job have their final result."""
    return int(detail["progress"]["completed"] + detail["progress"]["failed"])


def summary(detail: JobDetail) -> list[str]:
    """Return plain lines with the state of a job and its findings."""
    head = f"{detail['job_id']}  {printable(detail['input']['name'])}  {standing(detail)}"
    return [head, *(_finding(finding) for finding in detail["findings"])]


def _finding(finding: JobDetail) -> str:
    return f"  line {finding['line']}  {printable(finding['code'])}  {printable(finding['message'])}"


def outline(detail: JobDetail) -> list[str]:
    """Return a job's detail as plain lines."""
    usage, estimate = detail["usage"], detail["estimate"] or {"prompt_tokens": 0, "cost": None}
    costs = (detail["cost"], estimate["cost"])
    return [
        *summary(detail),
        *map(_batch, detail["batches"]),
        *(f"{_attempt(part)}: {_how(part)}, 0 of {part['requests']}" for part in detail["parts"] if not part["batch"]),
        f"  tokens   {usage['prompt_tokens']} in, {usage['completion_tokens']} out; "
        f"estimated {estimate['prompt_tokens']} in",
        *([f"  cost     {money(costs[0])}; estimated {money(costs[1])} for the input"] if any(costs) else []),
        *(f"  {kind:8} {printable(place)}" for kind, place in detail["outputs"].items() if place),
    ]


def _batch(batch: JobDetail) -> str:
    done = f"{batch['succeeded']} succeeded, {batch['failed']} failed of {batch['requests']}"
    return f"{_attempt(batch)}: {printable(batch['status'])}, {done}, cost {money(batch['cost'])}"


def _attempt(each: JobDetail) -> str:
    """Return the name of an attempt of a part, with or without a batch."""
    return f"  part {each['part']}, attempt {each['attempt']}, {printable(each['deployment'])}"


def money(cost: float | None) -> str:
    """Return a cost as text; `-` if it is unknown."""
    return "-" if cost is None else f"{cost:.6f}".rstrip("0").rstrip(".")


def printable(text: str) -> str:
    """Return the text without control characters: names and messages are not ours, and a terminal acts on those."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape", "replace").decode() for each in text)


def open_console() -> Console:
    """Return the console for tables: as wide as the terminal, or wide enough to keep paths whole."""
    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)
