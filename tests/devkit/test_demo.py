"""`make demo`, `make run` and `make drop`, as a newcomer starts them; and nothing is left of them afterwards."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from devkit.demo import what_does_not_add_up
from devkit.host_log import readable

PROJECT = Path(__file__).parents[2]
SAMPLES = PROJECT / "devkit" / "samples"
DEMO_SECONDS = 120
START_SECONDS = 60
STOP_SECONDS = 60
LEAVE_SECONDS = 10

pytestmark = pytest.mark.xdist_group("demo")


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment that every process inherits, with a folder that marks it; at the end no process may have it."""
    folder = str(tmp_path / "devkit")
    yield os.environ | {"DEVKIT_FOLDER": folder}
    end = time.monotonic() + LEAVE_SECONDS
    while left := processes_with(folder):
        assert time.monotonic() < end, f"these processes are left: {left}"
        time.sleep(0.1)


def processes_with(mark: str) -> list[str]:
    """Return the commands of the processes that have the mark in their environment; only Linux shows them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue  # it has ended, or is not ours
    return found


@contextmanager
def running(environment: dict[str, str], folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """`make run`, in a session of its own as in a terminal of its own."""
    with (folder / "run.log").open("wb") as log:
        command = [sys.executable, "-m", "devkit.run", "--speed", "200"]
        process = subprocess.Popen(
            command, cwd=PROJECT, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield process
        finally:
            process.kill()  # its children end with it, however it ends
            process.wait()


def drop(environment: dict[str, str], file: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """`make drop FILE=<file>`, to its end."""
    out = Path(environment["DEVKIT_FOLDER"]).parent / "out"
    command = [sys.executable, "-m", "devkit.drop", str(file), "--out", str(out), *options]
    return subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def wait_until_up(environment: dict[str, str], stack: "subprocess.Popen[bytes]") -> None:
    """Return when `make drop` can find the stack."""
    folder = Path(environment["DEVKIT_FOLDER"])
    end = time.monotonic() + START_SECONDS
    while not ((folder / "run.json").is_file() and (folder / "run.json").read_bytes().endswith(b"}\n")):
        assert stack.poll() is None, (folder.parent / "run.log").read_text()
        assert time.monotonic() < end, "the stack did not come up"
        time.sleep(0.1)


def results(done: "subprocess.CompletedProcess[str]", name: str) -> dict[str, Path]:
    """Return the files of that drop which it says it wrote, by what they are."""
    files = [PROJECT / line.strip() for line in done.stdout.splitlines()]
    return {file.name.split(".")[1]: file for file in files if file.parent.name == name and file.is_file()}


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_demo_shows_findings_results_and_where_they_lie(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "devkit.demo"],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEMO_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for code in ("duplicate_custom_id", "invalid_json_line", "invalid_request"):
        assert code in done.stdout
    assert "rejected: 7 findings" in done.stdout
    assert "mismatch" not in done.stdout  # several deployments and urls may be mixed
    assert "20 requests = 19 succeeded + 1 failed" in done.stdout
    assert "from batch-output/good/" in done.stdout
    files = results(done, "good")
    assert len(lines(files["output"])) == 19
    assert [line["custom_id"] for line in lines(files["errors"])] == ["message-17"]
    assert json.loads(files["report"].read_text())["counts"] == {"requests": 20, "succeeded": 19, "failed": 1}


def test_a_file_is_dropped_into_the_running_stack_and_ctrl_c_ends_it(
    environment: dict[str, str], tmp_path: Path
) -> None:
    good = tmp_path / "only-good.jsonl"
    good.write_text("".join((SAMPLES / "good.jsonl").read_text().splitlines(keepends=True)[:5]))
    nameless = tmp_path / "nameless.jsonl"
    nameless.write_text(good.read_text().replace('"model": "batch"', '"model": "REPLACE-WITH-MODEL-DEPLOYMENT-NAME"'))
    with running(environment, tmp_path) as stack:
        wait_until_up(environment, stack)
        done = drop(environment, good)
        assert done.returncode == 0, done.stdout + done.stderr
        files = results(done, "only-good")
        assert len(lines(files["output"])) == 5
        assert json.loads(files["report"].read_text())["status"] == "succeeded"

        rejected = drop(environment, SAMPLES / "bad.jsonl")
        assert rejected.returncode == 1
        assert "duplicate_custom_id" in rejected.stdout
        assert len(lines(results(rejected, "bad")["errors"])) == 7

        filled = drop(environment, nameless, "--deployment", "my-batch")
        assert filled.returncode == 0, filled.stdout + filled.stderr
        assert {line["response"]["body"]["model"] for line in lines(results(filled, "nameless")["output"])} == {
            "my-batch"
        }

        os.killpg(stack.pid, signal.SIGINT)  # a terminal sends it to the whole group
        assert stack.wait(STOP_SECONDS) == 0
    log = (tmp_path / "run.log").read_text()
    assert "make drop FILE=" in log
    assert "job_finished" in log
    assert drop(environment, good).returncode == 1


def test_a_run_that_was_killed_is_not_believed(environment: dict[str, str], tmp_path: Path) -> None:
    with running(environment, tmp_path) as stack:
        wait_until_up(environment, stack)
        stack.kill()
        stack.wait()
    done = drop(environment, SAMPLES / "good.jsonl")
    assert done.returncode == 1
    assert "was killed" in done.stderr


class Results:
    """A user's view of one job: two dropped, one of them answered, the other failed."""

    def __init__(self, output: list[str], errors: list[str]) -> None:
        self._lines = {"out": [{"custom_id": each} for each in output], "err": [{"custom_id": each} for each in errors]}

    def read(self, place: str) -> bytes | None:  # noqa: ARG002 - the only blob that is read so
        return b'{"custom_id": "a"}\n\n{"custom_id": "b"}'

    def lines(self, place: str | None) -> list[dict[str, Any]]:
        return list(self._lines[place or ""])


