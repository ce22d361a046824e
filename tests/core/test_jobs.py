"""Names, states and moves of jobs and parts."""

import re
from datetime import UTC, datetime, timedelta, timezone
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_fn.core.batches import ServiceBatch, ServiceError, failed_for_good
from batch_fn.core.cures import explain
from batch_fn.core.jobs import InvalidTransitionError, Outcome, PartState, Usage, estimated_tokens
from batch_fn.core.names import BLOB_NAME_LIMIT, FILE_NAME, SEGMENT_LIMIT, job_id, new_bundle_id, result_path
from batch_fn.core.report import outcome, service_findings
from batch_fn.validation.findings import Finding
from tests.conftest import JOB_ID, NOON, a_job, a_part

SEEN = datetime(2026, 11, 22, 1, 2, 3, tzinfo=UTC)
ETAG = '"0x8DC0FFEE"'
ID = JOB_ID

names = st.text(min_size=1, max_size=BLOB_NAME_LIMIT)
times = st.datetimes(
    min_value=datetime(2000, 1, 1),
    max_value=datetime(2200, 1, 1),
    timezones=st.integers(-14, 14).map(lambda hours: timezone(timedelta(hours=hours))),
)


# The job id


def test_the_job_id_of_a_version_never_changes_between_releases() -> None:
    assert job_id("batch-input", "sales/monday.jsonl", "0x8DC0FFEE", SEEN) == "20261122T010203Z-26e0286a15"


def test_a_repeated_event_gives_the_same_job_id_with_and_without_quotes_around_the_etag() -> None:
    quoted = job_id("batch-input", "monday.jsonl", '"0x8DC0FFEE"', SEEN)
    assert quoted == job_id("batch-input", "monday.jsonl", "0x8DC0FFEE", SEEN)


def test_the_zone_that_the_time_is_told_in_makes_no_difference() -> None:
    elsewhere = SEEN.astimezone(timezone(timedelta(hours=9)))
    assert job_id("batch-input", "monday.jsonl", ETAG, elsewhere) == job_id("batch-input", "monday.jsonl", ETAG, SEEN)


@pytest.mark.parametrize(
    "version",
    [
        ("batch-input", "monday.jsonl", '"0x8DC0FFEF"'),
        ("batch-input", "tuesday.jsonl", ETAG),
        ("other-input", "monday.jsonl", ETAG),
        ("batch-input\nmonday", "jsonl", ETAG),
    ],
    ids=["new version", "other name", "other container", "line feed in a name"],
)
def test_another_version_is_another_job_even_within_the_same_second(version: tuple[str, str, str]) -> None:
    assert job_id(*version, SEEN) != job_id("batch-input", "monday.jsonl", ETAG, SEEN)


@given(st.text(), names, st.text(), times)
def test_a_job_id_is_safe_in_any_key_or_path(container: str, name: str, etag: str, time: datetime) -> None:
    assert re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{10}", job_id(container, name, etag, time))


@given(names, times, names, times)
def test_job_ids_are_sorted_by_the_time_of_their_drop(one: str, early: datetime, other: str, late: datetime) -> None:
    early, late = sorted((early, late))
    if late - early >= timedelta(seconds=1):
        assert job_id("in", one, ETAG, early) < job_id("in", other, ETAG, late)


def test_a_bundle_s_id_has_the_form_of_a_job_s_with_the_time_in_utc() -> None:
    elsewhere = SEEN.astimezone(timezone(timedelta(hours=9)))
    assert new_bundle_id(elsewhere, "0123456789") == "20261122T010203Z-0123456789"
    part = a_part(job_id=new_bundle_id(SEEN, "00c0ffee00"))
    assert re.fullmatch(FILE_NAME, part.file_name)


