"""Without a browser the tests of the page are skipped, the last line says so, and set-up does not wait for ever."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from devkit.stack import PROJECT
from tests.dashboard import browser
from tests.processes import processes_with

PATIENCE = 120  # seconds


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without a browser: its folder for commands is empty, and playwright has downloaded nothing."""
    monkeypatch.delenv(browser.REQUIRED, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path))
    return tmp_path


def run(*module: str) -> "subprocess.CompletedProcess[str]":
    """Run a module in a process of its own: playwright has one event loop for each."""
    command = [sys.executable, "-m", *module]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.mark.usefixtures("bare")
def test_the_tests_of_the_page_are_skipped_and_the_last_line_says_how_to_get_a_browser() -> None:
    done = run("pytest", "-p", "no:cacheprovider", "-n", "1", "tests/dashboard/test_page.py")
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    assert "tests were skipped" in last
    assert browser.NO_BROWSER in last


@pytest.mark.usefixtures("bare")
def test_the_tests_of_the_page_fail_where_a_browser_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(browser.REQUIRED, "1")
    done = run("pytest", "-p", "no:cacheprovider", "tests/dashboard/test_page.py")
    assert done.returncode == 1
    assert " skipped" not in done.stdout.splitlines()[-1]
    assert browser.NO_BROWSER in done.stdout


def test_a_command_that_only_asks_for_an_installation_is_no_browser(bare: Path) -> None:
    stub = bare / "chromium-browser"
    stub.write_text("#!/bin/sh\necho 'Command requires the chromium snap to be installed.'\nexit 1\n")
    stub.chmod(0o755)
    look = "from tests.dashboard.browser import open_browser\nopen_browser().__enter__()"
    done = subprocess.run(
        [sys.executable, "-c", look], cwd=PROJECT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert "NoBrowserError: No browser" in done.stderr


@pytest.mark.parametrize(("required", "code"), [("", 0), ("1", 1)])
@pytest.mark.usefixtures("bare")
def test_set_up_goes_on_without_a_browser_unless_one_is_required(
    required: str, code: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(browser.REQUIRED, required)
    monkeypatch.setattr(browser, "starts", lambda: False)
    refused = [sys.executable, "-c", "import sys; sys.exit('Error: refused')"]
    monkeypatch.setattr(browser, "sources", lambda: {"a source": [(refused, None)]})
    assert browser.main() == code
    said = capfd.readouterr().out
    assert "a source ..." in said
    assert "Error: refused" in said
    assert said.endswith(f"{browser.NO_BROWSER}\n")


def test_a_download_that_hangs_is_ended_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MARK", str(tmp_path))
    assert not browser.run(["sh", "-c", "sleep 600 & wait"], 1)
    assert "stopped after 1 seconds" in capfd.readouterr().out
    end = time.monotonic() + PATIENCE
    while left := processes_with(str(tmp_path)):
        assert time.monotonic() < end, f"these processes are left: {left}"
        time.sleep(0.05)
