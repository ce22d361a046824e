"""`make demo`: all of batch_fn on this machine, once, from a dropped file to its results; then it checks itself."""

import contextlib
import json
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Never, Protocol

from azure.core.exceptions import AzureError
from rich.console import Console

from batch_fn.app import App
from batch_fn.cli.display import Display, open_console, summary
from batch_fn.cli.transfer import followed, save
from batch_fn.queries.job_detail import JobDetail
from devkit.azurite import AzuriteError
from devkit.host.process import HostError
from devkit.stack import IMPATIENT, Stack, shown

SAMPLES = Path(__file__).parent / "samples"
OUT = Path(__file__).parents[1] / "out" / "demo"
LIMIT_SECONDS = 110
"""The demo takes a quarter of this; whatever takes longer has gone wrong."""
SETTINGS = {"SETTLE_SECONDS": "4"}
"""A result that is missing is waited for: five minutes in Azure, some seconds where a second is 25 at the service."""

SPEED = 25
"""Service seconds in a second: quick, but slow enough that one can watch."""
DROPS = {
    "good.jsonl": "20 requests; by the `user` field of three, two fail at first, and one for good",
    "bad.jsonl": "10 lines, 7 of them wrong",
}
EXPECTED = {"good.jsonl": "partially_succeeded", "bad.jsonl": "rejected"}
SHOWN_ANSWERS = 3


class TooLongError(Exception):
    """The demo did not come to its end in time."""


def main() -> int:
    """Run the demo. Return the exit code: 0 if all went as it should."""
    console = open_console()
    began = time.monotonic()
    try:
        with _limit(LIMIT_SECONDS):
            wrong = _run(console)
    except (AzuriteError, HostError, TooLongError, AzureError, RuntimeError) as error:
        wrong = [str(error)]
    for sentence in wrong:
        console.print(f"WRONG: {sentence}", style="bold red", markup=False, soft_wrap=True)
    if not wrong:
        _say_what_next(console, time.monotonic() - began)
    return 1 if wrong else 0


def _run(console: Console) -> list[str]:
    """Show everything, and return what went wrong."""
    shutil.rmtree(OUT, ignore_errors=True)
    console.print("batch_fn, all of it on this machine: nothing leaves it, nothing costs anything.\n")
    console.print("1. Starting what stands in for Azure")
    stack = Stack(SETTINGS, service={"speed": SPEED}, host=IMPATIENT)
    with stack:
        try:
            return _show(console, stack)
        finally:
            OUT.mkdir(parents=True, exist_ok=True)
            (OUT / "host.log").write_text(stack.host.log_text())
            console.print("\nStopping everything")


def _show(console: Console, stack: Stack) -> list[str]:
    """Drop both files, follow them, show what came of them; return what is wrong."""
    _say_where(console, stack)
    console.print("\n2. Dropping two files into the container", stack.settings.input_container)
    drops = {stack.user.drop(name, (SAMPLES / name).read_bytes()).rpartition("/")[2]: name for name in DROPS}
    for name, what in DROPS.items():
        console.print(f"  {shown(SAMPLES / name)}: {what}", markup=False)
    console.print(f"\n3. Following them; a second here is {SPEED} seconds at the service")
    app = App(stack.settings)
    with Display(console) as display:
        jobs = {job["input"]["name"]: job for job in followed(app, drops, display)}
    console.print("\n4. The bad file: nothing of it was sent, and this is what to change\n")
    _show_results(console, app, jobs["bad.jsonl"])
    console.print("\n5. The good file: every request is in exactly one of output and errors\n")
    _show_answers(console, stack, jobs["good.jsonl"])
    _show_results(console, app, jobs["good.jsonl"])
    return _check(console, stack, jobs)


def _say_where(console: Console, stack: Stack) -> None:
    console.print(f"  storage        Azurite at {stack.user.blobs.url}")
    console.print(f"  Azure OpenAI   an emulator at {stack.service.url}")
    console.print(
        f"  Functions      a host at {stack.host.url}, running the app's {len(stack.host.functions)} functions"
    )


def _show_results(console: Console, app: App, job: JobDetail) -> None:
    """Show how it ended, and where the results lie: on disk, and in storage."""
    for line in summary(job):
        console.print(f"  {line}", markup=False, soft_wrap=True)
    for file, place in save(app, job, OUT).items():
        console.print(f"  {shown(file)}\n      from {place}", markup=False, soft_wrap=True)


def _show_answers(console: Console, stack: Stack, report: JobDetail) -> None:
    """Show the first answers, and every failure."""
    for line in stack.user.lines(report["outputs"]["output"])[:SHOWN_ANSWERS]:
        answer = line["response"]["body"]["choices"][0]["message"]["content"]
        console.print(f"  {line['custom_id']}  {answer}", markup=False, soft_wrap=True)
    console.print("  ...")
    for line in stack.user.lines(report["outputs"]["errors"]):
        said = line["error"] or line["response"]["body"]["error"]
        console.print(f"  {line['custom_id']}  failed: {said['message']}", markup=False, soft_wrap=True)


def _check(console: Console, stack: Stack, reports: dict[str, JobDetail]) -> list[str]:
    """Return what is wrong with the results, after saying so if nothing is."""
    wrong = [sentence for report in reports.values() for sentence in what_does_not_add_up(stack.user, report)]
    for name, report in reports.items():
        if report["status"] != EXPECTED[name]:
            wrong.append(f"{name} ended as {report['status']}, not as {EXPECTED[name]}.")
    paid = [line["custom_id"] for line in stack.service.executions() if line["succeeded"] > 1]
    if paid:
        wrong.append(f"The service answered these requests more than once: {', '.join(paid)}.")
    if not wrong:
        counts = reports["good.jsonl"]["counts"]
        console.print(
            f"\n6. It adds up: {counts['requests']} requests = {counts['succeeded']} succeeded + {counts['failed']} "
            "failed, and none was answered twice"
        )
    return wrong


class Reader(Protocol):
    """What the check needs of a user."""

    def read(self, place: str) -> bytes | None:
        """Return the content of a blob."""

    def lines(self, place: str | None) -> list[dict[str, Any]]:
        """Return the lines of an output or errors blob."""


def what_does_not_add_up(user: Reader, report: JobDetail) -> list[str]:
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


def _say_what_next(console: Console, seconds: float) -> None:
    console.print(f"\nDone in {seconds:.0f} seconds. Next:")
    console.print(f"  look at         {shown(OUT)}/ and {shown(SAMPLES)}/", markup=False)
    console.print("  keep it up      make run")
    console.print("  send your own   make drop FILE=my.jsonl    (in another terminal)")


@contextlib.contextmanager
def _limit(seconds: int) -> Iterator[None]:
    """Raise TooLongError in whatever runs after that many seconds; end as by Ctrl-C when the terminal is closed."""

    def too_long(number: int, frame: FrameType | None) -> Never:  # noqa: ARG001
        raise TooLongError(
            f"The demo was not done after {seconds} seconds; what the host did is in {shown(OUT)}/host.log."
        )

    signal.signal(signal.SIGALRM, too_long)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("The demo was stopped.")