# Where results go


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("sales/monday.jsonl", f"sales/monday/{ID}"),
        ("monday", f"monday/{ID}"),
        ("MONDAY.JSONL", f"MONDAY/{ID}"),
        ("monday.jsonl.jsonl", f"monday.jsonl/{ID}"),
        ("monday.jsonl.gz", f"monday/{ID}"),
        ("monday.JSONL.GZ", f"monday/{ID}"),
        ("monday.gz", f"monday.gz/{ID}"),
        (".jsonl", ID),
        ("sales/.jsonl", f"sales/{ID}"),
        ("sales//.jsonl", f"sales/{ID}"),
        ("/monday.jsonl", f"monday/{ID}"),
        ("sales/...jsonl", f"sales/...jsonl/{ID}"),
        ("..jsonl", f"..jsonl/{ID}"),
        ("....jsonl", f".../{ID}"),
        ("a b/#1 50% ?.jsonl", f"a b/#1 50% ?/{ID}"),
        ("Zürich/東京 🙂.jsonl", f"Zürich/東京 🙂/{ID}"),
        ("x" * 1018 + ".jsonl", "x" * 987 + f"/{ID}"),
        ("x" * 1024, "x" * 987 + f"/{ID}"),
        ("x/" * 252 + "y.jsonl", "x/" * 252 + f"y/{ID}"),
        ("x/" * 253 + "y.jsonl", "x/" * 253 + ID),
    ],
)
def test_results_lie_in_a_folder_of_the_drop_s_name(name: str, path: str) -> None:
    assert result_path(name, ID) == path
    assert a_job(name=name).path == path


@given(names | st.text("/x.", min_size=1, max_size=BLOB_NAME_LIMIT))
def test_whatever_the_name_the_results_fit_into_azure_s_limit(name: str) -> None:
    path = result_path(name, ID)
    assert len(f"{path}.jsonl") <= BLOB_NAME_LIMIT
    assert len(path.split("/")) <= SEGMENT_LIMIT
    assert path.endswith(ID)
    assert not path.startswith("/")


# Parts


MAY_FOLLOW = {
    "waiting": "waiting claimed bundled ended settled",
    "bundled": "bundled waiting settled",
    "claimed": "waiting claimed open ended settled",
    "open": "waiting open ended",
    "ended": "ended settled",
    "settled": "",
}


@pytest.mark.parametrize(("state", "to"), [*product(PartState, PartState)])
def test_a_part_makes_only_the_allowed_moves(state: PartState, to: PartState) -> None:
    part = a_part(state=state, claims=1)
    due = NOON + timedelta(minutes=1)
    if to in MAY_FOLLOW[state].split():
        assert part.with_state(to, due, claims=2) == a_part(state=to, due=due, claims=2)
    else:
        with pytest.raises(
            InvalidTransitionError, match=f"part-00001-01 of job {JOB_ID} may not go from {state} to {to}"
        ):
            part.with_state(to, due)


def test_a_part_s_file_is_known_by_its_name() -> None:
    part = a_part(number=12, attempt=3)
    assert part.file_name == f"{JOB_ID}-part-00012-03.jsonl"
    found = re.fullmatch(FILE_NAME, part.file_name)
    assert found is not None
    assert (found["job_id"], found["attempt"]) == (JOB_ID, "03")


def test_a_part_that_was_retried_a_hundred_times_is_known_by_its_name() -> None:
    found = re.fullmatch(FILE_NAME, a_part(attempt=103).file_name)
    assert found is not None
    assert found["attempt"] == "103"


def test_the_blobs_of_a_retry_lie_apart_from_those_before() -> None:
    before, after = a_job(), a_job(attempts_before=3)
    assert before.work_folder == JOB_ID
    assert not f"{after.work_folder}/".startswith(f"{before.work_folder}/")
    part = a_part(attempt=4, attempts_before=3)
    assert part.work_path == f"{after.work_folder}/part-00001-04"


@pytest.mark.parametrize(
    "name", ["test.jsonl", f"{JOB_ID}.jsonl", f"old-{JOB_ID}-part-00001-01.jsonl", f"{JOB_ID}-part-00001-01.jsonl.bak"]
)
def test_somebody_else_s_file_is_not_taken_for_ours(name: str) -> None:
    assert not re.fullmatch(FILE_NAME, name)


def test_each_attempt_s_batch_is_marked_as_its_own() -> None:
    first, second = a_part(attempt=1), a_part(attempt=2)
    assert first.metadata == {"job": JOB_ID, "part": "1", "attempt": "1"}
    assert second.metadata != first.metadata
    assert second.key != first.key
    assert second.file_name != first.file_name


