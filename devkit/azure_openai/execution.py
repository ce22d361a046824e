"""The execution of a batch's lines: when, in which order, by whom, and how often each was executed."""

import asyncio
import itertools
import math
import random
from collections.abc import Iterator
from typing import Any

import msgspec

from devkit.azure_openai.batch import Batch
from devkit.azure_openai.clock import ServiceClock
from devkit.azure_openai.lines import Inspection, Line
from devkit.azure_openai.model import Answer, BuiltInModel, ForwardingModel, failure, output_line
from devkit.azure_openai.options import Options
from devkit.azure_openai.scripts import Scripts, line_scripts

_STEPS = 100
"""In how many steps at most the lines of a batch are executed."""
_BUILT_IN_CONCURRENCY = 50
"""The built-in model never waits; after so many lines, other tasks get their turn."""
_OPEN_BATCHES = 50
"""How many batches may have their files open at once: thousands may come to the same step in the same moment."""


class Executions:
    """How often each line was executed: a line that was paid for twice shows here."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], list[int]] = {}

    def count(self, line: Line, digest: str, answer: Answer) -> None:
        """Note one execution."""
        counts = self._counts.setdefault((line.custom_id, digest), [0, 0])
        counts[0] += 1
        counts[1] += answer.ok

    def all(self) -> list[dict[str, Any]]:
        """One row for each line: `custom_id`, `body_sha256`, `count`, `succeeded`."""
        return [
            {"custom_id": custom_id, "body_sha256": digest, "count": count, "succeeded": succeeded}
            for (custom_id, digest), (count, succeeded) in self._counts.items()
        ]

    def clear(self) -> None:
        """Start to count anew."""
        self._counts.clear()


class Execution:
    """Executes lines of any batch."""

    def __init__(self, options: Options, clock: ServiceClock, scripts: Scripts) -> None:
        self._options = options
        self._clock = clock
        self._scripts = scripts
        self._built_in = BuiltInModel()
        self._forwarding = ForwardingModel(options)
        self._turns = asyncio.Semaphore(_OPEN_BATCHES)
        self.executions = Executions()

    async def run(self, batch: Batch, inspection: Inspection, *, halfway: bool, paced: bool) -> None:
        """Execute the lines that were not; half of all, if it shall stop halfway; each in its time, if paced."""
        count = len(inspection.offsets)
        batch.executed = batch.executed or bytearray(count)
        seconds = self._options.in_progress_seconds + self._options.seconds_per_line * count
        started, left = self._clock.now(), count // 2 if halfway else count
        for due, indices in _schedule(count, seconds, inspection.slow, self._options.seed):
            if paced:
                await self._clock.sleep_until(started + due)
            now = indices[:left]
            left -= len(now)
            async with self._turns:
                await self._step(batch, inspection, [index for index in now if not batch.executed[index]])
            if left == 0:
                return

    async def clear(self) -> None:
        """Forget what was counted, and end the connections."""
        self.executions.clear()
        await self._forwarding.close()

    async def _step(self, batch: Batch, inspection: Inspection, indices: list[int]) -> None:
        """Execute these lines, and write each answer as soon as there is one: a batch may be stopped at any await."""
        width = self._options.forward_concurrency if self._options.forward else _BUILT_IN_CONCURRENCY
        with batch.output.open("ab") as output, batch.error_output.open("ab") as errors:

            async def execute(index: int, line: Line) -> None:
                answer = await self._answer(line)
                batch.executed[index] = 1
                if answer is None:
                    return
                batch.completed += answer.ok
                batch.failed += not answer.ok
                text = msgspec.json.encode(output_line(line.custom_id, answer)) + b"\n"
                (output if answer.ok else errors).write(text)

            for some in itertools.batched(inspection.lines(indices), width, strict=False):
                async with asyncio.TaskGroup() as group:
                    for index, line in some:
                        group.create_task(execute(index, line))

    async def _answer(self, line: Line) -> Answer | None:
        """The line's answer; None if it shall be missing."""
        digest, scripts = line.digest(), line_scripts(line.text())
        script = self._scripts.for_line(scripts, f"{line.custom_id} {digest}") if scripts else None
        if script and script.status is None:
            return None
        model = self._forwarding if self._options.forward else self._built_in
        answer = failure(script.status) if script and script.status else await model.answer(line)
        self.executions.count(line, digest, answer)
        return answer


def _schedule(count: int, seconds: float, slow: dict[int, float], seed: int) -> Iterator[tuple[float, list[int]]]:
    """Which lines are executed when, in service seconds from the start; in an order that is not the file's."""
    order = list(range(count))
    random.Random(seed).shuffle(order)  # noqa: S311 - nothing here is a secret
    if order == sorted(order):
        order.reverse()  # few lines may stay in order by chance: a client that relies on it shall not get away with it
    step = max(seconds / _STEPS, 1e-3)
    due = sorted((math.ceil(max(seconds * (n + 1) / count, slow.get(i, 0)) / step), n, i) for n, i in enumerate(order))
    for ticks, rows in itertools.groupby(due, key=lambda row: row[0]):
        yield ticks * step, [index for _, _, index in rows]
