"""A tick over many open batches, of which there is nothing new, beside one retrieve for each of them."""

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from batch_fn.app import App
from batch_fn.steps.polling import MAX_CONCURRENCY, tick
from bench.azure import azure
from bench.counting import Calls, counted
from bench.measuring import Rounds, Sizes, interleaved, took
from bench.opened import open_parts
from bench.results import Result, Row, at_most

SAMPLE = 500  # of this many retrieves the time for all is worked out
SLOPE = 12.0  # ten times the batches: a little more than ten times the time, for the machine is not quiet


def run(sizes: Sizes, folder: Path) -> Result:  # noqa: ARG001 - every figure is asked in the same way
    """Measure."""
    rows: list[Row] = []
    details: list[str] = []
    before = 0.0
    with azure() as here:
        app = here.app()
        ids: list[str] = []
        for count in sizes.of((100, 1_000, 10_000), (100, 1_000)):
            ids += open_parts(app, count - len(ids))
            tick(app)
            with counted(here.azurite) as calls:
                tick(app)
            ways: dict[str, Callable[[], float]] = {
                "tick": partial(took, partial(tick, app)),
                "retrieve": partial(_retrieve, app, ids),
            }
            measured = interleaved(sizes.of(5, 3), ways)
            rows += _rows(count, calls, measured, before)
            details += _details(count, calls, measured)
            before = measured.median("tick")
    return Result(rows=rows, details=[*details, ""])


def _rows(count: int, calls: Calls, measured: Rounds, before: float) -> Iterator[Row]:
    figure = f"a tick with {count:,} open batches"
    yield at_most(
        f"{figure}: calls at the service",
        calls.at_the_service,
        count / 100 + 10,
        ours=f"{calls.at_the_service}",
        compared=f"one retrieve for each: {count:,}",
        ratio=f"{calls.at_the_service / count:.2f}",
    )
    ours = f"{measured.median('tick'):.2f} s"
    compared = f"one retrieve for each, {MAX_CONCURRENCY} at once: {measured.median('retrieve'):.2f} s"
    ratio = f"{measured.ratio('tick', to='retrieve'):.2f}"
    if not before:
        yield Row(figure=f"{figure}: time", ours=ours, compared=compared, ratio=ratio)
        return
    aim = f"<= {SLOPE:g} times that for {count // 10:,}"
    times = measured.median("tick") / before
    yield at_most(f"{figure}: time", times, SLOPE, ours=ours, compared=compared, ratio=ratio, aim=aim)


def _details(count: int, calls: Calls, measured: Rounds) -> Iterator[str]:
    each = measured.median("tick") / count * 1000
    kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(calls.items()))
    yield f"- A tick with {count:,} open: {each:.2f} ms a batch; {calls.at_storage} calls to storage; {kinds}."


def _retrieve(app: App, ids: list[str]) -> float:
    """Ask for a sample one by one, as many at once as a tick would. Return the seconds that all would take."""
    sample = random.sample(ids, min(SAMPLE, len(ids)))
    with ThreadPoolExecutor(MAX_CONCURRENCY) as pool:
        seconds = took(lambda: list(pool.map(app.openai.retrieve, sample)))
    return seconds * len(ids) / len(sample)
