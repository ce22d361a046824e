"""What the command line does without storage: it validates, takes settings, and says what is wrong in a sentence."""

import json
import os
from pathlib import Path

import msgspec
import pytest

from batch_fn.app import App
from batch_fn.cli.commands import commands, environment, main
from batch_fn.cli.display import standing
from batch_fn.cli.transfer import listed
from batch_fn.core.jobs import Job, JobState, Part, PartState
from batch_fn.core.waits import Wait
from batch_fn.queries.job_detail import in_hand
from batch_fn.settings import Settings
from batch_fn.validation.check import check
from batch_fn.validation.requests import Rules
from devkit import run_file
from devkit.azurite import Azurite
from devkit.stack import provision
from tests.conftest import NOON, a_job, a_part
from tests.queries.test_queries import days_ago, finished_at

PROJECT = Path(__file__).parents[2]
GOOD, BAD = PROJECT / "devkit/samples/good.jsonl", PROJECT / "devkit/samples/bad.jsonl"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with no settings file, and an environment without the app's settings; nothing runs here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_file, "FOLDER", tmp_path)
    monkeypatch.setattr(run_file, "RUN_FILE", tmp_path / "run.json")
    for name in ("BatchStorage", "AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_API_KEY", "MIXED_FILES", "MAX_DROP_BYTES"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_a_good_file_is_valid(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(GOOD)]) == 0
    out, err = capfd.readouterr()
    assert out == ""
    assert "20 good lines, 0 findings" in err


def test_findings_are_those_of_the_app_line_by_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(BAD)]) == 1
    found = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    checked = [each for each in check([BAD.read_bytes()], Rules(mixed=True)) if hasattr(each, "code")]
    assert [(each["line"], each["code"]) for each in found] == [(each.line, each.code) for each in checked]


@pytest.mark.parametrize("as_json", [False, True])
def test_each_finding_says_which_file_it_is_of(
    elsewhere: Path, capfd: pytest.CaptureFixture[str], *, as_json: bool
) -> None:
    first, second = elsewhere / "first.jsonl", elsewhere / "second.jsonl"
    first.write_bytes(b"x\n")
    second.write_bytes(b"y\nz\n")
    assert main(["validate", str(first), str(second), *(["--json"] if as_json else [])]) == 1
    out = capfd.readouterr().out
    if as_json:
        found = [(file["file"], each["line"]) for file in json.loads(out)["files"] for each in file["findings"]]
    else:
        found = [(each["file"], each["line"]) for each in map(json.loads, out.splitlines())]
    assert found == [(str(first), 1), (str(second), 1), (str(second), 2)]


