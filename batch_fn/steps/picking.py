"""Picks the lines of interleaved parts of a mixed drop into blobs: one for each part."""

import contextlib
import secrets
from typing import NamedTuple

from batch_fn.app import App
from batch_fn.core.jobs import InputRange, Job
from batch_fn.core.planning import Planner
from batch_fn.storage.blob_streams import CHUNK_BYTES, MIN_CHUNK_BYTES, Writer
from batch_fn.storage.part_lines import SourceLine, picked
from batch_fn.validation.requests import Request, accepted_requests


class PickedParts:
    """Writes picked lines into one blob for each part, below a folder of the work container.

    At most one writer is open for each deployment and url: the next part of the same ones begins when a part is full.
    """

    def __init__(self, app: App, folder: str, block_bytes: int) -> None:
        self.sources: dict[int, InputRange] = {}
        """The blob of each part, by the part's index."""
        self._app, self._folder, self._block_bytes = app, folder, block_bytes
        self._exits = contextlib.ExitStack()
        self._open: dict[tuple[str, str], _OpenPart] = {}

    def write(self, index: int, request: Request, raw: bytes) -> None:
        """Add the line of a request to the part with that index."""
        group = (request.deployment, request.url)
        part = self._open.get(group)
        if part is None or part.number != index:
            if part is not None:
                part.exit.close()
            part = self._open[group] = self._next(index)
        part.writer.write(picked(SourceLine(request.line, raw)))

    def _next(self, index: int) -> "_OpenPart":
        container = self._app.settings.work_container
        name = f"{self._folder}/part-{index + 1:05d}.picked"
        self.sources[index] = InputRange(container=container, name=name, picked=True)
        part_exit = self._exits.enter_context(contextlib.ExitStack())
        writer = part_exit.enter_context(self._app.blobs.writer(container, name, self._block_bytes))
        return _OpenPart(index, writer, part_exit)

    def __enter__(self) -> "PickedParts":
        return self

    def __exit__(self, *error: object) -> None:
        self._exits.__exit__(*error)  # type: ignore[arg-type]


class _OpenPart(NamedTuple):
    number: int
    writer: Writer
    exit: contextlib.ExitStack


def pick(app: App, job: Job, planned: Planner, again: Planner, fill_in: str | None) -> dict[int, InputRange]:
    """Pick the lines of the interleaved parts of `planned`. Return the blob of each part, by the part's index.

    The archive copy is read a second time, and `again`, a planner with the same limits, divides the lines as the first
    one did. `fill_in` is the deployment given with the drop. Memory grows with the number of deployments, not with the
    drop. Each reader writes to a folder of its own: another one may have read the drop with other limits.
    """
    folder = f"{job.work_folder}/{secrets.token_hex(5)}"
    wanted = planned.interleaved
    block_bytes = max(MIN_CHUNK_BYTES, CHUNK_BYTES // max(1, planned.groups))
    chunks = app.blobs.read(app.settings.archive_container, f"{job.path}.jsonl")
    with PickedParts(app, folder, block_bytes) as parts:
        for request, raw in accepted_requests(chunks, fill_in):
            index = again.add(request)
            if index in wanted:
                parts.write(index, request, raw)
    return parts.sources
