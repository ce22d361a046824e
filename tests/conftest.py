"""What several modules share: one Azurite and one Azure OpenAI emulator for the whole run, and sample rows."""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hypothesis
import msgspec
import pytest

from batch_fn.core.jobs import InputRange, Job, Part
from batch_fn.settings import Settings
from devkit.azure_openai.process import AzureOpenAI
from devkit.azurite import Azurite
from tests.dashboard.browser import NO_BROWSER

hypothesis.settings.register_profile("tests", deadline=None)  # how long an example takes says more of the machine
hypothesis.settings.load_profile("tests")

PAYLOADS = Path(__file__).parent / "payloads"
"""Copied from the how-to: batch_created, _completed, _listed, _failed, both _rest, and output_chat (its typographic
quotes made plain). errors_expired is OpenAI's documented sample. Nobody captured the others: they are written after the
shapes that documentation and users describe, so they show what is expected of the service, not what it sent."""

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
JOB_ID = "20261122T010203Z-0123456789"

JOB = Job(job_id=JOB_ID, container="batch-input", name="sales/monday.jsonl", etag="0x8DC", bytes=815, dropped_at=NOON)
PART = Part(
    job_id=JOB_ID,
    number=1,
    deployment="batch-small",
    url="/chat/completions",
    source=InputRange(container="batch-input", name="sales/monday.jsonl"),
    requests=10,
    estimated_tokens=1_000,
    waiting_since=NOON,
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep together, on one worker of pytest-xdist, what shares something that is slow to start."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            shares_azurite = "azurite" in getattr(item, "fixturenames", ())
            item.add_marker(pytest.mark.xdist_group("azurite" if shares_azurite else item.path.stem))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Say on the last line that tests were skipped for want of a browser, and how to get one."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:  # in a worker of pytest-xdist
        return
    if count := sum(NO_BROWSER in str(report.longrepr) for report in reporter.stats.get("skipped", [])):
        reporter.write_line(f"{count} tests were skipped. {NO_BROWSER}")


def a_job(**changes: object) -> Job:
    """A job that was just dropped, with fields changed."""
    return msgspec.structs.replace(JOB, **changes)


def a_part(**changes: object) -> Part:
    """A waiting part of ten requests, with fields changed."""
    return msgspec.structs.replace(PART, **changes)


@pytest.fixture(scope="session")
def azurite() -> Iterator[Azurite]:
    with Azurite() as azurite:
        yield azurite


@pytest.fixture(scope="session")
def running_service() -> Iterator[AzureOpenAI]:
    with AzureOpenAI(speed=2000) as service:
        yield service


@pytest.fixture
def service(running_service: AzureOpenAI) -> AzureOpenAI:
    """The Azure OpenAI emulator, as it is at the start."""
    running_service.reset()
    return running_service


@pytest.fixture
def settings(azurite: Azurite) -> Settings:
    """Settings of containers, queues and tables that no other test uses; a test that needs them provisions them."""
    own = uuid.uuid4().hex[:8]
    names: dict[str, Any] = {
        f"{kind}_container": f"{kind}-{own}" for kind in ("input", "output", "errors", "reports", "archive", "work")
    }
    names |= {f"{kind}_queue": f"{kind}-{own}" for kind in ("drop", "submit", "collect", "completed", "doctor")}
    names |= {f"{kind}_table": f"{kind}{own}" for kind in ("jobs", "work", "deployments")}
    return Settings(storage=azurite.connection_string, openai_endpoint="https://example.openai.azure.com", **names)
