"""Uploads files into the inbox, follows jobs, downloads results."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from batch_fn.app import App
from batch_fn.cli.display import Display, done_count, standing
from batch_fn.core.errors import NoSuchJobError
from batch_fn.core.jobs import Outcome
from batch_fn.core.names import job_id, result_path
from batch_fn.queries import job_detail, job_list
from batch_fn.queries.job_detail import JobDetail
from batch_fn.queries.job_list import JobsPage
from batch_fn.settings import Settings
from batch_fn.storage.blob_streams import CHUNK_BYTES
from batch_fn.validation.check import check

FIRST_LOOK_SECONDS, LAST_LOOK_SECONDS = 0.25, 5.0
"""The pause of `--wait` between two looks: the first one, and the longest."""


def upload(app: App, file: Path, name: str, deployment: str | None, display: Display) -> str:
    """Upload a file into the inbox. Return the id of its job."""
    size = file.stat().st_size
    metadata = {"deployment": deployment} if deployment else None

    def progress(done: int, _: int | None) -> None:
        display.show(name, "uploading", done, size)

    with file.open("rb") as content:
        answer = app.blobs.drop_client(name).upload_blob(
            content, overwrite=True, metadata=metadata, progress_hook=progress
        )
    return job_id(app.settings.input_container, name, str(answer["etag"]), answer["last_modified"])


def checked(file: Path, settings: Settings, deployment: str | None, display: Display) -> Iterator[Any]:
    """Yield the result of the app's check of a file: a Request for each good line, Findings for each other."""
    from batch_fn.steps.intake import rules_of, too_large

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
        display.show(name, "checking", done, size)


def followed(app: App, drops: Mapping[str, str], display: Display) -> Iterator[JobDetail]:
    """Yield each job as soon as it is finished. `drops` has the name to show for each job id."""
    left, pause = dict(drops), FIRST_LOOK_SECONDS
    while left:
        for job, name in [*left.items()]:
            try:
                detail = job_detail.show_job(app, job)
            except NoSuchJobError:  # the app has not read the drop yet
                display.show(name, "dropped")
                continue
            display.show(name, standing(detail), done_count(detail), detail["progress"]["requests"] or None)
            if detail["status"] in Outcome:
                del left[job]
                yield detail
        if left:
            time.sleep(pause)
            pause = min(pause * 1.2, LAST_LOOK_SECONDS)


def listed(app: App, limit: int, after: str | None, **wanted: Any) -> JobsPage:
    """Return up to `limit` jobs; `wanted` are the filters of `job_list.list_jobs`."""
    page = job_list.list_jobs(app, limit=limit, after=after, **wanted)
    found = page.jobs
    while page.after is not None and len(found) < limit:
        page = job_list.list_jobs(app, limit=limit - len(found), after=page.after, **wanted)
        found = [*found, *page.jobs]
    return JobsPage(found, page.after)


def save(app: App, detail: JobDetail, folder: Path) -> dict[Path, str]:
    """Write a finished job's results below `folder`. Return each file with the path of its blob, the report last.

    A file of an earlier fetch is deleted where the job has no such results any more: a retry may leave no errors.
    """
    path = result_path(detail["input"]["name"], detail["job_id"])
    places: dict[str, str | None] = {kind: detail["outputs"].get(kind) for kind in ("output", "errors", "unmatched")}
    places["report"] = f"{app.settings.reports_container}/{path}.json"
    if not (folder / path).resolve().is_relative_to(folder.resolve()):
        path = detail["job_id"]  # a name with `..` in it must not lead out of the folder
    saved: dict[Path, str] = {}
    for kind, place in places.items():
        file = folder / f"{path}.{kind}.{'json' if kind == 'report' else 'jsonl'}"
        if place is None:
            file.unlink(missing_ok=True)
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        container, _, name = place.partition("/")
        half = file.with_name(f"{file.name}.part")  # a file with its final name is complete
        with half.open("wb") as content:
            for chunk in app.blobs.read(container, name):
                content.write(chunk)
        half.replace(file)
        saved[file] = place
    return saved
