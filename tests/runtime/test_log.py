"""The log: one JSON object a record, whatever the facts are."""

import json
import logging
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batch_fn.core.admission import Reason
from batch_fn.runtime import log
from tests.conftest import JOB_ID, NOON


@pytest.fixture(autouse=True)
def at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "batch_fn")


def read(caplog: pytest.LogCaptureFixture) -> tuple[int, dict[str, Any]]:
    """The level and the content of the only record, which is taken."""
    (record,) = caplog.records
    caplog.clear()
    assert record.name == "batch_fn"
    return record.levelno, json.loads(record.getMessage())


def test_a_note_is_information_and_says_which_job_it_is_about(caplog: pytest.LogCaptureFixture) -> None:
    log.info("part_uploaded", job_id=JOB_ID, part="part-00001-01", requests=3)
    level, record = read(caplog)
    assert level == logging.INFO
    assert record == {"event": "part_uploaded", "job_id": JOB_ID, "part": "part-00001-01", "requests": 3}


def test_a_warning_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    log.warning("deployment_refuses", deployment="batch-small")
    assert read(caplog) == (logging.WARNING, {"event": "deployment_refuses", "deployment": "batch-small"})


@pytest.mark.parametrize(
    ("fact", "written"),
    [
        (7, 7),
        (0.5, 0.5),
        (True, True),
        ("Zürich 東京", "Zürich 東京"),
        ('"quoted"\nand broken', '"quoted"\nand broken'),
        (NOON, "2026-11-22T12:00:00+00:00"),
        (datetime(2026, 11, 22, 12, 0, 0, 999_999, UTC), "2026-11-22T12:00:00+00:00"),
        (Reason.NO_ROOM, "no_room"),
        (Decimal("1.50"), "1.50"),
        (PurePosixPath("a/b"), "a/b"),
        (ValueError("no"), "no"),
        (["a"], "['a']"),
    ],
)
def test_a_fact_of_any_kind_is_written(caplog: pytest.LogCaptureFixture, fact: object, written: object) -> None:
    log.info("event", fact=fact)
    assert read(caplog)[1] == {"event": "event", "fact": written}


def test_a_fact_that_is_none_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    log.info("event", job_id=None, fact=None)
    assert read(caplog)[1] == {"event": "event"}


names = st.text().filter(lambda name: name not in {"event", "job_id"})
facts = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.datetimes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(), st.none() | st.text(), st.dictionaries(names, facts))
def test_a_record_is_always_one_line_of_json(
    caplog: pytest.LogCaptureFixture, event: str, job_id: str | None, facts: dict[str, object]
) -> None:
    log.info(event, job_id=job_id, **facts)
    (record,) = caplog.records
    assert len(record.getMessage().splitlines()) == 1
    assert read(caplog)[1].keys() - {"event", "job_id"} == {name for name, fact in facts.items() if fact is not None}
