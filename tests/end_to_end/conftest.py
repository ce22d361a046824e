"""Two stacks that share the stories: the service as documented, and as it has been seen."""

from collections.abc import Iterator
from typing import get_args

import pytest

from devkit.azure_openai.options import Quirk
from devkit.azure_openai.process import AzureOpenAI
from tests.end_to_end.bench import Bench

QUIRKS: tuple[str, ...] = get_args(Quirk.__value__)


def _variant(name: str, api_version: str, quirks: tuple[str, ...]) -> object:
    """One stack, which runs on one worker of pytest-xdist."""
    return pytest.param((api_version, quirks), id=name, marks=pytest.mark.xdist_group(name))


@pytest.fixture(scope="session", params=[_variant("v1", "v1", ()), _variant("dated-quirks", "2024-10-21", QUIRKS)])
def stack(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Storage, service and host, kept up for all stories; each story drops into a folder of its own."""
    api_version, quirks = request.param
    with Bench({"AZURE_OPENAI_API_VERSION": api_version}, service={"quirks": quirks}) as bench:
        yield bench


@pytest.fixture
def service(stack: Bench) -> Iterator[AzureOpenAI]:
    """The service, for a story that changes its ways; afterwards it is as it was."""
    before = stack.service.options()
    yield stack.service
    stack.service.clear_faults()
    stack.service.options(**before)
    stack.service.release()


@pytest.fixture
def outspoken(service: AzureOpenAI) -> AzureOpenAI:
    """The service, telling why a batch failed, whatever other quirks it has."""
    quirks = service.options()["quirks"]
    service.options(quirks=[quirk for quirk in quirks if quirk != "null_errors"])
    return service
