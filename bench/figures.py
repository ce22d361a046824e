"""The figures, each a module of its own, in the order of the table."""

import importlib
from pathlib import Path

from bench.measuring import Sizes
from bench.results import Result

FIGURES = ("validation", "submission", "collection", "memory", "tick", "history", "bundles", "calls", "start")


def measure(name: str, sizes: Sizes, folder: Path) -> Result:
    """Measure one figure, in a process of its own: what it imports, caches or breaks is gone after it."""
    result: Result = importlib.import_module(f"bench.{name}").run(sizes, folder)
    return result
