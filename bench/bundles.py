"""Many small drops through the whole stack, host included: with bundles, and each in a batch of its own."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from bench.data import small_drop
from bench.measuring import Sizes
from bench.results import Result, Row, at_least
from devkit.stack import Stack

BUNDLE_SECONDS = 10
DROPS_AT_ONCE = 8
PATIENCE = 600.0  # seconds, after which it has failed


class Outcome(NamedTuple):
    """How a run went."""

    batches: int
    seconds: float


def run(sizes: Sizes, folder: Path) -> Result:  # noqa: ARG001 - every figure is asked in the same way
    """Measure."""
    count, sample = sizes.of((1_000, 200), (100, 50))
    bundled, alone = _drop(count, BUNDLE_SECONDS), _drop(sample, 0)
    fewer = (alone.batches / sample) / (bundled.batches / count)
    figure = f"{count:,} drops of 10 lines, BUNDLE_SECONDS={BUNDLE_SECONDS}"
    other = f"BUNDLE_SECONDS=0, {sample} drops"
    batches = at_least(
        f"{figure}: batches at the service",
        fewer,
        20,
        ours=f"{bundled.batches}",
        compared=f"{other}: {alone.batches:,}",
        ratio=f"{fewer:.0f} times fewer a drop",
        aim=">= 20 times fewer",
    )
    rate, rate_alone = count / bundled.seconds, sample / alone.seconds
    jobs = Row(
        figure=f"{figure}: jobs a second",
        ours=f"{rate:.1f}",
        compared=f"{other}: {rate_alone:.1f}",
        ratio=f"{rate / rate_alone:.2f}",
    )
    return Result(rows=[batches, jobs])


def _drop(count: int, bundle_seconds: int) -> Outcome:
    """Drop that many files, and wait for all their reports."""
    settings = {"BUNDLE_SECONDS": str(bundle_seconds)}
    with Stack(settings, service={"speed": 500, "seconds_per_line": 0.0}, host={"event_seconds": 0.2}) as stack:
        begin = time.monotonic()
        with ThreadPoolExecutor(DROPS_AT_ONCE) as pool:
            list(pool.map(lambda number: stack.user.drop(f"{number:04d}.jsonl", small_drop(number)), range(count)))
        reports = stack.user.blobs.get_container_client(stack.settings.reports_container)
        while (there := sum(1 for _ in reports.list_blob_names())) < count:
            if time.monotonic() - begin > PATIENCE:
                raise TimeoutError(f"only {there} of {count} reports were there after {PATIENCE:.0f} seconds")
            time.sleep(0.5)
        return Outcome(len(stack.service.batches()), time.monotonic() - begin)