@pytest.mark.parametrize(
    ("output", "errors", "adds_up"),
    [
        (["a"], ["b"], True),
        (["b"], ["a"], True),
        (["a"], [], False),
        (["a"], ["a"], False),
        (["a"], ["c"], False),
        (["a", "b"], ["b"], False),
    ],
)
def test_results_that_do_not_add_up_are_noticed(output: list[str], errors: list[str], adds_up: bool) -> None:
    report = {
        "status": "partially_succeeded",
        "counts": {"requests": 2, "succeeded": 1, "failed": 1},
        "outputs": {"output": "out", "errors": "err", "archive": "arc"},
    }
    assert (what_does_not_add_up(Results(output, errors), report) == []) is adds_up


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (
            '2026-11-22 03:12:37,066 app  [efb2936e] INFO batch_fn: {"event": "job_accepted", "requests": 20}',
            "03:12:37 job_accepted    requests=20",
        ),
        ("2026-11-22 03:12:37,150 host INFO Executed 'Functions.tick' (Succeeded, Id=1, Duration=52ms)", None),
        ('2026-11-22 03:12:37,066 app  INFO batch_fn: {"event": "tick_done", "seconds": 0.1, "errors": 0}', None),
        (
            '2026-11-22 03:12:37,066 app  INFO batch_fn: {"event": "tick_done", "seconds": 0.1, "errors": 2}',
            "03:12:37 tick_done       seconds=0.1 errors=2",
        ),
        (
            "2026-11-22 03:12:37,150 host ERROR Executed 'Functions.tick' (Failed, Id=1, Duration=52ms)",
            "03:12:37 ERROR Executed 'Functions.tick' (Failed, Id=1, Duration=52ms)",
        ),
        ("ValueError: no", "ValueError: no"),
        ("", None),
    ],
)
def test_the_log_is_shown_without_its_routine(line: str, shown: str | None) -> None:
    assert readable(line + "\n") == shown
