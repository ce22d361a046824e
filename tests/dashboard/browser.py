"""The browser that the tests of the page drive: one that is on this machine, or one that set-up downloads.

`python -m tests.dashboard.browser` looks for one, and downloads one where there is none. It fails only where
REQUIRE_BROWSER is set: without a browser the tests of the page are skipped, and all others run.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Error, Playwright, sync_playwright

COMMANDS = ("chromium", "chromium-browser", "google-chrome", "chrome", "microsoft-edge", "msedge")
"""What Chromium and its relatives are called on the PATH."""
DOWNLOAD_SECONDS = 240
"""A download is given up after this time: a network may swallow packets instead of refusing them."""
APT_GET = ("apt-get", "-qq", "-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=20")

REQUIRED = "REQUIRE_BROWSER"
"""The variable that makes a missing browser a failure."""
NO_BROWSER = (
    "No browser for the tests of the page. To get one: install Chromium or Chrome (Debian: apt-get install chromium), "
    "or run `.venv/bin/playwright install --with-deps --only-shell chromium`."
)


_REASON = re.compile(r"^(?:Error|E): .*", re.MULTILINE)
"""How playwright and apt-get say what went wrong."""


class NoBrowserError(Exception):
    """There is no browser on this machine that starts; the message says how to get one."""

    def __init__(self) -> None:
        super().__init__(NO_BROWSER)


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Yield a browser without a window. Raises: NoBrowserError."""
    with sync_playwright() as playwright:
        browser = _launch(playwright)
        try:
            yield browser
        finally:
            browser.close()


def is_required() -> bool:
    """Return whether the tests fail, instead of being skipped, where there is no browser."""
    return bool(os.environ.get(REQUIRED))


def _launch(playwright: Playwright) -> Browser:
    """Return the first browser that starts: a file on the PATH may be a stub that asks for an installation."""
    ways: list[dict[str, Any]] = [{"executable_path": path} for path in map(shutil.which, COMMANDS) if path]
    ways.append({})  # playwright's own
    for way in ways:
        with contextlib.suppress(Error):
            return playwright.chromium.launch(**way, args=["--disable-gpu"])
    raise NoBrowserError


def main() -> int:
    """Look for a browser, and download one where there is none. Return the exit code."""
    if starts():
        return 0
    for name, steps in sources().items():
        _say(f"There is no browser for the tests of the page: {name} ...")
        if all(run(*step) for step in steps) and starts():
            return 0
    _say(NO_BROWSER)
    return 1 if is_required() else 0


def starts() -> bool:
    try:
        with open_browser():
            return True
    except NoBrowserError:
        return False


def sources() -> dict[str, list[tuple[Sequence[str], int | None]]]:
    """Return where a browser may come from: commands, each with its time limit, None where it must not be stopped."""
    download = (sys.executable, "-m", "playwright", "install", "--only-shell", "chromium")
    sources: dict[str, list[tuple[Sequence[str], int | None]]] = {
        "playwright downloads one": [(download, DOWNLOAD_SECONDS)]
    }
    if os.geteuid() == 0 and shutil.which("apt-get"):
        install = (*APT_GET, "install", "-y", "--no-install-recommends")
        sources["apt-get installs one"] = [
            ((*APT_GET, "update"), DOWNLOAD_SECONDS),
            ((*install, "--download-only", "chromium"), DOWNLOAD_SECONDS),
            ((*install, "chromium"), None),  # all is downloaded; dpkg is not to be stopped halfway
        ]
    return sources


def run(command: Sequence[str], seconds: int | None) -> bool:
    """Run a command, and end it with its children when its time is up. Return whether it succeeded."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(timeout=seconds)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            said = f"It was stopped after {seconds} seconds."
    if process.returncode:
        reason = _REASON.search(said)
        _say(f"  {reason[0] if reason else said.strip()}")
    return process.returncode == 0


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - set-up shows it on the terminal


if __name__ == "__main__":
    sys.exit(main())
