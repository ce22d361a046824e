"""The service's JSON and the SDK's errors, translated into ours."""

import contextlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from batch_fn.core.batches import (
    TOKEN_LIMIT,
    Enqueued,
    FileQuotaError,
    NotFoundError,
    PermanentServiceError,
    ServiceBatch,
    ServiceError,
    TokenLimitError,
    TransientServiceError,
)

MESSAGE_CHARACTERS = 500
KEPT_ERRORS = 20


def read_batch(body: dict[str, Any]) -> ServiceBatch:
    """Return a batch as the service's JSON describes it, in the documented words.

    Seen: `Completed` and `InProgress` for the documented lower case, "canceled", ISO times with seven fractional
    digits for unix integers, "" for a missing file id, null counts, and errors' lines as strings.
    """
    counts = body.get("request_counts") or {}
    ended = next(
        (body[name] for name in ("completed_at", "failed_at", "expired_at", "cancelled_at") if body.get(name)), None
    )
    return ServiceBatch(
        id=body["id"],
        status=_status(body.get("status") or ""),
        input_file_id=body.get("input_file_id") or "",
        output_file_id=body.get("output_file_id") or "",
        error_file_id=body.get("error_file_id") or "",
        input_blob=body.get("input_blob") or "",
        output_blob=body.get("output_blob") or "",
        error_blob=body.get("error_blob") or "",
        endpoint=body.get("endpoint") or "",
        total=counts.get("total") or 0,
        completed=counts.get("completed") or 0,
        failed=counts.get("failed") or 0,
        errors=_errors(body.get("errors")),
        metadata=body.get("metadata") or {},
        created_at=_time(body["created_at"]),
        finished_at=_time(ended) if ended else None,
    )


def _status(given: str) -> str:
    status = given.lower()
    return {"canceled": "cancelled", "canceling": "cancelling", "inprogress": "in_progress"}.get(status, status)


def _time(given: float | str) -> datetime:
    if isinstance(given, int | float):
        return datetime.fromtimestamp(given, UTC)
    time = datetime.fromisoformat(given)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _errors(given: Any) -> tuple[ServiceError, ...]:
    entries = (given.get("data") if isinstance(given, dict) else given) or []
    return tuple(_error(entry) for entry in entries[:KEPT_ERRORS])


def _error(entry: dict[str, Any]) -> ServiceError:
    line = str(entry.get("line") or "")
    return ServiceError(
        code=str(entry.get("code") or "unknown"),
        message=str(entry.get("message") or "")[:MESSAGE_CHARACTERS],
        line=int(line) if line.isdigit() else None,
    )


def read_enqueued(headers: Mapping[str, str]) -> Enqueued:
    """Return what the headers of a create say of the quota."""

    def number(name: str) -> int | None:
        given = headers.get(name) or ""
        return int(given) if given.isdigit() else None

    return Enqueued(number("deployment-enqueued-tokens"), number("deployment-maximum-enqueued-tokens"))


@contextlib.contextmanager
def translate_sdk_errors() -> Iterator[None]:
    """Turn the SDK's errors into ours, told apart by what may be done next."""
    import httpx2
    from openai import APIConnectionError, APIStatusError, OpenAIError

    try:
        yield
    except APIConnectionError as error:
        reached = not isinstance(error.__cause__, httpx2.ConnectError)
        raise TransientServiceError(f"no answer from the service: {error}", outcome_unknown=reached) from error
    except httpx2.TransportError as error:  # while a body was streamed
        raise TransientServiceError(f"the connection to the service broke: {error}", outcome_unknown=True) from error
    except APIStatusError as error:
        raise _status_error(error.status_code, error.response.headers.get("retry-after"), error.body) from error
    except OpenAIError as error:  # no credential, for instance
        raise TransientServiceError(str(error)) from error


def _status_error(status: int, retry_after: str | None, body: object) -> Exception:
    said = body if isinstance(body, dict) else {}
    error = _error({"code": said.get("code") or status, "message": said.get("message")})
    if error.code == TOKEN_LIMIT:
        return TokenLimitError(error.message)
    if error.code == "quotaExceeded":
        return FileQuotaError(error.message)
    if status == 404:
        return NotFoundError(error.message)
    outcome_unknown = status == 408 or status >= 500
    if outcome_unknown or status in {401, 403, 409, 429}:
        code = "" if error.code == str(status) else f" {error.code}"
        return TransientServiceError(
            f"HTTP {status}{code}: {error.message}", retry_after=_seconds(retry_after), outcome_unknown=outcome_unknown
        )
    return PermanentServiceError(error)


def _seconds(retry_after: str | None) -> float | None:
    try:
        return float(retry_after) if retry_after else None
    except ValueError:
        return None  # an HTTP date: our own wait serves
