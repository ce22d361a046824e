"""What the command line does without storage: it validates, takes settings, and says what is wrong in a sentence."""

import json
from pathlib import Path

import pytest

from batch_fn.command_line import environment, main
from batch_fn.requests import Rules, check
from batch_fn.settings import Settings

PROJECT = Path(__file__).parents[1]
GOOD, BAD = PROJECT / "devkit/samples/good.jsonl", PROJECT / "devkit/samples/bad.jsonl"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with no settings file, and an environment without the app's settings."""
    monkeypatch.chdir(tmp_path)
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


@pytest.mark.parametrize("arguments", [["nonsense"], ["validate"], ["validate", "absent"], ["jobs", "--limit", "0"]])
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert main(arguments) == 2


def test_the_command_line_is_not_deployed() -> None:
    ignored = (PROJECT / ".funcignore").read_text().split()
    assert {"batch_fn/__main__.py", "batch_fn/command_line.py", "requirements-cli.txt"} <= {*ignored}
    assert "click" not in (PROJECT / "requirements.txt").read_text()