# What the service says


def a_batch(status: str, *codes: str) -> ServiceBatch:
    errors = tuple(ServiceError(code, "") for code in codes)
    return ServiceBatch(id="batch_1", status=status, errors=errors, created_at=NOON)


@pytest.mark.parametrize(
    ("status", "terminal"),
    [
        ("validating", False),
        ("in_progress", False),
        ("finalizing", False),
        ("cancelling", False),
        ("completed", True),
        ("failed", True),
        ("expired", True),
        ("cancelled", True),
        ("", False),
        ("paused", False),
    ],
)
def test_only_the_four_documented_ends_are_ends_and_an_unknown_status_is_not(status: str, terminal: bool) -> None:
    assert a_batch(status).terminal is terminal


@pytest.mark.parametrize(
    ("batch", "refused"),
    [
        (a_batch("failed", "token_limit_exceeded"), True),
        (a_batch("failed", "internal_error", "token_limit_exceeded"), True),
        (a_batch("failed", "internal_error"), False),
        (a_batch("failed"), False),
        (a_batch("validating", "token_limit_exceeded"), False),
        (a_batch("expired", "token_limit_exceeded"), False),
    ],
)
def test_a_batch_is_refused_for_quota_only_if_it_failed_for_it(batch: ServiceBatch, refused: bool) -> None:
    assert batch.refused_for_quota is refused


@pytest.mark.parametrize(
    ("codes", "for_good"),
    [
        (["invalid_json_line"], True),
        (["too_many_tasks"], True),
        (["url_mismatch"], True),
        (["model_not_found"], True),
        (["duplicate_custom_id"], True),
        (["empty_file"], True),
        (["empty_batch"], True),
        (["model_mismatch"], True),
        (["invalid_request"], True),
        (["internal_error", "model_not_found"], True),
        (["internal_error"], False),
        (["token_limit_exceeded"], False),
        (["input_no_permissions"], False),
        ([], False),
    ],
)
def test_the_how_to_s_error_codes_are_for_good_and_others_are_not(codes: list[str], for_good: bool) -> None:
    assert failed_for_good(tuple(ServiceError(code, "") for code in codes)) is for_good


def test_errors_of_failed_and_refused_batches_become_findings_and_those_of_others_do_not() -> None:
    error = ServiceError("model_not_found", "There is no deployment of that name.", line=7)
    nowhere = ServiceError("internal_error", "Try again.")
    parts = [
        a_part(batch_status="failed", errors=(error, nowhere)),
        a_part(batch_status="", errors=(error,)),
        a_part(batch_status="completed", errors=(error,)),
    ]
    finding = Finding(7, "model_not_found", explain("model_not_found", "There is no deployment of that name."))
    assert service_findings(parts) == [finding, Finding(1, "internal_error", "Try again."), finding]


# How a job ends


@pytest.mark.parametrize(
    ("succeeded", "failed", "cancelled", "expected"),
    [
        (3, 0, False, Outcome.SUCCEEDED),
        (2, 1, False, Outcome.PARTIALLY_SUCCEEDED),
        (0, 3, False, Outcome.FAILED),
        (3, 0, True, Outcome.CANCELLED),
        (2, 1, True, Outcome.CANCELLED),
        (0, 3, True, Outcome.CANCELLED),
    ],
)
def test_how_a_job_ends(succeeded: int, failed: int, cancelled: bool, expected: Outcome) -> None:
    assert outcome(succeeded=succeeded, failed=failed, cancelled=cancelled) is expected


@pytest.mark.parametrize(("characters", "tokens"), [(0, 0), (3, 0), (4, 1), (4_000_003, 1_000_000)])
def test_the_service_estimates_a_token_for_four_characters(characters: int, tokens: int) -> None:
    assert estimated_tokens(characters) == tokens


def test_usage_adds_up_by_kind() -> None:
    assert Usage(1, 20, 300) + Usage(4, 50, 600) == Usage(5, 70, 900)
