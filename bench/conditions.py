"""What a run was made on and with."""

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

from bench.validation import HOW, YARDSTICKS

OURS = ("azure-functions", "azure-functions-runtime", "azure-storage-blob", "azure-data-tables", "openai", "msgspec")


def conditions(*, quick: bool) -> list[str]:
    """Return the conditions, a line each."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    return [
        time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()) + (", --quick: small sizes, few rounds" if quick else ""),
        f"{cores} cores ({_processor()}), {_memory()}, {platform.system()} {platform.machine()}",
        f"load average at the start, over 1, 5 and 15 minutes: {load}",
        f"Python {platform.python_version()}; {', '.join(f'{name} {_version(name)}' for name in OURS)}",
        f"yardsticks: {', '.join(_yardsticks())}",
    ]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1024**3:.0f} GiB"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _yardsticks() -> list[str]:
    found = {each.name: each.version for each in distributions(path=[str(YARDSTICKS)])}
    return [f"{name} {found.get(name) or _version(name)}" for name in HOW]
