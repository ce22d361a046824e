"""The commands: drop, jobs, show, cancel, retry, validate and fetch. They call storage and service directly.

Results go to stdout, and progress to stderr: bars on a terminal, else a plain line for each change. The exit code is 0
for success, 1 if lines failed, if there are findings or on an error, 2 for wrong usage or settings.
"""

import contextlib
import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from batch_fn.app import App
from batch_fn.cli.display import Display, money, open_console, outline, printable, summary
from batch_fn.cli.transfer import checked, followed, listed, save, upload
from batch_fn.core.batches import TransientServiceError
from batch_fn.core.errors import NoSuchJobError, UserError
from batch_fn.core.jobs import Outcome
from batch_fn.core.names import is_job_id
from batch_fn.queries import job_detail
from batch_fn.queries.job_detail import STATUSES, JobDetail
from batch_fn.settings import SettingError, Settings
from batch_fn.validation.findings import REPORTED_FINDINGS, Finding

SETTINGS_FILE = Path("local.settings.json")

INTERRUPTED = 130


class CommandError(UserError):
    """A command cannot be carried out; the sentence says why and what to do."""


def main(arguments: list[str]) -> int:
    """Run a command. Return the exit code."""
    # The clients log their requests, which would disturb what the terminal shows.
    logging.getLogger("batch_fn").setLevel(logging.CRITICAL)
    try:
        return int(commands.main(arguments, prog_name="python -m batch_fn", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _say("Stopped. Jobs that were dropped continue without this command.")
        return INTERRUPTED
    except SettingError as error:
        _say(f"{error} Set it in the environment, or under Values in {SETTINGS_FILE} of the current folder.")
        return 2
    except UserError as error:
        _say(printable(str(error)))
    except OSError as error:
        _say(f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "))
    except Exception as error:
        from azure.core.exceptions import AzureError

        if not isinstance(error, (TransientServiceError, AzureError)):
            raise
        _say(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
    return 1


def environment(file: Path = SETTINGS_FILE) -> dict[str, str]:
    """Return the environment with the values that only `local.settings.json` has. Raises: CommandError.

    Where neither names the storage, the settings are those of the running stack of `make run`, if there is one.
    """
    values: Mapping[str, object] = {}
    if file.is_file():
        try:
            values = json.loads(file.read_text(encoding="utf-8-sig")).get("Values") or {}
        except (ValueError, AttributeError) as error:
            raise CommandError(f"{file} cannot be read as JSON: {error}") from None
    given = {name: str(value) for name, value in values.items()} | dict(os.environ)
    has_storage = any(value.strip() for name, value in given.items() if name.startswith("BatchStorage"))
    return given if has_storage else given | _settings_of_running_stack()


def _settings_of_running_stack() -> dict[str, str]:
    try:
        from devkit.run_file import NotRunningError, find
    except ImportError:  # the command line is used without the devkit
        return {}
    try:
        settings = find().environment
    except NotRunningError:
        return {}
    _say("Using the stack of `make run`.")
    return settings


def _app() -> App:
    for name in ("azure", "httpx2"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return App(Settings.read(environment()), signed_in=True)


json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON, for scripts.")
out_option = click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Write output, errors and report into this folder."
)
files_argument = click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
deployment_option = click.option("--deployment", help="The model of lines that have none.")


class Command(click.Command):
    """A command whose first paragraph of help stands whole in the list of commands; click cuts it to one line."""

    def get_short_help_str(self, limit: int = 45) -> str:  # noqa: ARG002
        """Return the first paragraph."""
        return " ".join((self.help or "").partition("\n\n")[0].split())


class Commands(click.Group):
    """All commands."""

    command_class = Command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """Drop files, and follow, cancel, retry and fetch their jobs."""


@commands.command()
@files_argument
@deployment_option
@click.option("--as", "name", help="The blob's name in the inbox, for one file. [default: the file name]")
@click.option("--wait", is_flag=True, help="Wait until the jobs are done.")
@out_option
@json_option
def drop(
    files: tuple[Path, ...], deployment: str | None, name: str | None, *, wait: bool, out: Path | None, as_json: bool
) -> int:
    """Upload files into the inbox; each becomes a job. --out implies --wait."""
    names = [name] if name else [file.name for file in files]
    if len(names) != len(files) or len(set(names)) != len(names):
        raise click.UsageError(
            "Two files cannot have the same name in the inbox. Drop them one by one, each with --as."
        )
    app = _app()
    drops: dict[str, str] = {}
    with Display() as display:
        for file, each in zip(files, names, strict=True):
            dropped = upload(app, file, each, deployment, display)
            drops[dropped] = each
        done = _wait_for(app, drops, out, display) if wait or out else None
    if done is not None:
        return _write_results(done, as_json=as_json)
    rows = [{"job_id": dropped, "name": each} for dropped, each in drops.items()]
    _write(as_json, {"jobs": rows}, [f"{row['job_id']}  {printable(row['name'])}" for row in rows])
    return 0


@commands.command()
@click.option("--status", default="", help=f"Only these statuses, separated by commas: {', '.join(sorted(STATUSES))}.")
@click.option("--prefix", default="", help="Only drops whose name begins with this.")
@click.option("--since", type=click.DateTime(), help="Only jobs dropped at or after this time, UTC.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Maximum number of jobs.")
@click.option("--after", metavar="ID", help="Only jobs after this one: where the last list ended.")
@json_option
def jobs(status: str, prefix: str, since: datetime | None, limit: int, after: str | None, *, as_json: bool) -> int:
    """List jobs, newest first."""
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
        texts = (row["job_id"], printable(row["input"]["name"]), row["status"], row["times"]["dropped"])
        table.add_row(*map(Text, (*texts, *map(str, numbers), money(row["cost"]))))
    open_console().print(table)
    if page.after:
        _say(f"More jobs: --after {page.after}")
    return 0


@commands.command()
@click.argument("job", metavar="ID")
@json_option
def show(job: str, *, as_json: bool) -> int:
    """Show the state of a job, or the report of a finished one."""
    detail = job_detail.show_job(_app(), job)
    _write(as_json, detail, outline(detail))
    return 0


@commands.command()
@click.argument("job", metavar="ID")
@json_option
def cancel(job: str, *, as_json: bool) -> int:
    """Cancel a job: lines that are not sent yet are not sent, and answers are kept."""
    from batch_fn.steps.cancelling import cancel as cancel_job

    _check_id(job)
    app = _app()
    cancel_job(app, job)
    detail = job_detail.show_job(app, job)
    _write(as_json, detail, [f"{job}  {detail['status']}"])
    return 0


@commands.command()
@click.argument("job", metavar="ID")
@click.option("--wait", is_flag=True, help="Wait until the job is done again.")
@out_option
@json_option
def retry(job: str, *, wait: bool, out: Path | None, as_json: bool) -> int:
    """Send a finished job's failed lines again."""
    from batch_fn.steps.retrying import retry as retry_job

    _check_id(job)
    app = _app()
    entered = retry_job(app, job)
    if wait or out:
        with Display() as display:
            done = _wait_for(app, {job: entered.name}, out, display)
        return _write_results(done, as_json=as_json)
    detail = job_detail.show_job(app, job)
    _write(as_json, detail, [f"{job}  {detail['status']}"])
    return 0


@commands.command()
@files_argument
@deployment_option
@json_option
def validate(files: tuple[Path, ...], deployment: str | None, *, as_json: bool) -> int:
    """Check files as the app does, without the network. Writes one finding per line, with the name of its file.

    No setting is needed; those that are set apply (ALLOWED_URLS, MAX_FINDINGS, MIXED_FILES ...).
    """
    # Storage and service are not used, but their settings must be there.
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
                    found = {"file": _name(file)} | msgspec.structs.asdict(each)
                    sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")
            sys.stdout.flush()
            results.append({"file": _name(file), "requests": requests, "finding_count": count, "findings": first})
    rejected = any(result["finding_count"] for result in results)
    if as_json:
        _write(True, {"files": results}, [])
    else:
        for result in results:
            counts = f"{result['requests']:,} good lines, {result['finding_count']:,} findings"
            _say(f"{printable(result['file'])}: {counts}")
    return 1 if rejected else 0


@commands.command()
@click.argument("job", metavar="ID")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("out"), show_default=True)
@json_option
def fetch(job: str, out: Path, *, as_json: bool) -> int:
    """Download the output, errors and report of a finished job."""
    app = _app()
    detail = job_detail.show_job(app, job)
    if detail["status"] not in Outcome:
        raise CommandError(f"Job {job} is not finished yet. `python -m batch_fn show {job}` shows its state.")
    files = save(app, detail, out)
    _write(as_json, {"job_id": job, "files": [*map(str, files)]}, [printable(str(file)) for file in files])
    return 0


def _wait_for(app: App, drops: Mapping[str, str], out: Path | None, display: Display) -> list[JobDetail]:
    """Wait until the jobs are done. Return them, each with the files that its results were downloaded to, if any."""
    results: list[JobDetail] = []
    for detail in followed(app, drops, display):
        files = save(app, detail, out) if out else {}
        results.append(detail | {"files": [*map(str, files)]})
    return results


def _write_results(results: list[JobDetail], *, as_json: bool) -> int:
    """Write how the jobs ended. Return the exit code."""
    lines: list[str] = []
    for result in results:
        lines += [*summary(result), *(f"  {printable(file)}" for file in result["files"])]
    _write(as_json, {"jobs": results}, lines)
    return 0 if all(result["status"] == Outcome.SUCCEEDED for result in results) else 1


def _name(file: Path) -> str:
    """Return the name of a file as JSON can have it: bytes that are not UTF-8 become escapes."""
    return str(file).encode(errors="backslashreplace").decode()


def _check_id(job: str) -> None:
    if not is_job_id(job):
        raise NoSuchJobError(job)


def _write(as_json: bool, document: object, lines: list[str]) -> None:
    """Write a result to stdout: the document as JSON, or the lines."""
    text = msgspec.json.format(msgspec.json.encode(document), indent=2).decode() if as_json else "\n".join(lines)
    click.echo(text)


def _say(text: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        click.echo(text, err=True)
