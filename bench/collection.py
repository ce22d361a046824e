"""Collecting the results of one batch, beside the plain copy of the same bytes from the service to a blob."""

import secrets
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from batch_fn.app import App
from batch_fn.core.jobs import InputRange, Job, JobState, Part, PartState
from batch_fn.core.names import new_bundle_id
from batch_fn.runtime import clock
from batch_fn.steps.collection import collect
from batch_fn.storage.blob_streams import CHUNK_BYTES
from batch_fn.storage.rows import Change
from bench.azure import Azure, azure
from bench.data import DEPLOYMENT, URL, write_drop, write_results
from bench.measuring import MB, Sizes, interleaved, took
from bench.results import Result, at_most


def run(sizes: Sizes, folder: Path) -> Result:
    """Measure."""
    drop, results = folder / "drop.jsonl", folder / "results.jsonl"
    lines = write_drop(drop, sizes.of(200 * MB, 20 * MB))
    write_results(results, lines)
    with azure() as here:
        ours = Collecting(here, drop, results, lines)
        ways: dict[str, Callable[[], float]] = {"ours": ours, "copy": partial(_copy, here, results)}
        measured = interleaved(sizes.of(4, 3), ways)
    row = at_most(
        f"collection, {results.stat().st_size / MB:.0f} MB of results",
        ratio := measured.ratio("ours", to="copy"),
        1.6,
        ours=f"{measured.median('ours'):.2f} s",
        compared=f"content to blob: {measured.median('copy'):.2f} s",
        ratio=f"{ratio:.2f}",
    )
    cpu = statistics.median(ours.cpu)
    detail = (
        f"Collection: processor time {cpu:.2f} s; it reads the {drop.stat().st_size / MB:.0f} MB of the input as well."
    )
    return Result(rows=[row], details=[detail, ""])


class Collecting:
    """Our way: collection of an ended batch, a new job each time it is called."""

    def __init__(self, here: Azure, drop: Path, results: Path, lines: int) -> None:
        self._here, self._results, self._lines = here, results, lines
        self._size = drop.stat().st_size
        self.app: App = here.app({"BUNDLE_SECONDS": "0"})
        self.cpu: list[float] = []
        with drop.open("rb") as file:
            here.blob(self.app.settings.archive_container, "drop.jsonl").upload_blob(file)

    def __call__(self) -> float:
        """Do it, and return the seconds it took."""
        job = self._ended(_upload(self._here, self._results))
        cpu = time.process_time()
        seconds = took(lambda: collect(self.app, job.job_id))
        self.cpu.append(time.process_time() - cpu)
        report = self.app.blobs.report(job.path)
        assert report is not None and report["counts"]["succeeded"] == self._lines  # noqa: S101
        self._here.blob(self.app.settings.output_container, f"{job.path}.jsonl").delete_blob()
        return seconds

    def _ended(self, file_id: str) -> Job:
        """Write a job into the tables whose one batch has ended with that output."""
        now = clock.now()
        job = Job(
            job_id=new_bundle_id(now, secrets.token_hex(5)),
            state=JobState.ACCEPTED,
            container=self.app.settings.input_container,
            name="drop.jsonl",
            etag="0x1",
            bytes=self._size,
            dropped_at=now,
            requests=self._lines,
            parts_left=1,
            accepted_at=now,
        )
        source = InputRange(
            container=self.app.settings.archive_container, name="drop.jsonl", length=self._size - 1, verbatim=True
        )
        part = Part(
            job_id=job.job_id,
            number=1,
            state=PartState.ENDED,
            due=clock.after(600),
            deployment=DEPLOYMENT,
            url=URL,
            source=source,
            requests=self._lines,
            bytes=self._size,
            estimated_tokens=1,
            waiting_since=now,
            batch_id="batch_bench",
            batch_status="completed",
            created_at=now,
            ended_at=now,
            output_file_id=file_id,
        )
        self.app.tables.insert_if_absent(job)
        self.app.tables.change([Change(part)])
        return job


def _upload(here: Azure, results: Path) -> str:
    """Put the results where the service's are; a file is a file to it."""
    with results.open("rb") as file:
        return here.client.files.create(file=("results.jsonl", file, "application/jsonl"), purpose="batch").id


def _copy(here: Azure, results: Path) -> float:
    file_id = _upload(here, results)
    blob = here.blob("batch-output", "copy.jsonl")

    def copy() -> None:
        with here.client.files.with_streaming_response.content(file_id) as answer:
            blob.upload_blob(answer.iter_bytes(CHUNK_BYTES), overwrite=True)

    seconds = took(copy)
    here.client.files.delete(file_id)
    return seconds
