"""Rows and messages that were captured earlier are read whole by this version: no column and no member gets lost."""

from typing import Any

import msgspec
import pytest
from azure.data.tables import TableServiceClient

from batch_fn.app import App
from batch_fn.settings import Settings
from batch_fn.storage.queues import parse_message
from batch_fn.storage.tables import Tables
from devkit.azurite import Azurite
from devkit.stack import provision
from tests.upgrade.capture import STAGES
from tests.upgrade.stage import lost, put_rows, raw_rows, read_stage

NAMES = [stage.__name__ for stage in STAGES]
DEFAULTS = Settings()


@pytest.fixture
def tables(azurite: Azurite, settings: Settings) -> Tables:
    """The tables, with nothing in them."""
    provision(azurite.connection_string, settings)
    return App(settings).tables


def rows_of(stage: str, table: str, azurite: Azurite, settings: Settings) -> list[dict[str, Any]]:
    """Put a stage's rows of one table into the test's own table of that kind. Return them."""
    rows: list[dict[str, Any]] = read_stage(stage)["tables"][getattr(DEFAULTS, table)]
    put_rows(_table(table, azurite, settings), rows)
    return rows


def check_rows(rows: list[dict[str, Any]], table: str, azurite: Azurite, settings: Settings) -> None:
    """Check that nothing of the rows is missing in the table, now that the app has written them again."""
    now = {key(row): row for row in raw_rows(_table(table, azurite, settings))}
    assert [f"{key(row)}: {what}" for row in rows for what in lost(row, now[key(row)])] == []


def key(row: dict[str, Any]) -> tuple[str, str]:
    return row["PartitionKey"], row["RowKey"]


def _table(table: str, azurite: Azurite, settings: Settings) -> Any:
    tables = TableServiceClient.from_connection_string(azurite.connection_string)
    return tables.get_table_client(getattr(settings, table))


@pytest.mark.parametrize("stage", NAMES)
def test_jobs_and_parts_at_work(stage: str, tables: Tables, azurite: Azurite, settings: Settings) -> None:
    rows = rows_of(stage, "work_table", azurite, settings)
    for job_id in {row["PartitionKey"] for row in rows}:
        work = tables.active_job(job_id)
        assert work is not None
        assert {"job", *(held.row.key for held in work.parts)} == {
            row["RowKey"] for row in rows if row["PartitionKey"] == job_id
        }
        tables.update(work.job, work.job.row)
        for held in work.parts:
            tables.update(held, held.row)
    check_rows(rows, "work_table", azurite, settings)


@pytest.mark.parametrize("stage", NAMES)
def test_finished_jobs(stage: str, tables: Tables, azurite: Azurite, settings: Settings) -> None:
    rows = rows_of(stage, "jobs_table", azurite, settings)
    for row in rows:
        finished = tables.finished(row["job_id"])
        assert finished is not None
        tables.finish(finished)
    check_rows(rows, "jobs_table", azurite, settings)


@pytest.mark.parametrize("stage", NAMES)
def test_deployments_and_the_last_tick(stage: str, tables: Tables, azurite: Azurite, settings: Settings) -> None:
    rows = rows_of(stage, "deployments_table", azurite, settings)
    known = {deployment.name: deployment for deployment in tables.deployments()}
    assert known.keys() == {row["name"] for row in rows if row["PartitionKey"] == "deployment"}
    for name, deployment in known.items():  # what is the same as before is not written
        tables.update_deployment(name, lambda before: msgspec.structs.replace(before, admissions=before.admissions + 1))
        tables.update_deployment(name, lambda _, first=deployment: first)  # type: ignore[misc]
    ticks = [row for row in rows if row["PartitionKey"] == "tick"]
    assert (tables.last_tick() is not None) == bool(ticks)
    check_rows(rows, "deployments_table", azurite, settings)


@pytest.mark.parametrize("stage", NAMES)
def test_messages(stage: str) -> None:
    for queue, bodies in read_stage(stage)["queues"].items():
        for body in bodies if queue != DEFAULTS.completed_queue else []:
            read = msgspec.to_builtins(parse_message(body.encode()))
            assert {"job": read} == msgspec.json.decode(body)


def test_every_kind_of_row_and_message_was_captured() -> None:
    stages = [read_stage(name) for name in NAMES]
    states = {row.get("state") for stage in stages for row in stage["tables"][DEFAULTS.work_table]}
    assert states >= {"dropped", "accepted", "finishing", "retrying"}, "of jobs"
    assert states >= {"waiting", "claimed", "bundled", "open", "ended", "settled"}, "of parts"
    assert {queue for stage in stages for queue, bodies in stage["queues"].items() if bodies} == set(
        DEFAULTS.queues
    ) - {DEFAULTS.doctor_queue}
    outcomes = {row["status"] for stage in stages for row in stage["tables"][DEFAULTS.jobs_table]}
    assert outcomes == {"partially_succeeded", "rejected"}
