"""A new version is deployed while jobs are at work: it continues each one from its captured stage to its report."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from devkit.stack import PROJECT
from tests.end_to_end.bench import Bench, wait_for
from tests.end_to_end.test_http import ask
from tests.upgrade.capture import STAGES
from tests.upgrade.stage import Stage, outline, read_stage, restore

pytestmark = pytest.mark.xdist_group("upgrade")

NAMES = [stage.__name__ for stage in STAGES]
ENDS = dict.fromkeys(NAMES, "partially_succeeded") | {
    "dropped": "rejected",  # the version that was dropped is not in the inbox any more
    "accepted": "succeeded",
    "cancelling": "cancelled",
    "bundled": "succeeded",
    "rejected": "rejected",
}
FINISHED = ("finished", "rejected")


@pytest.fixture(scope="module")
def stack() -> Iterator[Bench]:
    with Bench() as bench:
        yield bench


@pytest.fixture(scope="module")
def restored(stack: Bench) -> dict[str, Stage]:
    """Every stage, as it was put back."""
    stack.service.hold()
    stages = {name: restore(read_stage(name), stack.azurite.connection_string, stack.service) for name in NAMES}
    stack.service.release()
    return stages


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every stage as this version writes it."""
    folder = tmp_path_factory.mktemp("captured")
    command = [sys.executable, "-m", "tests.upgrade.capture", str(folder)]
    run = subprocess.run(command, cwd=PROJECT, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_as_this_version_writes_it(name: str, captured: Path) -> None:
    kept, now = outline(read_stage(name)), outline(read_stage(name, captured))
    assert (sorted(kept - now), sorted(now - kept)) == ([], []), (
        "What is stored has changed. Can the jobs at work still be read? Then run `python -m tests.upgrade.capture`, "
        "and say in CHANGELOG.md what changed."
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_job_at_work_comes_to_its_end(name: str, stack: Bench, restored: dict[str, Stage]) -> None:
    for path in restored[name]["paths"]:
        report = report_of(stack, path)
        assert report["status"] == ENDS[name]
        assert len(stack.history(report["job_id"])) == 1
        if report["status"] == "rejected":
            continue
        counts = report["counts"]
        given = ids(stack, f"batch-archive/{path}.jsonl")
        output, errors = (ids(stack, report["outputs"][kind]) for kind in ("output", "errors"))
        assert sorted([*output, *errors]) == sorted(given)
        assert counts == {"requests": len(given), "succeeded": len(output), "failed": len(errors)}
        attempts = [(batch["part"], batch["attempt"]) for batch in report["batches"]]
        assert len(attempts) == len(set(attempts)), "no attempt was sent twice"
        batches = {batch["id"] for batch in restored[name]["service"]["batches"]}
        assert batches <= {batch["id"] for batch in report["batches"]}, "batches of before are not given up"


def test_no_line_is_answered_twice(stack: Bench, restored: dict[str, Stage]) -> None:
    for stage in restored.values():
        for path in stage["paths"]:
            report_of(stack, path)
    assert {run["custom_id"]: run["succeeded"] for run in stack.service.executions() if run["succeeded"] > 1} == {}


def test_no_message_was_given_up(stack: Bench, restored: dict[str, Stage]) -> None:
    for stage in restored.values():
        for path in stage["paths"]:
            report_of(stack, path)
    assert ask(stack, "health")[1]["checks"]["poison"]["ok"]


@pytest.mark.parametrize("name", FINISHED)
def test_a_finished_job_is_listed_and_shown(name: str, stack: Bench, restored: dict[str, Stage]) -> None:
    [path] = restored[name]["paths"]
    report = kept_report(restored[name], path)
    status, detail = ask(stack, f"jobs/{report['job_id']}")
    assert status == 200
    assert {field: detail[field] for field in report} == report
    rows = ask(stack, "jobs", prefix=f"upgrade/{name}")[1]["jobs"]
    assert [(row["job_id"], row["status"], row["counts"]) for row in rows] == [
        (report["job_id"], report["status"], report["counts"])
    ]


def test_a_finished_job_can_be_retried(stack: Bench, restored: dict[str, Stage]) -> None:
    [path] = restored["finished"]["paths"]
    before = kept_report(restored["finished"], path)
    assert ask(stack, f"jobs/{before['job_id']}/retry", "POST")[0] == 202
    wait_for(lambda: (stack.user.report(path) or before)["times"]["retried"], "the report of the retry")
    after = report_of(stack, path)
    assert after["batches"][: len(before["batches"])] == before["batches"]
    assert len(after["batches"]) > len(before["batches"])


def report_of(stack: Bench, path: str) -> dict[str, Any]:
    """Return the report of a job as soon as nothing of it is at work any more."""
    wait_for(lambda: not stack.work(path.rpartition("/")[2]), f"{path} to be finished")
    report = stack.user.report(path)
    assert report is not None
    return report


def kept_report(stage: Stage, path: str) -> dict[str, Any]:
    """Return the report that was captured."""
    report: dict[str, Any] = msgspec.json.decode(stage["blobs"][f"batch-reports/{path}.json"]["content"])
    return report


def ids(stack: Bench, place: str | None) -> list[str]:
    """Return the custom_ids of a blob's lines."""
    return [line["custom_id"] for line in stack.user.lines(place)]
