"""Open batches: real ones, held at the emulator, with their parts written straight into the tables."""

import io
import secrets
from concurrent.futures import ThreadPoolExecutor
from itertools import batched

import msgspec

from batch_fn.app import App
from batch_fn.core.jobs import InputRange, Job, JobState, Part, PartState
from batch_fn.core.names import new_bundle_id
from batch_fn.runtime import clock
from batch_fn.storage.rows import Change
from bench.data import DEPLOYMENT, URL, small_drop

PARTS_OF_A_JOB = 99  # with the job's own row they go into one transaction
AT_ONCE = 8


def open_parts(app: App, count: int) -> list[str]:
    """Open that many batches more. Return their ids."""
    file_id = app.openai.upload("opened.jsonl", io.BytesIO(small_drop(0, lines=1)))
    jobs = [_job(numbers) for numbers in batched(range(1, count + 1), PARTS_OF_A_JOB, strict=False)]
    parts = [_part(job, number, file_id) for job in jobs for number in range(1, job.parts_left + 1)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        opened = list(pool.map(lambda part: _opened(app, part), parts))
    for job in jobs:
        held = app.tables.insert_if_absent(job)
        app.tables.change([*(Change(each) for each in opened if each.job_id == job.job_id), Change(job, held.etag)])
    return [part.batch_id for part in opened]


def _job(numbers: tuple[int, ...]) -> Job:
    now = clock.now()
    return Job(
        job_id=new_bundle_id(now, secrets.token_hex(5)),
        state=JobState.ACCEPTED,
        container="batch-input",
        name="opened.jsonl",
        etag="0x1",
        bytes=0,
        dropped_at=now,
        requests=len(numbers),
        parts_left=len(numbers),
        accepted_at=now,
    )


def _part(job: Job, number: int, file_id: str) -> Part:
    return Part(
        job_id=job.job_id,
        number=number,
        state=PartState.CLAIMED,
        deployment=DEPLOYMENT,
        url=URL,
        source=InputRange(container="batch-archive", name="opened.jsonl"),
        requests=1,
        estimated_tokens=1,
        waiting_since=clock.now(),
        file_id=file_id,
    )


def _opened(app: App, part: Part) -> Part:
    """Create the part's batch. What is known of it already is in the part, so that a tick finds nothing new."""
    batch, _ = app.openai.create(part)
    due = msgspec.structs.replace(part, batch_id=batch.id, batch_status=batch.status, created_at=batch.created_at)
    return due.with_state(PartState.OPEN, clock.now())
