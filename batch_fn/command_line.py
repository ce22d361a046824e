"""The command line: drop, jobs, show, cancel, retry, validate and fetch, straight on storage and service.

Results go to stdout, and progress to stderr: bars on a terminal, a plain line for each change anywhere else. The exit
code is 0 if all is well, 1 if lines failed, findings were found or something went wrong, 2 for wrong usage or settings.
"""

import contextlib
import json
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from batch_fn import overview
from batch_fn.app import App
from batch_fn.cancelling import JobFinishedError
from batch_fn.containers import CHUNK_BYTES
from batch_fn.jobs import REPORTED_FINDINGS, Outcome, PartState, job_id, result_path
from batch_fn.ledger import NoSuchJobError
from batch_fn.openai_batches import ServiceTroubleError
from batch_fn.overview import STATUSES, Detail, JobsPage, ReportGoneError, is_job_id
from batch_fn.requests import Finding, check
from batch_fn.retrying import JobInHandError, NothingToRetryError
from batch_fn.settings import SettingError, Settings

SETTINGS_FILE = Path("local.settings.json")
FIRST_LOOK_SECONDS, LAST_LOOK_SECONDS = 0.25, 5.0
"""How long `--wait` waits between two looks: at first, and for a job that takes its time."""
DOING = {
    PartState.WAITING: "to be sent",
    PartState.CLAIMED: "being sent",
    PartState.BUNDLED: "waiting for company",
    PartState.ENDED: "not sent",
    PartState.SETTLED: "not sent",
}
"""What becomes of a part that has no batch."""
PLAIN_WIDTH = 160
INTERRUPTED = 130


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
    except (
        CommandError,
        NoSuchJobError,
        ReportGoneError,
        JobFinishedError,
        JobInHandError,
        NothingToRetryError,
    ) as error:
        _say(_plain(str(error)))
    except OSError as error:
        _say(f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "))
    except Exception as error:
        from azure.core.exceptions import AzureError

        if not isinstance(error, (ServiceTroubleError, AzureError)):
            raise
        _say(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
    return 1


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
@click.option("--status", default="", help=f"Only these, parted by commas: {', '.join(sorted(STATUSES))}.")
@click.option("--prefix", default="", help="Only drops whose name begins with this.")
@click.option("--since", type=click.DateTime(), help="Only jobs dropped at or after this time, UTC.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="At most so many.")
@click.option("--after", metavar="ID", help="Only those behind this job: where a list before ended.")
@json_option
def jobs(status: str, prefix: str, since: datetime | None, limit: int, after: str | None, *, as_json: bool) -> int:
    """List jobs, the last dropped first."""
    wanted = {each.strip() for each in status.split(",") if each.strip()}
    if not wanted <= STATUSES:
        raise click.UsageError(f"--status takes {', '.join(sorted(STATUSES))}.")
    app = _app()
    if after:
        _check_id(after)
    began = since.replace(tzinfo=UTC) if since else None
    page = listed(app, limit, after, status=wanted, prefix=prefix, since=began)
    if as_json:
        _write(True, page, [])
        return 0
    table = Table(box=SIMPLE_HEAD)
    for title in ("job", "name", "status", "dropped", "requests", "completed", "failed", "findings", "cost"):
        table.add_column(title, no_wrap=title == "job", overflow="fold")
    for row in page.jobs:
        progress = row["progress"]
        numbers = (progress["requests"], progress["completed"], progress["failed"], row["finding_count"])
        texts = (row["job_id"], _plain(row["input"]["name"]), row["status"], row["times"]["dropped"])
        table.add_row(*map(Text, (*texts, *map(str, numbers), _money(row["cost"]))))
    open_console().print(table)
    if page.after:
        _say(f"There are more: --after {page.after}")
    return 0


@commands.command()
@click.argument("job", metavar="ID")
@json_option
def show(job: str, *, as_json: bool) -> int:
    """Show where a job stands; a finished one's report."""
    detail = overview.show_job(_app(), job)
    _write(as_json, detail, _outline(detail))
    return 0


@commands.command()
@click.argument("job", metavar="ID")
@json_option
def cancel(job: str, *, as_json: bool) -> int:
    """Cancel a job: what was not sent is not sent, what was answered is kept."""
    from batch_fn.cancelling import cancel as cancel_job

    _check_id(job)
    app = _app()
    cancel_job(app, job)
    detail = overview.show_job(app, job)
    _write(as_json, detail, [f"{job}  {detail['status']}"])
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
    detail = overview.show_job(app, job)
    _write(as_json, detail, [f"{job}  {detail['status']}"])
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
    detail = overview.show_job(app, job)
    if detail["status"] not in Outcome:
        raise CommandError(f"Job {job} is not finished yet. `python -m batch_fn show {job}` says where it stands.")
    files = save(app, detail, out)
    _write(as_json, {"job_id": job, "files": [*map(str, files)]}, [_plain(str(file)) for file in files])
    return 0


class Display:
    """Shows what goes on: bars on a terminal, else a plain line for each change of state, with the seconds so far."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._began = time.monotonic()
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
    results: list[Detail] = []
    with Display() as display:
        for detail in followed(app, drops, display):
            files = save(app, detail, out) if out else {}
            results.append(detail | {"files": [*map(str, files)]})
    lines: list[str] = []
    for result in results:
        lines += [*summary(result), *(f"  {_plain(file)}" for file in result["files"])]
    _write(as_json, {"jobs": results}, lines)
    return 0 if all(result["status"] == Outcome.SUCCEEDED for result in results) else 1


def followed(app: App, drops: Mapping[str, str], display: Display) -> Iterator[Detail]:
    """Yield each job as soon as it is finished. `drops`: what to call each, by its job's id."""
    left, pause = dict(drops), FIRST_LOOK_SECONDS
    while left:
        for job, name in [*left.items()]:
            try:
                detail = overview.show_job(app, job)
            except NoSuchJobError:  # nobody has looked at the drop yet
                display.show(name, "dropped")
                continue
            display.show(name, standing(detail), _done(detail), detail["progress"]["requests"] or None)
            if detail["status"] in Outcome:
                del left[job]
                yield detail
        if left:
            time.sleep(pause)
            pause = min(pause * 1.2, LAST_LOOK_SECONDS)


def listed(app: App, limit: int, after: str | None, **wanted: Any) -> JobsPage:
    """Return as many jobs as asked for, if there are as many; `wanted` is what `overview.list_jobs` filters by."""
    page = overview.list_jobs(app, limit=limit, after=after, **wanted)
    found = page.jobs
    while page.after is not None and len(found) < limit:
        page = overview.list_jobs(app, limit=limit - len(found), after=page.after, **wanted)
        found = [*found, *page.jobs]
    return JobsPage(found, page.after)


def save(app: App, detail: Detail, folder: Path) -> dict[Path, str]:
    """Write a finished job's results below `folder`. Return each file with the place it came from, the report last."""
    path = result_path(detail["input"]["name"], detail["job_id"])
    places: dict[str, str | None] = {kind: detail["outputs"][kind] for kind in ("output", "errors")}
    places["report"] = f"{app.settings.reports_container}/{path}.json"
    if not (folder / path).resolve().is_relative_to(folder.resolve()):
        path = detail["job_id"]  # a name with `..` in it must not lead out of the folder
    saved: dict[Path, str] = {}
    for kind, place in places.items():
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
        saved[file] = place
    return saved


def standing(detail: Detail) -> str:
    """Return in a few words where a job stands."""
    status, counts, progress = detail["status"], detail["counts"], detail["progress"]
    if status == Outcome.REJECTED:
        return f"{status}: {detail['finding_count']} findings, nothing was sent"
    if status in Outcome:
        return f"{status}: {counts['succeeded']} succeeded, {counts['failed']} failed"
    so_far = f", {progress['failed_so_far']} failed so far" if progress["failed_so_far"] else ""
    done = f", {_done(detail)}/{progress['requests']}{so_far}" if progress["requests"] else ""
    doing = Counter(_doing(part) for part in detail["parts"] if part["state"] != PartState.SETTLED)
    parts = (f"{count} {each}" if doing.total() > 1 else each for each, count in doing.items())
    return ": ".join(filter(None, (f"{status}{done}", "; ".join(parts))))


def _doing(part: Detail) -> str:
    return f"{_how(part)} (attempt {part['attempt']})" if part["attempt"] > 1 else _how(part)


def _how(part: Detail) -> str:
    if part["waits_for"]:
        return f"waits: {_plain(part['waits_for'])}"
    return _plain(part["batch_status"] or DOING[part["state"]])


def _done(detail: Detail) -> int:
    return int(detail["progress"]["completed"] + detail["progress"]["failed"])


def summary(detail: Detail) -> list[str]:
    """Return plain lines that say where a job stands, and what its findings are."""
    head = f"{detail['job_id']}  {_plain(detail['input']['name'])}  {standing(detail)}"
    return [head, *(_finding(finding) for finding in detail["findings"])]


def _finding(finding: Detail) -> str:
    return f"  line {finding['line']}  {_plain(finding['code'])}  {_plain(finding['message'])}"


def _outline(detail: Detail) -> list[str]:
    """Return a job's detail as plain lines."""
    usage, estimate = detail["usage"], detail["estimate"] or {"prompt_tokens": 0, "cost": None}
    costs = (detail["cost"], estimate["cost"])
    return [
        *summary(detail),
        *map(_batch, detail["batches"]),
        *(f"{_attempt(part)}: {_how(part)}, 0 of {part['requests']}" for part in detail["parts"] if not part["batch"]),
        f"  tokens   {usage['prompt_tokens']} in, {usage['completion_tokens']} out; "
        f"estimated {estimate['prompt_tokens']} in",
        *([f"  cost     {_money(costs[0])}; estimated {_money(costs[1])} for the input"] if any(costs) else []),
        *(f"  {kind:8} {_plain(place)}" for kind, place in detail["outputs"].items() if place),
    ]


def _batch(batch: Detail) -> str:
    done = f"{batch['succeeded']} succeeded, {batch['failed']} failed of {batch['requests']}"
    return f"{_attempt(batch)}: {_plain(batch['status'])}, {done}, cost {_money(batch['cost'])}"


def _attempt(each: Detail) -> str:
    """Return which attempt of a part that is, whether it became a batch or not."""
    return f"  part {each['part']}, attempt {each['attempt']}, {_plain(each['deployment'])}"


def _money(cost: float | None) -> str:
    return "-" if cost is None else f"{cost:.6f}".rstrip("0").rstrip(".")


def _check_id(job: str) -> None:
    if not is_job_id(job):
        raise NoSuchJobError(job)


def _plain(text: str) -> str:
    """Return the text with nothing in it that a terminal would obey: names and messages come from others."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape", "replace").decode() for each in text)


def _write(as_json: bool, document: object, lines: list[str]) -> None:
    """Write a result to stdout: the document as JSON, or the lines."""
    text = msgspec.json.format(msgspec.json.encode(document), indent=2).decode() if as_json else "\n".join(lines)
    click.echo(text)


def _say(text: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        click.echo(text, err=True)


def open_console() -> Console:
    """Return the console to write to: as wide as the terminal, or wide enough to keep paths whole."""
    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)
