"""The command line: drop, jobs, show, cancel, retry, validate and fetch, straight on storage and service.

Results go to stdout, and progress to stderr: bars on a terminal, a plain line for each change anywhere else. The exit
code is 0 if all is well, 1 if lines failed, findings were found or something went wrong, 2 for wrong usage or settings.
"""

import contextlib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from batch_fn.app import App
from batch_fn.containers import CHUNK_BYTES
from batch_fn.jobs import REPORTED_FINDINGS, Job, job_id, result_path
from batch_fn.ledger import Finished, NoSuchJobError, Work
from batch_fn.reports import stamp
from batch_fn.requests import Finding, check
from batch_fn.settings import SettingError, Settings

SETTINGS_FILE = Path("local.settings.json")
FIRST_LOOK_SECONDS, LAST_LOOK_SECONDS = 0.25, 5.0
"""How long `--wait` waits between two looks: at first, and for a job that takes its time."""
PLAIN_WIDTH = 160
INTERRUPTED = 130
JOB_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{10}")

type Report = dict[str, Any]


class CommandError(Exception):
    """What was asked for cannot be done; the sentence says why and what to do."""


def main(arguments: list[str]) -> int:
    """Run a command. Return the exit code."""
    # The clients log what they send; a terminal is no place for it.
    logging.getLogger("batch_fn").setLevel(logging.CRITICAL)
    try:
        return int(commands.main(arguments, prog_name="python -m batch_fn", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _say("Stopped. What was dropped goes on without this command.")
        return INTERRUPTED
    except SettingError as error:
        _say(f"{error} Set it in the environment, or under Values in {SETTINGS_FILE} of the current folder.")
        return 2
    except CommandError as error:
        _say(str(error))
    except OSError as error:
        _say(f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "))
    except Exception as error:
        if not _is_told(error):
            raise
        _say(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
    return 1


def _is_told(error: Exception) -> bool:
    """Return whether the error carries a sentence for the user, and not a mistake of ours."""
    from azure.core.exceptions import AzureError

    from batch_fn.cancelling import JobFinishedError
    from batch_fn.openai_batches import ServiceTroubleError
    from batch_fn.retrying import JobInHandError, NothingToRetryError

    told = (NoSuchJobError, JobFinishedError, JobInHandError, NothingToRetryError, ServiceTroubleError, AzureError)
    return isinstance(error, told)


def environment(file: Path = SETTINGS_FILE) -> dict[str, str]:
    """Return the environment, with what `local.settings.json` adds to it, as `func` does. Raises: CommandError."""
    values: Mapping[str, object] = {}
    if file.is_file():
        try:
            values = json.loads(file.read_text(encoding="utf-8-sig")).get("Values") or {}
        except (ValueError, AttributeError) as error:
            raise CommandError(f"{file} cannot be read as JSON: {error}") from None
    return {name: str(value) for name, value in values.items()} | dict(os.environ)


def _app() -> App:
    for name in ("azure", "httpx2"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return App(Settings.read(environment()), signed_in=True)


json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON, for scripts.")
out_option = click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Bring output, errors and report into this folder."
)
files_argument = click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
deployment_option = click.option("--deployment", help="Fills in the model of lines that have none.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """Drop files, and see to their jobs."""


@commands.command()
@files_argument
@deployment_option
@click.option("--as", "name", help="The blob's name in the inbox, for one file; its file name if not given.")
@click.option("--wait", is_flag=True, help="Wait until the jobs are done.")
@out_option
@json_option
def drop(
    files: tuple[Path, ...], deployment: str | None, name: str | None, *, wait: bool, out: Path | None, as_json: bool
) -> int:
    """Upload files into the inbox; each becomes a job. --out waits as well."""
    names = [name] if name else [file.name for file in files]
    if len(names) != len(files) or len(set(names)) != len(names):
        raise click.UsageError("Two files cannot have one name in the inbox: drop them one by one, each with --as.")
    app = _app()
    drops: dict[str, str] = {}
    with Display() as display:
        for file, each in zip(files, names, strict=True):
            dropped = upload(app, file, each, deployment, display)
            drops[dropped] = each
    if not (wait or out):
        rows = [{"job_id": dropped, "name": each} for dropped, each in drops.items()]
        _write(as_json, {"jobs": rows}, [f"{row['job_id']}  {_plain(row['name'])}" for row in rows])
        return 0
    return _wait_for(app, drops, out, as_json=as_json)


@commands.command()
@click.option("--status", help="Only these, parted by commas: succeeded, failed, accepted ...")
@click.option("--prefix", default="", help="Only drops whose name begins with this.")
@click.option("--since", type=click.DateTime(), help="Only jobs dropped at or after this time, UTC.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="At most so many.")
@json_option
def jobs(status: str | None, prefix: str, since: datetime | None, limit: int, *, as_json: bool) -> int:
    """List jobs, the last dropped first."""
    wanted = {each.strip() for each in (status or "").split(",") if each.strip()}
    began = since.replace(tzinfo=UTC) if since else None
    rows = [*islice(_jobs(_app(), wanted, prefix, began), limit)]
    if as_json:
        _write(True, {"jobs": rows}, [])
        return 0
    table = Table(box=SIMPLE_HEAD)
    for title in ("job", "name", "status", "dropped", "requests", "succeeded", "failed", "findings"):
        table.add_column(title, no_wrap=title == "job", overflow="fold")
    for row in rows:
        counts = row["counts"]
        numbers = (counts["requests"], counts["succeeded"], counts["failed"], row["finding_count"])
        texts = (row["job_id"], _plain(row["name"]), row["status"], row["dropped"], *map(str, numbers))
        table.add_row(*map(Text, texts))
    _console().print(table)
    return 0


@commands.command()
@click.argument("job", metavar="ID")
@json_option
def show(job: str, *, as_json: bool) -> int:
    """Show where a job stands; a finished one's report."""
    app = _app()
    _check_id(job)
    work, finished = app.ledger.work(job), app.ledger.finished(job)
    if work is not None and not work.job.row.bundle:
        detail = in_hand(work)
    elif finished is not None:
        detail = _report(app, finished)
    else:
        raise NoSuchJobError(job)
    _write(as_json, detail, _outline(detail))
    return 0


@commands.command()
@click.argument("job", metavar="ID")
@json_option
def cancel(job: str, *, as_json: bool) -> int:
    """Cancel a job: what was not sent is not sent, what was answered is kept."""
    from batch_fn.cancelling import cancel as cancel_job

    _check_id(job)
    now = cancel_job(_app(), job)
    status = "cancelled" if isinstance(now, Finished) else "cancelling"
    _write(as_json, {"job_id": job, "status": status}, [f"{job}  {status}"])
    return 0


@commands.command()
@click.argument("job", metavar="ID")
@click.option("--wait", is_flag=True, help="Wait until the job is done again.")
@out_option
@json_option
def retry(job: str, *, wait: bool, out: Path | None, as_json: bool) -> int:
    """Send a finished job's failed lines again."""
    from batch_fn.retrying import retry as retry_job

    _check_id(job)
    app = _app()
    entered = retry_job(app, job)
    if wait or out:
        return _wait_for(app, {job: entered.name}, out, as_json=as_json)
    _write(as_json, {"job_id": job, "status": "retrying"}, [f"{job}  retrying"])
    return 0


@commands.command()
@files_argument
@deployment_option
@json_option
def validate(files: tuple[Path, ...], deployment: str | None, *, as_json: bool) -> int:
    """Check files as the app would, with no network: its findings, one a line, as the errors blob has them.

    Needs no settings; those that are there count (ALLOWED_URLS, MAX_DROP_REQUESTS, MIXED_FILES ...).
    """
    # Where storage and service are does not matter here.
    given = {name: value for name, value in environment().items() if value.strip()}
    settings = Settings.read({"BatchStorage": "none", "AZURE_OPENAI_ENDPOINT": "https://none"} | given)
    results: list[dict[str, Any]] = []
    with Display() as display:
        for file in files:
            requests, count, first = 0, 0, list[Finding]()
            for each in checked(file, settings, deployment, display):
                if not isinstance(each, Finding):
                    requests += 1
                    continue
                count += 1
                if as_json:
                    first += [each] if count <= REPORTED_FINDINGS else []
                else:
                    sys.stdout.buffer.write(msgspec.json.encode(each) + b"\n")
            sys.stdout.flush()
            results.append({"file": str(file), "requests": requests, "finding_count": count, "findings": first})
    found = any(result["finding_count"] for result in results)
    if as_json:
        _write(True, {"files": results}, [])
    else:
        for result in results:
            good = f"{result['requests']:,} good lines, {result['finding_count']:,} findings"
            _say(f"{_plain(result['file'])}: {good}")
    return 1 if found else 0


@commands.command()
@click.argument("job", metavar="ID")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("out"), show_default=True)
@json_option
def fetch(job: str, out: Path, *, as_json: bool) -> int:
    """Bring a finished job's output, errors and report to disk."""
    app = _app()
    _check_id(job)
    finished = app.ledger.finished(job)
    if finished is None:
        if app.ledger.work(job) is None:
            raise NoSuchJobError(job)
        raise CommandError(f"Job {job} is not finished yet. `python -m batch_fn show {job}` says where it stands.")
    files = save(app, finished, out)
    _write(as_json, {"job_id": job, "files": [*map(str, files)]}, [_plain(str(file)) for file in files])
    return 0


class Display:
    """Shows what goes on, on stderr: bars on a terminal, else a plain line for each change of state."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(30))
        state = TextColumn("{task.fields[state]}", markup=False)
        self._bars = Progress(*columns, state, console=self._console) if self._console.is_terminal else None
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, str] = {}

    def show(self, name: str, state: str, done: int = 0, total: int | None = None) -> None:
        """Show how far something is."""
        name = _plain(name)
        if self._bars is None:
            if self._said.get(name) != state:
                _say(f"{name}: {state}")
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


def upload(app: App, file: Path, name: str, deployment: str | None, display: Display) -> str:
    """Upload a file into the inbox. Return the id of its job."""
    size = file.stat().st_size
    metadata = {"deployment": deployment} if deployment else None

    def progress(done: int, _: int | None) -> None:
        display.show(name, "is uploaded", done, size)

    with file.open("rb") as content:
        answer = app.containers.drop_client(name).upload_blob(
            content, overwrite=True, metadata=metadata, progress_hook=progress
        )
    return job_id(app.settings.input_container, name, str(answer["etag"]), answer["last_modified"])


def checked(file: Path, settings: Settings, deployment: str | None, display: Display) -> Iterator[Any]:
    """Yield what the app finds in a file: a Request for each good line, else its Findings."""
    from batch_fn.intake import rules_of, too_large

    size = file.stat().st_size
    if size > settings.max_drop_bytes:
        yield too_large(size, settings.max_drop_bytes)
        return
    with file.open("rb") as content:
        yield from check(_chunks(content.read, str(file), size, display), rules_of(settings, deployment))


def _chunks(read: Callable[[int], bytes], name: str, size: int, display: Display) -> Iterator[bytes]:
    done = 0
    while chunk := read(CHUNK_BYTES):
        yield chunk
        done += len(chunk)
        display.show(name, "is checked", done, size)


def _wait_for(app: App, drops: Mapping[str, str], out: Path | None, *, as_json: bool) -> int:
    """Wait until the jobs are done, bring their results if asked for. Return the exit code."""
    results: list[dict[str, Any]] = []
    with Display() as display:
        for finished in _followed(app, drops, display):
            files = save(app, finished, out) if out else []
            results.append({"report": _report(app, finished), "files": [*map(str, files)]})
    lines: list[str] = []
    for result in results:
        report = result["report"]
        lines += [*_summary(report), *(f"  {_plain(file)}" for file in result["files"])]
    _write(as_json, {"jobs": results}, lines)
    return 0 if all(result["report"]["status"] == "succeeded" for result in results) else 1


def _followed(app: App, drops: Mapping[str, str], display: Display) -> Iterator[Finished]:
    """Yield each job when it is finished."""
    left, pause = dict(drops), FIRST_LOOK_SECONDS
    while left:
        for job, name in [*left.items()]:
            # Work first: a job that leaves it is in the history by then, with the outcome of its last run.
            work = app.ledger.work(job)
            finished = app.ledger.finished(job) if work is None else None
            if finished is not None:
                total = finished.requests
                display.show(name, str(finished.status), total, total)
                del left[job]
                yield finished
            elif work is None:
                display.show(name, "dropped")
            else:
                detail = in_hand(work)
                progress = detail["progress"]
                done = progress["completed"] + progress["failed"]
                state = f"{detail['status']}, {done}/{progress['requests']}" if done else detail["status"]
                display.show(name, state, done, progress["requests"] or None)
        if left:
            time.sleep(pause)
            pause = min(pause * 1.2, LAST_LOOK_SECONDS)


def in_hand(work: Work) -> dict[str, Any]:
    """Return what is to be known of a job in hand, ready for JSON."""
    job = work.job.row
    parts = [held.row for held in work.parts]
    return {
        "job_id": job.job_id,
        "status": _status(job),
        "input": {"container": job.container, "name": job.name, "bytes": job.bytes, "requests": job.requests},
        "progress": {
            "requests": job.requests,
            # What an attempt has settled stays; of one that is open, what the service counts.
            "completed": sum(part.succeeded or part.completed for part in parts),
            "failed": sum(part.failed or part.failed_so_far for part in parts),
        },
        "parts": [
            {
                "part": part.number,
                "attempt": part.attempt,
                "state": part.state,
                "deployment": part.deployment,
                "batch": part.batch_id or None,
                "batch_status": part.batch_status or None,
                "requests": part.requests,
                "waits_for": part.wait.reason if part.wait else None,
            }
            for part in parts
        ],
        "times": {"dropped": stamp(job.dropped_at), "accepted": stamp(job.accepted_at)},
    }


def _status(job: Job) -> str:
    if job.cancelled:
        return "cancelling"
    return "retrying" if job.retried_at else str(job.state)


def _jobs(app: App, wanted: set[str], prefix: str, since: datetime | None) -> Iterator[dict[str, Any]]:
    """Yield the jobs in hand and then the finished ones; of the history, no more is read than is asked for."""
    hand = {job.job_id: job for job in app.ledger.jobs_in_hand() if not job.bundle}
    for _, job in sorted(hand.items(), reverse=True):
        row = _row(job, _status(job), 0, 0, 0)
        if _is_wanted(row, wanted, prefix) and (since is None or job.dropped_at >= since):
            yield row
    for finished in app.ledger.history():
        if since is not None and finished.dropped_at < since:
            return
        row = _row(finished, str(finished.status), finished.succeeded, finished.failed, finished.finding_count)
        if finished.job_id not in hand and _is_wanted(row, wanted, prefix):
            yield row


def _row(job: Job | Finished, status: str, succeeded: int, failed: int, findings: int) -> dict[str, Any]:
    counts = {"requests": job.requests, "succeeded": succeeded, "failed": failed}
    return {
        "job_id": job.job_id,
        "name": job.name,
        "status": status,
        "dropped": stamp(job.dropped_at),
        "counts": counts,
        "finding_count": findings,
    }


def _is_wanted(row: dict[str, Any], wanted: set[str], prefix: str) -> bool:
    return (not wanted or row["status"] in wanted) and row["name"].startswith(prefix)


def _report(app: App, finished: Finished) -> Report:
    report = app.containers.report(result_path(finished.name, finished.job_id))
    if report is None:
        raise CommandError(f"The report {finished.report} of job {finished.job_id} is gone: somebody deleted it.")
    return report


def save(app: App, finished: Finished, folder: Path) -> list[Path]:
    """Write a job's results below `folder`, the report last. Return the files. Raises: CommandError."""
    report = _report(app, finished)
    path = result_path(finished.name, finished.job_id)
    if not (folder / path).resolve().is_relative_to(folder.resolve()):
        path = finished.job_id  # a name with `..` in it must not lead out of the folder
    saved: list[Path] = []
    places = {kind: report["outputs"][kind] for kind in ("output", "errors")}
    for kind, place in [*places.items(), ("report", finished.report)]:
        if place is None:
            continue
        file = folder / f"{path}.{kind}.{'json' if kind == 'report' else 'jsonl'}"
        file.parent.mkdir(parents=True, exist_ok=True)
        container, _, name = place.partition("/")
        half = file.with_name(f"{file.name}.part")  # what has its own name is whole, whenever we are stopped
        with half.open("wb") as content:
            for chunk in app.containers.read(container, name):
                content.write(chunk)
        half.replace(file)
        saved.append(file)
    return saved


def _summary(report: Report) -> list[str]:
    counts = report["counts"]
    if report["status"] == "rejected":
        how = f"{report['finding_count']} findings, nothing was sent"
    else:
        how = f"{counts['succeeded']} succeeded, {counts['failed']} failed"
    head = f"{report['job_id']}  {_plain(report['input']['name'])}  {report['status']}: {how}"
    return [head, *(_finding(finding) for finding in report["findings"])]


def _finding(finding: dict[str, Any]) -> str:
    return f"  line {finding['line']}  {_plain(finding['code'])}  {_plain(finding['message'])}"


def _outline(detail: dict[str, Any]) -> list[str]:
    """Return a job's detail as plain lines."""
    if "counts" in detail:
        outputs = [f"  {kind:8} {_plain(place)}" for kind, place in detail["outputs"].items() if place]
        return [*_summary(detail), *outputs]
    progress = detail["progress"]
    head = (
        f"{detail['job_id']}  {_plain(detail['input']['name'])}  {detail['status']}: "
        f"{progress['completed']} completed, {progress['failed']} failed, of {progress['requests']}"
    )
    parts = [
        f"  part {part['part']}, attempt {part['attempt']}, {part['requests']} requests, {_plain(part['deployment'])}: "
        f"{part['waits_for'] or part['batch_status'] or part['state']}"
        for part in detail["parts"]
    ]
    return [head, *parts]


def _check_id(job: str) -> None:
    if not JOB_ID.fullmatch(job):
        raise NoSuchJobError(_plain(job))


def _plain(text: str) -> str:
    """Return the text with nothing in it that a terminal would obey: names and messages come from others."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape", "replace").decode() for each in text)


def _write(as_json: bool, document: dict[str, Any], lines: list[str]) -> None:
    """Write a result to stdout: the document as JSON, or the lines."""
    text = msgspec.json.format(msgspec.json.encode(document), indent=2).decode() if as_json else "\n".join(lines)
    click.echo(text)


def _say(text: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        click.echo(text, err=True)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)
