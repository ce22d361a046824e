"""Lines of several deployments or urls, mixed in one drop: each part's lines are written to a blob of their own."""

import contextlib
import itertools
import secrets

from batch_fn.app import App
from batch_fn.core.jobs import InputRange, Job
from batch_fn.core.planning import Planner
from batch_fn.storage.blob_streams import CHUNK_BYTES, MIN_CHUNK_BYTES, Writer
from batch_fn.storage.part_lines import SourceLine, picked
from batch_fn.validation.check import check
from batch_fn.validation.findings import Finding
from batch_fn.validation.lines import lines
from batch_fn.validation.requests import Rules


def pick(app: App, job: Job, planned: Planner, again: Planner, rules: Rules) -> dict[int, InputRange]:
    """Write the lines of each interleaved part of `planned` to a blob. Return the blobs by the part's index.

    The drop's copy is read a second time, and `again`, a planner with the same limits, lays each line where the first
    one did. Memory grows with the number of deployments, not with the drop. Each reader writes to a folder of its own:
    another one may have read the drop with other limits.
    """
    folder = f"{job.work_folder}/{secrets.token_hex(5)}"
    wanted = planned.interleaved
    sources: dict[int, InputRange] = {}
    writers: dict[int, Writer] = {}
    container = app.settings.work_container
    block = max(MIN_CHUNK_BYTES, CHUNK_BYTES // max(1, len(wanted)))
    for_check, for_lines = itertools.tee(app.blobs.read(app.settings.archive_container, f"{job.path}.jsonl"))
    with contextlib.ExitStack() as open_writers:
        checked = check(for_check, rules)
        for line, request in zip(lines(for_lines, rules.max_line_bytes), checked, strict=True):
            assert not isinstance(request, Finding)  # noqa: S101 - the first reading found none
            index = again.add(request)
            if index not in wanted:
                continue
            if index not in writers:
                name = f"{folder}/part-{index + 1:05d}.picked"
                writers[index] = open_writers.enter_context(app.blobs.writer(container, name, block))
                sources[index] = InputRange(container=container, name=name, picked=True, fill=request.filled)
            writers[index].write(picked(SourceLine(line.number, line.raw)))
    return sources
