"""The doctor on the whole stack: asked over HTTP and from a terminal, by the tick, with a canary if wanted."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from devkit.azure_openai.process import AzureOpenAI
from tests.end_to_end.bench import Bench, wait_for
from tests.end_to_end.test_command_line import Terminal
from tests.end_to_end.test_http import ask

pytestmark = pytest.mark.xdist_group("doctor")

EVENTS = "storage: events of the inbox"


@pytest.fixture(scope="module")
def stack() -> Iterator[Bench]:
    # What a test makes short is no fault to be found here.
    settings = {"DOCTOR_SECONDS": "1", "SETTLE_SECONDS": "60", "MAX_ATTEMPTS": "1"}
    with Bench(settings) as bench:
        yield bench


@pytest.fixture
def service(stack: Bench) -> Iterator[AzureOpenAI]:
    before = stack.service.options()
    yield stack.service
    stack.service.clear_faults()
    stack.service.options(**before)


@pytest.fixture
def terminal(stack: Bench, tmp_path: Any) -> Terminal:
    return Terminal(stack, tmp_path)


def states(document: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["state"] for check in document["checks"]}


def health(stack: Bench) -> tuple[int, dict[str, Any]]:
    headers = {"x-functions-key": stack.host.keys["function"]}
    try:
        with urlopen(Request(f"{stack.host.url}/api/health", headers=headers), timeout=30) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.load(error)


def test_the_deployed_app_is_asked_from_a_terminal(stack: Bench, terminal: Terminal) -> None:
    key = stack.host.keys["function"]
    text = terminal.run("doctor", "--app", stack.host.url, "--key", key)
    found = [line.split(None, 1) for line in text.splitlines()]
    assert {state for state, _ in found} == {"ok"}, text
    assert any(told.startswith(EVENTS) for _, told in found), "the event of the marker reached the app"
    assert any(told.startswith("host: Python") for _, told in found)
    assert key not in text
    assert stack.names(stack.settings.input_container, "") == []
    assert ask(stack, "jobs")[1]["jobs"] == [], "a marker is no job"
    document = terminal.json("doctor", "--app", f"{stack.host.url}/", "--key", key)
    assert (document["state"], states(document)[EVENTS]) == ("ok", "ok")


def test_a_run_is_asked_for_once_and_its_result_is_kept_until_the_next(stack: Bench) -> None:
    status, asked = ask(stack, "doctor", "POST")
    assert (status, asked["state"], asked["ended"]) == (202, "running", None)
    assert ask(stack, "doctor", "POST")[1]["id"] == asked["id"], "it runs already"
    wait_for(lambda: ask(stack, f"doctor/{asked['id']}")[0] == 200, "the result")
    assert ask(stack, f"doctor/{asked['id']}")[1]["state"] == "ok"
    again = ask(stack, "doctor", "POST")[1]
    assert again["id"] != asked["id"]
    status, problem = ask(stack, f"doctor/{asked['id']}")
    assert (status, problem["type"]) == (404, "urn:batch_fn:examination-not-found")
    wait_for(lambda: ask(stack, f"doctor/{again['id']}")[0] == 200, "the result")
    assert ask(stack, "doctor", "POST", key="wrong") == (401, None)


def test_what_answers_in_the_place_of_the_app_is_told(stack: Bench, terminal: Terminal) -> None:
    assert "none of its" in terminal.run("doctor", "--app", stack.host.url, "--key", "wrong", code=1)
    assert "did not start" in terminal.run("doctor", "--app", stack.service.url, "--key", "x", code=1)
    assert "does not answer" in terminal.run("doctor", "--app", "http://127.0.0.1:9", "--key", "x", code=1)
    terminal.run("doctor", "--app", stack.host.url, code=2)
    terminal.run("doctor", "--app", stack.host.url, "--canary", code=2)


def test_from_here_it_says_as_whom_and_what_stops_the_app(
    stack: Bench, terminal: Terminal, service: AzureOpenAI
) -> None:
    document = terminal.json("doctor")
    assert (document["state"], states(document)[EVENTS]) == ("ok", "ok")
    assert "Looking as the connection string in BatchStorage." in [check["saw"] for check in document["checks"]]
    service.fault("status", path="/openai/", status=401)
    refused = terminal.json("doctor", code=1)
    assert states(refused)["service: access"] == "wrong"
    service.clear_faults()
    (terminal.folder / "local.settings.json").write_text(json.dumps({"Values": {"MAX_PART_REQUESTS_": "x"}}))
    assert states(terminal.json("doctor"))["settings: MAX_PART_REQUESTS_"] == "warning"
    (terminal.folder / "local.settings.json").write_text(json.dumps({"Values": {"CLAIM_SECONDS": "soon"}}))
    stopped = terminal.json("doctor", code=1)
    assert states(stopped) == {"settings: CLAIM_SECONDS": "wrong"}
    assert "at least 1" in stopped["checks"][0]["saw"]


def test_a_canary_comes_back_and_says_what_it_cost(terminal: Terminal) -> None:
    document = terminal.json("doctor", "--canary")
    assert states(document)["canary"] == "ok"
    assert "tokens" in document["checks"][-1]["saw"]


def test_a_canary_that_does_not_come_back_is_wrong(terminal: Terminal, service: AzureOpenAI) -> None:
    service.options(deployments=["batch"])
    document = terminal.json("doctor", "--canary", "--deployment", "none", code=1)
    assert states(document)["canary"] == "wrong"


def test_the_tick_looks_and_health_log_and_page_show_it(stack: Bench, service: AzureOpenAI) -> None:
    wait_for(lambda: health(stack)[1]["checks"]["doctor"]["age_seconds"] is not None, "a look")
    day = (datetime.now(UTC) + timedelta(days=12)).isoformat()
    service.options(models={"batch": "gpt-old 1"}, retirements={"gpt-old 1": day})
    found = wait_for(lambda: health(stack)[1]["checks"]["doctor"]["findings"], "the retirement")
    assert [(check["name"], check["state"]) for check in found] == [("deployment batch", "warning")]
    assert health(stack)[0] == 200, "a warning is no outage"
    wait_for(lambda: '"event": "doctor_found", "check": "deployment batch"' in _log(stack), "the record")
    service.options(deployments=["chat"], skus={"chat": "Standard"})
    wait_for(lambda: health(stack)[0] == 503, "health to be told")
    assert "no deployment that takes batches" in health(stack)[1]["checks"]["doctor"]["detail"]


def _log(stack: Bench) -> str:
    return stack.host.log_text().replace('"job_id": null, ', "").replace('\\"', '"')
