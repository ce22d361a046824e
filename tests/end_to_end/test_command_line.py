"""A person at a terminal drops a file, follows it, looks at it, retries it and has its results on disk."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from devkit.stack import PROJECT
from tests.end_to_end.bench import Bench, wait_for
from tests.end_to_end.stories import jsonl, line, lines

pytestmark = pytest.mark.xdist_group("command-line")


@pytest.fixture(scope="module")
def stack() -> Iterator[Bench]:
    with Bench({"MAX_ATTEMPTS": "1"}) as bench:
        yield bench


class Terminal:
    """Runs commands in a folder, with the settings of the stack."""

    def __init__(self, stack: Bench, folder: Path) -> None:
        self.folder = folder
        self._environment = os.environ | stack.environment | {"PYTHONPATH": str(PROJECT)}
        self._key = stack.service.api_key

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "batch_fn", *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.folder, env=self._environment, stdout=pipe, stderr=pipe, text=True, encoding="utf-8"
        )

    def run(self, *arguments: str, code: int = 0) -> str:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=90)
        assert process.returncode == code, err
        assert self._key not in out + err
        assert "\x1b" not in out + err, "no colours where there is no terminal"
        return out

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", code=code))

    def file(self, name: str, content: bytes) -> str:
        (self.folder / name).write_bytes(content)
        return name


@pytest.fixture
def terminal(stack: Bench, tmp_path: Path) -> Terminal:
    return Terminal(stack, tmp_path)


@pytest.fixture
def held(stack: Bench) -> Iterator[Bench]:
    """The stack, its service letting no batch move on: no job comes to its end."""
    stack.service.hold()
    yield stack
    stack.service.release()


def ask(stack: Bench, path: str) -> Any:
    """What the HTTP API says of the same."""
    request = Request(f"{stack.host.url}/api/{path}", headers={"x-functions-key": stack.host.keys["function"]})
    with urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_a_file_is_dropped_followed_and_brought_home(terminal: Terminal, stack: Bench) -> None:
    file = terminal.file("monday.jsonl", jsonl(*lines(3)))
    [done] = terminal.json("drop", file, "--as", "sales/monday.jsonl", "--out", "results")["jobs"]
    report = json.loads((terminal.folder / done["files"][1]).read_text())
    assert report["status"] == "succeeded"
    assert report["input"]["name"] == "sales/monday.jsonl"
    base = f"results/sales/monday/{report['job_id']}"
    assert done["files"] == [f"{base}.output.jsonl", f"{base}.report.json"]
    assert len((terminal.folder / done["files"][0]).read_text().splitlines()) == 3
    assert {name: done[name] for name in report} == report
    shown = terminal.json("show", report["job_id"])
    assert shown | {"files": done["files"]} == done
    assert shown == ask(stack, f"jobs/{report['job_id']}")
    page = terminal.json("jobs", "--prefix", "sales/")
    assert page == ask(stack, "jobs?prefix=sales/")
    [row] = page["jobs"]
    assert (row["job_id"], row["status"], row["counts"]["succeeded"]) == (report["job_id"], "succeeded", 3)
    assert report["job_id"] in terminal.run("jobs", "--status", "succeeded")
    assert terminal.json("jobs", "--status", "rejected", "--prefix", "sales/")["jobs"] == []
    assert terminal.json("jobs", "--since", "2999-01-01")["jobs"] == []
    assert terminal.run("fetch", report["job_id"], "--out", "again").splitlines()[0].endswith(".output.jsonl")
    terminal.run("cancel", report["job_id"], code=1)
    terminal.run("retry", report["job_id"], code=1)


def test_failed_lines_exit_with_1_and_go_again_with_retry(terminal: Terminal) -> None:
    file = terminal.file("partly.jsonl", jsonl(*lines(2), line("once", "[[status 500 x1]]")))
    [done] = terminal.json("drop", file, "--wait", code=1)["jobs"]
    assert done["counts"] == {"requests": 3, "succeeded": 2, "failed": 1}
    [again] = terminal.json("retry", done["job_id"], "--wait")["jobs"]
    assert again["counts"] == {"requests": 3, "succeeded": 3, "failed": 0}


def test_the_findings_before_are_the_findings_after(terminal: Terminal) -> None:
    file = terminal.file("bad.jsonl", jsonl(*lines(2), b"nonsense", line("task-1")))
    before = terminal.run("validate", file, code=1)
    [done] = terminal.json("drop", file, "--out", ".", code=1)["jobs"]
    assert done["status"] == "rejected"
    errors = (terminal.folder / done["files"][0]).read_text().splitlines()
    found = [json.loads(each) for each in before.splitlines()]
    assert found == [{"file": str(file)} | json.loads(each) for each in errors]


def test_the_deployment_goes_with_the_file(terminal: Terminal) -> None:
    content = line("one").replace(b'"model": "global-batch", ', b"")
    file = terminal.file("no-model.jsonl", content)
    [done] = terminal.json("drop", file, "--deployment", "global-batch", "--wait")["jobs"]
    assert done["batches"][0]["deployment"] == "global-batch"


def test_a_job_is_cancelled_and_says_so(terminal: Terminal, held: Bench) -> None:
    [dropped] = terminal.json("drop", terminal.file("stop.jsonl", jsonl(*lines(3))))["jobs"]
    wait_for(lambda: held.batches(dropped["job_id"]), "the batch")
    cancelled = terminal.json("cancel", dropped["job_id"])
    assert (cancelled["status"], cancelled["progress"]["requests"]) == ("cancelling", 3)
    assert terminal.json("show", dropped["job_id"])["status"] == "cancelling"


def test_an_interrupt_is_clean_and_the_job_goes_on(terminal: Terminal, held: Bench) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in a shell's background it is ignored, by children too
    process = terminal.start("drop", terminal.file("long.jsonl", jsonl(*lines(2))), "--wait")
    assert process.stderr is not None
    seen = (line for line in process.stderr if "dropped" in line or "accepted" in line)
    assert next(seen, None), "it is followed"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "continue without this command" in err
    held.service.release()
    assert wait_for(lambda: terminal.json("jobs", "--prefix", "long", "--status", "succeeded")["jobs"], "its end")


def test_a_job_that_is_not_there_is_told(terminal: Terminal) -> None:
    for command in ("show", "fetch", "cancel", "retry"):
        terminal.run(command, "20200101T000000Z-0123456789", code=1)