def test_a_file_whose_name_is_not_utf8_can_be_validated(elsewhere: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = elsewhere / os.fsdecode(b"monday-\xff.jsonl")
    file.write_bytes(b"x\n")
    for arguments in ([], ["--json"]):
        assert main(["validate", str(file), *arguments]) == 1
        assert r"monday-\\udcff.jsonl" in capfd.readouterr().out


def test_a_file_with_more_findings_than_the_limit_is_not_read_on(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MAX_FINDINGS", "3")
    file = elsewhere / "long.jsonl"
    file.write_bytes(b"x\n" * 1_000)
    assert main(["validate", str(file)]) == 1
    *found, last = map(json.loads, capfd.readouterr().out.splitlines())
    assert (len(found), last["code"], last["line"]) == (3, "too_many_findings", 4)
    assert "MAX_FINDINGS" in last["message"]


def test_json_is_one_document_for_all_files(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(GOOD), str(BAD), "--json"]) == 1
    good, bad = json.loads(capfd.readouterr().out)["files"]
    assert (good["requests"], good["finding_count"]) == (20, 0)
    assert bad["finding_count"] == len(bad["findings"]) == 7


def test_the_settings_that_are_there_count(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MAX_DROP_BYTES", "100")
    assert main(["validate", str(GOOD)]) == 1
    assert "MAX_DROP_BYTES" in json.loads(capfd.readouterr().out)["message"]


def test_a_deployment_fills_in_what_is_missing(elsewhere: Path) -> None:
    line = {"custom_id": "a", "method": "POST", "url": "/chat/completions", "body": {"messages": []}}
    file = elsewhere / "no-model.jsonl"
    file.write_text(json.dumps(line | {"body": {"messages": [{"role": "user", "content": "Hello"}]}}))
    assert main(["validate", str(file)]) == 1
    assert main(["validate", str(file), "--deployment", "gpt"]) == 0


@pytest.mark.parametrize("arguments", [["jobs"], ["show", "x"], ["drop", str(GOOD)], ["fetch", "x"], ["cancel", "x"]])
def test_a_missing_setting_is_named(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    code = main(arguments)
    said = capfd.readouterr().err
    assert (code, "BatchStorage is missing" in said) in {(2, True), (1, False)}
    assert "Traceback" not in said
    if arguments[0] in {"jobs", "drop"}:
        assert code == 2


@pytest.mark.parametrize("command", ["show", "fetch", "cancel", "retry"])
def test_what_is_no_job_id_is_told_without_asking_storage(
    command: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BatchStorage", "UseDevelopmentStorage=true")
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr("requests.Session.request", lambda *_, **__: pytest.fail("it asked storage"))
    assert main([command, "nonsense"]) == 1
    assert "nonsense" in capfd.readouterr().err


def test_the_settings_file_adds_to_the_environment(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"BatchStorage": "UseDevelopmentStorage=true", "AZURE_OPENAI_ENDPOINT": "https://file.openai.azure.com"}
    (elsewhere / "local.settings.json").write_text(json.dumps({"Values": values}))
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://environment.openai.azure.com")
    settings = Settings.read(environment())
    assert settings.storage == "UseDevelopmentStorage=true"
    assert settings.openai_endpoint == "https://environment.openai.azure.com"


def test_a_broken_settings_file_is_told(elsewhere: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (elsewhere / "local.settings.json").write_text("{")
    assert main(["jobs"]) == 1
    assert "local.settings.json cannot be read" in capfd.readouterr().err


RUNNING = run_file.Running(
    pid=1,
    environment={"BatchStorage": "UseDevelopmentStorage=true", "AZURE_OPENAI_ENDPOINT": "http://127.0.0.1:1"},
    service_url="http://127.0.0.1:1",
    host_url="http://127.0.0.1:2",
    log="host.log",
)


def test_where_no_storage_is_named_it_is_that_of_the_stack_that_runs_here(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://real.openai.azure.com")
    monkeypatch.setenv("BatchStorage__blobServiceUri", " ")
    with run_file.hold() as held:
        held.write(RUNNING)
        found = environment()
    assert RUNNING.environment.items() <= found.items(), "its storage goes with its own service"
    out, err = capfd.readouterr()
    assert (out, err) == ("", "Using the stack of `make run`.\n")
    assert "BatchStorage" not in environment(), "it does not run any more"


@pytest.mark.parametrize("name", ["BatchStorage", "BatchStorage__blobServiceUri"])
def test_where_a_storage_is_named_the_stack_that_runs_here_is_left_alone(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, "https://mine.blob.core.windows.net")
    with run_file.hold() as held:
        held.write(RUNNING)
        found = environment()
    assert found[name] == "https://mine.blob.core.windows.net"
    assert "AZURE_OPENAI_ENDPOINT" not in found
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("width", ["80", "40"])
def test_the_list_of_commands_cuts_no_text(
    width: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    assert main(["--help"]) == 0
    shown = " ".join(capfd.readouterr().out.partition("Commands:")[2].split())
    assert commands.commands
    for name, command in commands.commands.items():
        first_paragraph = (command.help or "").partition("\n\n")[0]
        assert f"{name} {' '.join(first_paragraph.split())}" in shown
    assert "..." not in shown


@pytest.mark.parametrize("arguments", [["nonsense"], ["validate"], ["validate", "absent"], ["jobs", "--limit", "0"]])
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert main(arguments) == 2


def test_a_status_that_there_is_not_is_told_which_there_are(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs", "--status", "done,failed"]) == 2
    assert "--status takes accepted, cancelled, cancelling," in capfd.readouterr().err


OPEN = a_part(state=PartState.OPEN, batch_id="b", batch_status="in_progress", completed=3, failed_so_far=1)
SETTLED = a_part(state=PartState.SETTLED, batch_id="b", batch_status="completed", succeeded=8)


@pytest.mark.parametrize(
    ("job", "parts", "said"),
    [
        (a_job(), [], "dropped"),
        (a_job(cancelled=True), [], "cancelling"),
        (a_job(state=JobState.ACCEPTED), [a_part()], "accepted, 0/20: to be sent"),
        (a_job(state=JobState.ACCEPTED), [a_part(wait=Wait(reason="no_room"))], "accepted, 0/20: waits: no_room"),
        (
            a_job(state=JobState.ACCEPTED),
            [OPEN, a_part(number=2, state=PartState.BUNDLED), a_part(number=3, state=PartState.CLAIMED)],
            "accepted, 3/20, 1 failed so far: 1 in_progress; 1 waiting to be bundled; 1 being sent",
        ),
        (
            a_job(state=JobState.ACCEPTED),
            [SETTLED, a_part(attempt=2, requests=2)],
            "accepted, 8/20: to be sent (attempt 2)",
        ),
        (
            a_job(state=JobState.ACCEPTED, cancelled=True),
            [SETTLED, OPEN],
            "cancelling, 11/20, 1 failed so far: in_progress",
        ),
        (a_job(state=JobState.FINISHING), [SETTLED], "finishing, 8/20"),
        (
            a_job(state=JobState.ACCEPTED, retried_at=NOON),
            [a_part(number=0, state=PartState.SETTLED)],
            "retrying, 10/20",
        ),
    ],
)
def test_where_a_job_stands_is_said_in_a_few_words(job: Job, parts: list[Part], said: str) -> None:
    requests = 0 if job.state is JobState.DROPPED else 20
    assert standing(in_hand(msgspec.structs.replace(job, requests=requests), parts)) == said


def test_as_many_jobs_are_listed_as_asked_for_however_far_apart_they_are(
    azurite: Azurite, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batch_fn.queries.job_list.SCANNED_ROWS", 3)
    provision(azurite.connection_string, settings)
    app = App(settings)
    for number in range(12):
        app.tables.finish(
            finished_at(days_ago(number), number, name="rare.jsonl" if number % 5 == 0 else "other.jsonl")
        )
    page = listed(app, 2, None, prefix="rare")
    assert [row["times"]["dropped"] for row in page.jobs] == ["2026-11-22T12:00:00Z", "2026-11-17T12:00:00Z"]
    rest = listed(app, 2, page.after, prefix="rare")
    assert ([row["times"]["dropped"] for row in rest.jobs], rest.after) == (["2026-11-12T12:00:00Z"], None)
    assert len(listed(app, 100, None).jobs) == 12


def test_the_command_line_is_not_deployed() -> None:
    ignored = (PROJECT / ".funcignore").read_text().split()
    assert {"batch_fn/__main__.py", "batch_fn/cli/", "requirements-cli.txt"} <= {*ignored}
    assert "click" not in (PROJECT / "requirements.txt").read_text()
