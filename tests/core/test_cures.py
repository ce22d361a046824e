"""One table of codes for the doctor and for errors at work; what a user reads says what it means and the cure."""

from typing import Any

import pytest

from batch_fn.core.batches import ServiceError
from batch_fn.core.cures import cure_of, explain
from batch_fn.core.jobs import Part
from batch_fn.core.report import report, service_findings
from batch_fn.core.waits import Wait
from tests.conftest import a_job, a_part


@pytest.mark.parametrize(
    ("code", "message", "words"),
    [
        ("OperationNotSupported", "The operation is not supported.", "GlobalBatch"),
        ("DeploymentNotFound", "The API deployment does not exist.", "az cognitiveservices account deployment list"),
        ("model_not_found", "There is none.", "body.model"),
        ("BadRequest", "This model needs a later API version.", "AZURE_OPENAI_API_VERSION to v1"),
        ("AuthorizationPermissionMismatch", "", "Storage Blob Data Owner"),
        ("service", "HTTP 401: Access denied.", "AZURE_OPENAI_API_KEY"),
        ("service", "HTTP 403 PermissionDenied: Lacks the data action.", "Cognitive Services OpenAI Contributor"),
        ("service", "HTTP 404: Resource not found", "AZURE_OPENAI_ENDPOINT"),
        ("file_gone", "", "404"),
        ("error", "AuthorizationPermissionMismatch", "Storage Blob Data Owner"),
        ("error", "ContainerNotFound", "azd provision"),
    ],
)
def test_a_refusal_is_told_with_its_meaning_and_its_cure(code: str, message: str, words: str) -> None:
    told = explain(code, message)
    assert told.startswith(message.rstrip("."))
    assert words in told


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("service", "HTTP 429: Slow down."),
        ("service", "no answer from the service: Connection error."),
        ("no_room", ""),
        ("error", "ValueError"),
        ("internal_error", "The service has a problem."),
        ("invalid_request", "The parameter 'api' of version 2 is odd."),
    ],
)
def test_what_is_not_known_is_told_as_it_is(code: str, message: str) -> None:
    assert cure_of(code, message) is None
    assert explain(code, message) == message


def test_a_report_tells_cures_in_waits_and_findings_and_once_only() -> None:
    part = a_part(
        wait=Wait(reason="service", message="HTTP 403 PermissionDenied: No."),
        errors=(ServiceError("OperationNotSupported", "No."),),
    )
    first = _report([part], None)
    assert "Cognitive Services OpenAI Contributor" in first["waits"][0]["message"]
    again = _report([], first)
    assert again["waits"] == first["waits"]
    (finding,) = service_findings([part])
    assert (finding.code, "SKU GlobalBatch" in finding.message) == ("OperationNotSupported", True)


def _report(parts: list[Part], previous: dict[str, Any] | None) -> dict[str, Any]:
    return report(
        a_job(),
        status="failed",
        succeeded=0,
        failed=0,
        findings=[],
        finding_count=0,
        outputs={"output": None, "errors": None, "archive": None},
        parts=parts,
        previous_report=previous,
    )
