"""How it is measured: ways of doing the same thing take turns, so that a busy machine is as busy for each of them."""

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

MB = 1_000_000


class Sizes(NamedTuple):
    """How much is measured."""

    quick: bool

    def of[T](self, full: T, quick: T) -> T:
        """Return the size for this run."""
        return quick if self.quick else full


class Rounds(NamedTuple):
    """What each way took in each round."""

    seconds: dict[str, list[float]]

    def median(self, way: str) -> float:
        """Return the median of a way's seconds."""
        return statistics.median(self.seconds[way])

    def ratio(self, way: str, to: str) -> float:
        """Return the median of the rounds' ratios: what slows a whole round down does not move it."""
        return statistics.median(a / b for a, b in zip(self.seconds[way], self.seconds[to], strict=True))


def interleaved(rounds: int, ways: Mapping[str, Callable[[], float]]) -> Rounds:
    """Let each way have its turn in each round, every other round backwards. A way returns the seconds it took."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            gc.collect()
            seconds[name].append(ways[name]())
    return Rounds(seconds)


def took(work: Callable[[], object]) -> float:
    """Return the seconds of real time that `work` took."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def cpu_took(work: Callable[[], object]) -> float:
    """Return the seconds of processor time, of all threads of this process, that `work` took."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def used_up(items: Iterable[object]) -> int:
    """Go through all the items; return how many there were."""
    count = 0
    for _ in items:
        count += 1
    return count
