"""The host and the process: versions, the tick's age, poison messages, disk and memory."""

import importlib.metadata
import json
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from batch_fn.app import App
from batch_fn.core.checkup import Check, State
from batch_fn.runtime import clock

PYTHON = (3, 13)
NEEDED_DISK = 300_000_000
NEEDED_MEMORY = 400_000_000
TICK_LATE_SECONDS = 600
HOST_FILE = Path(__file__).parents[2] / "host.json"


def check_host(app: App, *, deployed: bool) -> Iterator[Check]:
    """Yield a check for each thing; `deployed`: this process is the app's own, and not a person's command line."""
    yield _tick(app)
    yield from _poison(app)
    if not deployed:
        return
    bundle = json.loads(HOST_FILE.read_text()).get("extensionBundle", {}).get("version", "none")
    yield Check("host: extension bundle", State.OK if bundle != "none" else State.WRONG, f"host.json names {bundle}.")
    right = sys.version_info[:2] >= PYTHON
    cure = "" if right else "Deploy with Python 3.13 (functionAppConfig.runtime.version)."
    saw = f"The worker runs Python {platform.python_version()}, with {_worker()}."
    yield Check("host: Python", State.OK if right else State.WRONG, saw, cure)
    yield _room("host: temporary disk", "disk", shutil.disk_usage(tempfile.gettempdir()).free, NEEDED_DISK)
    if (free := _memory()) is not None:
        yield _room("host: memory", "memory", free, NEEDED_MEMORY)


def _tick(app: App) -> Check:
    last = app.tables.last_tick()
    if last is None:
        cure = "Look at the app's log: the timer function `tick` runs each minute."
        return Check("host: tick", State.WARNING, "No tick has come to its end yet.", cure)
    age = int((clock.now() - last).total_seconds())
    if age <= TICK_LATE_SECONDS:
        return Check("host: tick", State.OK, f"The last tick ended {max(0, age)} seconds ago.")
    cure = "Restart the app (az functionapp restart), and look at the log of the function `tick`."
    return Check("host: tick", State.WRONG, f"The last tick ended {age} seconds ago.", cure)


def _poison(app: App) -> Iterator[Check]:
    given_up = False
    for queue, count in app.queues.poisoned().items():
        if count:
            cure = "Look for poison records in the log (docs/operations.md)."
            yield Check(f"host: queue {queue}", State.WARNING, f"{count} messages that the host gave up.", cure)
            given_up = True
    if not given_up:
        yield Check("host: poison queues", State.OK, "There is no message that the host gave up.")


def _room(name: str, what: str, free: int, needed: int) -> Check:
    saw = f"{free // 1_000_000:,} MB of {what} are free, and a process uses up to {needed // 1_000_000} MB."
    if free >= needed:
        return Check(name, State.OK, saw)
    return Check(name, State.WARNING, saw, "Deploy with a larger instance (instanceMemoryMB).")


def _worker() -> str:
    """Return what runs the functions in this process, as far as its packages tell."""
    found = [f"{name} {_version(name)}" for name in ("azure-functions-runtime", "azure-functions") if _version(name)]
    return " and ".join(found) or "a worker that does not tell its version"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _memory() -> int | None:
    """Return how many bytes of memory are available, None where that cannot be seen."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith("MemAvailable:")), None)
    return int(found.split()[1]) * 1024 if found else None
