"""A tick with many finished jobs behind it: three apps with a history of their own each, and all else in common."""

import secrets
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from itertools import batched
from pathlib import Path
from typing import Any

from azure.data.tables import TableServiceClient

from batch_fn.core.jobs import Outcome
from batch_fn.core.names import new_bundle_id
from batch_fn.runtime import clock
from batch_fn.steps.polling import tick
from batch_fn.storage.rows import TRANSACTION_LIMIT, FinishedJob, partition_and_row, to_columns
from bench.azure import azure
from bench.measuring import Rounds, Sizes, interleaved, took
from bench.opened import open_parts
from bench.results import Result, Row, at_most

OPEN = 100
WRITES_AT_ONCE = 4
DAYS = 30  # over which the history is spread


def run(sizes: Sizes, folder: Path) -> Result:  # noqa: ARG001 - every figure is asked in the same way
    """Measure."""
    counts = sizes.of((0, 10_000, 100_000), (0, 1_000, 5_000))
    with azure() as here:
        ways: dict[str, Callable[[], float]] = {}
        tables = TableServiceClient.from_connection_string(here.azurite.connection_string)
        for count in counts:
            app = here.app({"JOBS_TABLE": f"History{count}"})
            _write_history(tables.get_table_client(app.settings.jobs_table), count)
            ways[str(count)] = partial(took, partial(tick, app))
        open_parts(app, OPEN)
        interleaved(1, ways)
        measured = interleaved(sizes.of(15, 5), ways)
    return Result(rows=list(_rows(measured, counts)))


def _rows(measured: Rounds, counts: tuple[int, ...]) -> Iterator[Row]:
    first, *others = counts
    for count in others:
        ratio = measured.ratio(str(count), to=str(first))
        yield at_most(
            f"a tick with {OPEN} open batches and {count:,} finished jobs",
            ratio,
            1.1,
            ours=f"{measured.median(str(count)) * 1000:.0f} ms",
            compared=f"with none finished: {measured.median(str(first)) * 1000:.0f} ms",
            ratio=f"{ratio:.2f}",
        )


def _write_history(table: Any, count: int) -> None:
    """Enter that many finished jobs, just as the app would, but a hundred at a time."""
    partitions: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for number in range(count):
        job = _finished(number / count * DAYS)
        partition, row = partition_and_row(job.job_id)
        partitions[partition].append({"PartitionKey": partition, "RowKey": row, **to_columns(job)})
    transactions = [
        [("upsert", entity) for entity in some]
        for entities in partitions.values()
        for some in batched(entities, TRANSACTION_LIMIT, strict=False)
    ]
    with ThreadPoolExecutor(WRITES_AT_ONCE) as pool:
        list(pool.map(table.submit_transaction, transactions))


def _finished(days_ago: float) -> FinishedJob:
    dropped = clock.now() - timedelta(days=days_ago)
    job_id = new_bundle_id(dropped, secrets.token_hex(5))
    return FinishedJob(
        job_id=job_id,
        status=Outcome.SUCCEEDED,
        container="batch-input",
        name="sales/monday.jsonl",
        etag="0x8DE2A0F0F0F0F0F",
        bytes=200_000_000,
        requests=100_000,
        succeeded=100_000,
        failed=0,
        finding_count=0,
        total_tokens=50_000_000,
        dropped_at=dropped,
        finished_at=dropped + timedelta(hours=3),
        report=f"batch-reports/sales/monday/{job_id}.json",
    )
