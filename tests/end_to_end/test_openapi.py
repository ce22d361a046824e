"""docs/openapi.yaml against the running app, with and without a key; and every route of the app is in it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance, unsupported_method

from tests.end_to_end.bench import Bench
from tests.end_to_end.stories import answered, jsonl, lines, rejected

pytestmark = pytest.mark.xdist_group("openapi")

PROJECT = Path(__file__).parents[2]
DOCUMENT = PROJECT / "docs/openapi.yaml"
EXCLUDED = [not_a_server_error, positive_data_acceptance, negative_data_rejection, unsupported_method]
"""503 is documented; an `after` that no page gave is refused, which a schema cannot tell from one that was;
a time may lack its zone or be a day alone, which `date-time` does not say; and to a
method that no route has, the Functions host answers 404 and not 405."""


@pytest.fixture(scope="module")
def stack() -> Iterator[Bench]:
    with Bench() as bench:
        yield bench


@pytest.fixture(scope="module")
def jobs(stack: Bench) -> list[str]:
    """A job that succeeded, one that was rejected, and one that nobody ever had."""
    good, bad = stack.drop("api/good.jsonl", jsonl(*lines(3))), stack.drop("api/bad.jsonl", b"{}\n")
    answered(good)
    rejected(bad)
    return [good.job_id, bad.job_id, "20261122T010203Z-0123456789"]


@pytest.fixture(scope="module")
def described() -> BaseSchema:
    return schemathesis.openapi.from_path(str(DOCUMENT))


schema = schemathesis.pytest.from_fixture("described")


@schema.parametrize()
@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_each_answer_is_as_described(case: Any, stack: Bench, jobs: list[str]) -> None:
    case.call_and_validate(
        base_url=f"{stack.host.url}/api",
        headers={"x-functions-key": stack.host.keys["function"]},
        excluded_checks=EXCLUDED,
    )


def test_a_real_job_and_its_rows_are_as_described(stack: Bench, jobs: list[str], described: BaseSchema) -> None:
    """Made-up ids hit no job, so these are asked for by name."""
    key = {"x-functions-key": stack.host.keys["function"]}
    asked = [("/jobs/{id}", "GET", {"id": each}) for each in jobs]
    asked += [(f"/jobs/{{id}}/{what}", "POST", {"id": each}) for what in ("cancel", "retry") for each in jobs]
    asked += [(path, "GET", {}) for path in ("/jobs", "/batches", "/deployments", "/usage", "/health")]
    for path, method, parameters in asked:
        case = described[path][method].Case(path_parameters=parameters)
        case.call_and_validate(base_url=f"{stack.host.url}/api", headers=key, excluded_checks=EXCLUDED)


def test_every_route_of_the_app_is_described(described: BaseSchema) -> None:
    routes = re.findall(r'app\.route\("([^"]+)".*methods=\["(\w+)"\]', (PROJECT / "function_app.py").read_text())
    paths = described.raw_schema["paths"]
    told = {
        (path.strip("/"), method.upper()) for path, each in paths.items() for method in each if method != "parameters"
    }
    assert told == {*routes} - {("dashboard", "GET")}
