"""From drop to submitted, beside the plain copy of the same bytes: what checking and keeping books costs."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from batch_fn.app import App
from batch_fn.core.jobs import PartState
from batch_fn.core.names import part_key
from batch_fn.steps.intake import ingest, job_id_of
from batch_fn.steps.submission import submit
from batch_fn.storage.drops import Drop
from bench.azure import Azure, azure
from bench.data import small_drop, write_drop
from bench.measuring import MB, Rounds, Sizes, interleaved, took, used_up
from bench.results import Result, Row, at_most

NAME = "drop.jsonl"


def run(sizes: Sizes, folder: Path) -> Result:
    """Measure."""
    path = folder / NAME
    write_drop(path, sizes.of(200 * MB, 20 * MB))
    with azure() as here:
        ours = {mode: Submitting(here, mode, path) for mode in ("upload", "blob")}
        blob = here.blob(ours["upload"].drop.container, ours["upload"].drop.name)
        ways: dict[str, Callable[[], float]] = {
            "upload": ours["upload"],
            "copy": lambda: took(partial(_copy, here, blob.container_name, blob.blob_name)),
            "blob": ours["blob"],
            "download": lambda: took(lambda: used_up(blob.download_blob().chunks())),
        }
        measured = interleaved(sizes.of(4, 3), ways)
    size = path.stat().st_size
    details = [line for mode, each in ours.items() for line in each.details(mode)]
    return Result(rows=list(_rows(measured, size)), details=[*details, ""])


def _rows(measured: Rounds, size: int) -> Iterator[Row]:
    for mode, other, what, limit in (
        ("upload", "copy", "download + upload", 2.0),
        ("blob", "download", "download alone", 1.3),
    ):
        yield at_most(
            f"drop to submitted, {size / MB:.0f} MB, SUBMIT_MODE={mode}",
            ratio := measured.ratio(mode, to=other),
            limit,
            ours=f"{measured.median(mode):.2f} s",
            compared=f"{what}: {measured.median(other):.2f} s",
            ratio=f"{ratio:.2f}",
        )


class Submitting:
    """Our way: intake and submission of one drop, anew each time it is called."""

    def __init__(self, here: Azure, mode: str, path: Path) -> None:
        self._here = here
        self.app: App = here.app({"SUBMIT_MODE": mode, "BUNDLE_SECONDS": "0"})
        self.steps: list[tuple[float, float, float]] = []
        self._once(self._dropped(f"small-{mode}.jsonl", small_drop(1)))  # imports and connections are there after that
        self.steps.clear()
        with path.open("rb") as file:
            self.drop = self._dropped(f"{mode}-{NAME}", file)

    def __call__(self) -> float:
        """Do it, and return the seconds it took."""
        return self._once(self.drop)

    def _once(self, drop: Drop) -> float:
        job_id = job_id_of(drop)
        cpu = time.process_time()
        checked = took(lambda: ingest(self.app, drop.name))
        sent = took(lambda: submit(self.app, job_id, part_key(1, 1)))
        self.steps.append((checked, sent, time.process_time() - cpu))
        self._forget(job_id)
        return checked + sent

    def _dropped(self, name: str, content: object) -> Drop:
        client = self._here.blob(self.app.settings.input_container, name)
        client.upload_blob(content, overwrite=True)  # type: ignore[arg-type]
        drop = self.app.blobs.drop(name)
        assert drop is not None  # noqa: S101 - it was just put there
        return drop

    def _forget(self, job_id: str) -> None:
        """See that it was submitted, and make everything as it was before the drop."""
        work = self.app.tables.active_job(job_id)
        assert work is not None and [held.row.state for held in work.parts] == [PartState.OPEN]  # noqa: S101
        self.app.tables.delete_active(work)
        self._here.service.reset()
        self._here.service.hold()

    def details(self, mode: str) -> Iterator[str]:
        """Yield where the time goes."""
        checked, sent, cpu = (statistics.median(each) for each in zip(*self.steps, strict=True))
        spent = f"intake {checked:.2f} s, submission {sent:.2f} s, processor time {cpu:.2f} s"
        yield f"- Drop to submitted, {mode}: {spent}."


def _copy(here: Azure, container: str, name: str) -> None:
    """Download and upload with the two SDKs, by way of a file, since an upload wants one."""
    with tempfile.TemporaryFile() as spool:
        here.blob(container, name).download_blob().readinto(spool)
        spool.seek(0)
        here.client.files.create(file=("copy.jsonl", spool, "application/jsonl"), purpose="batch")
