"""The how-to's own samples, as it prints them, run against the emulator: what they print is shaped as on the page.

`howto/*.py.txt` are the page's cells, `howto/*.json` what it shows as their output. Only what the page itself leaves
open is filled in: the endpoint, who one is, the id to cancel; and its minutes of waiting are shorter.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import azure.identity
import pytest
import requests

from devkit.azure_openai.process import AzureOpenAI
from tests.devkit.test_azure_openai import wait_for

HOWTO = Path(__file__).parent / "howto"
TOKEN = "a-token-of-entra-id"
NEWER_SDK = {"expires_at", "model", "usage"}  # members that SDK models have had since the page was written


@pytest.fixture(scope="module")
def emulator() -> Iterator[AzureOpenAI]:
    with AzureOpenAI(speed=2000) as emulator:
        yield emulator


@pytest.fixture
def page(emulator: AzureOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Page":
    """A notebook in which no cell was run yet, beside the page's test.jsonl."""
    emulator.reset()
    credential = SimpleNamespace(get_token=lambda *_: SimpleNamespace(token=TOKEN))
    monkeypatch.setattr(azure.identity, "DefaultAzureCredential", lambda: credential)
    monkeypatch.setattr(azure.identity, "get_bearer_token_provider", lambda *_: lambda: TOKEN)
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", emulator.url)
    monkeypatch.delenv("AZURE_OPENAI_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    real_sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda _: real_sleep(0.02))
    Path("test.jsonl").write_bytes((HOWTO / "test.jsonl").read_bytes())
    return Page()


class Page:
    """Cells that share their variables, like in the notebook that the page asks for."""

    def __init__(self) -> None:
        self.variables: dict[str, Any] = {}

    def run(self, cell: str, replace: tuple[str, str] = ("", "")) -> str:
        """Run a cell; returns what it prints."""
        source = (HOWTO / f"{cell}.py.txt").read_text()
        assert replace[0] in source
        printed = StringIO()
        with redirect_stdout(printed):
            exec(compile(source.replace(*replace), cell, "exec"), self.variables)
        return printed.getvalue()


def shown(name: str) -> Any:
    """What the page shows as output."""
    return json.loads((HOWTO / f"{name}.json").read_text())


def differences(ours: Any, theirs: Any, more: set[str] | frozenset[str] = frozenset(), at: str = "$") -> list[str]:
    """Where keys or types differ from the page's; a null on the page fits any scalar, `more` are keys we may have."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        found = [f"{at}: keys differ: {key}" for key in (theirs.keys() ^ ours.keys()) - (more - theirs.keys())]
        both = theirs.keys() & ours.keys()
        return found + [d for key in both for d in differences(ours[key], theirs[key], more, f"{at}.{key}")]
    if isinstance(theirs, list) and isinstance(ours, list):
        return [d for n, item in enumerate(ours) for d in differences(item, theirs[0], more, f"{at}[{n}]")]
    if theirs is None and isinstance(ours, None | str | int | float):
        return []
    return [] if type(ours) is type(theirs) else [f"{at}: {ours!r} instead of {theirs!r}"]


def test_python_samples_from_upload_to_output(page: Page) -> None:
    uploaded = json.loads(page.run("upload"))
    assert differences(uploaded, shown("upload"), NEWER_SDK) == []

    created = json.loads(page.run("create"))
    assert differences(created, shown("create"), NEWER_SDK) == []
    assert created["status"] == "validating"

    tracked = page.run("track").splitlines()
    line = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ Batch Id: batch_[0-9a-f-]{36},  Status: \w+"
    assert all(re.fullmatch(line, each) for each in tracked)
    assert tracked[-1].endswith("Status: completed")

    final = json.loads(page.run("show"))
    assert differences(final, shown("show"), NEWER_SDK) == []
    assert final["request_counts"] == {"completed": 3, "failed": 0, "total": 3}

    texts = re.split(r"(?<=\n})\n", page.run("retrieve"))
    answers = [json.loads(text) for text in texts if text]
    assert {answer["custom_id"] for answer in answers} == {"task-0", "task-1", "task-2"}
    for answer in answers:
        assert differences(answer, shown("retrieve")) == []


def test_file_status_is_null_as_the_page_prints_it(page: Page, emulator: AzureOpenAI) -> None:
    emulator.options(quirks=["null_file_status"])
    assert json.loads(page.run("upload"))["status"] is None


def test_cancel_sample(page: Page, emulator: AzureOpenAI) -> None:
    emulator.hold()
    page.run("upload")
    page.run("create")
    page.run("cancel", replace=("batch_abc123", page.variables["batch_id"]))
    assert emulator.batches()[0]["status"] == "cancelling"


def test_list_samples(page: Page, emulator: AzureOpenAI) -> None:
    emulator.hold()
    page.run("upload")
    for _ in range(25):
        page.run("create")
    page.run("list")
    page.run("list_all")
    assert len(page.variables["all_jobs"]) == 25


def test_list_sample_with_filter(page: Page, emulator: AzureOpenAI) -> None:
    page.run("upload")
    for _ in range(2):
        page.run("create")
        page.run("track")
    endpoint = ("https://{YOUR_RESOURCE_NAME}.openai.azure.com/", f"{emulator.url}/")
    listed = json.loads(page.run("list_filtered", replace=endpoint))
    assert differences(listed, shown("list_filtered")) == []
    assert [row["created_at"] for row in listed["data"]] == sorted(row["created_at"] for row in listed["data"])


@pytest.mark.parametrize("quirks", [["capitalised_status", "iso_times", "null_counts", "null_endpoint"], "all"])
def test_rest_samples(emulator: AzureOpenAI, quirks: list[str] | str) -> None:
    emulator.reset()
    rest = rest_client(emulator)
    with (HOWTO / "test.jsonl").open("rb") as content:
        parts = {"purpose": (None, "batch"), "file": ("test.jsonl", content, "application/json")}
        uploaded = rest("POST", "files", files=parts)
    assert differences(uploaded, shown("upload.rest")) == []
    assert uploaded["status"] == "pending"
    processed = wait_for(lambda: file if (file := rest("GET", f"files/{uploaded['id']}")) != uploaded else None)
    assert processed == uploaded | {"status": "processed"}

    emulator.options(quirks=quirks)
    emulator.hold()
    body = {"input_file_id": uploaded["id"], "endpoint": "/chat/completions", "completion_window": "24h"}
    for batch, sample in (
        (created := rest("POST", "batches", json=body), "create.rest"),
        (rest("GET", f"batches/{created['id']}"), "track.rest"),
    ):
        assert differences(batch, shown(sample), {"endpoint"}) == []
        assert batch["status"] == "Validating"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}\+00:00", batch["created_at"])
        assert set(batch["request_counts"].values()) == {None}
    assert rest("POST", f"batches/{created['id']}/cancel")["status"] == "Cancelling"


def rest_client(emulator: AzureOpenAI) -> Callable[..., dict[str, Any]]:
    """What the page does with curl: a function of method, path and what the request shall hold."""

    def call(method: str, path: str, **content: Any) -> dict[str, Any]:
        url = f"{emulator.url}/openai/{path}?api-version=2024-10-21"
        response = requests.request(method, url, headers={"api-key": emulator.api_key}, timeout=60, **content)
        assert response.status_code == 200, response.text
        return dict(response.json())

    return call
