"""How batches are shown: one by one with the quirks switched on, and in pages with `$filter` and `$orderby`."""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from operator import eq, ge, gt, le, lt
from typing import Any, Protocol

import msgspec

from devkit.azure_openai.batch import Batch
from devkit.azure_openai.errors import invalid
from devkit.azure_openai.options import Options

WINDOW_SECONDS = 24 * 3600
_TIMES = ["cancelled", "cancelling", "completed", "expired", "failed", "finalizing", "in_progress"]
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {"gt": gt, "ge": ge, "lt": lt, "le": le, "eq": eq}
_CREATED = re.compile(r"created_at (gt|ge|lt|le|eq) (\d+)")
_STATUS = re.compile(r"status eq '(\w+)'")


class HasId(Protocol):
    """What can be in a list."""

    id: str


def shape(batch: Batch, options: Options) -> dict[str, Any]:
    """The batch as the API shows it."""
    no_file = "" if options.has("empty_ids") else None
    shape = {
        "id": batch.id,
        "object": "batch",
        "status": batch.status.capitalize() if options.has("capitalised_status") else batch.status,
        "endpoint": None if options.has("null_endpoint") else batch.request.endpoint,
        "completion_window": batch.request.completion_window,
        "input_file_id": batch.request.input_file_id or no_file,
        "output_file_id": batch.output_file_id or no_file,
        "error_file_id": batch.error_file_id or no_file,
        "errors": _errors(batch, options),
        "metadata": batch.request.metadata,
        "request_counts": _counts(batch, options),
        "created_at": _time(batch.created_at, options),
        "expires_at": _time(batch.created_at + WINDOW_SECONDS, options),
        **{f"{name}_at": _time(batch.times.get(f"{name}_at"), options) for name in _TIMES},
    }
    return shape | _blobs(batch) if batch.request.input_blob else shape


def _blobs(batch: Batch) -> dict[str, str | None]:
    # Until there are results both URLs are "", after that both are there; source: how-to on blob storage, its samples.
    return {
        "input_blob": batch.request.input_blob,
        "output_blob": batch.output_blob,
        "error_blob": batch.error_blob,
    }


def _time(moment: float | None, options: Options) -> int | str | None:
    if moment is None or not options.has("iso_times"):
        return None if moment is None else int(moment)
    text = datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    return f"{text}0+00:00"  # the service counts in tenths of a microsecond


def _errors(batch: Batch, options: Options) -> dict[str, Any] | None:
    if not batch.errors or options.has("null_errors"):
        return None
    rows = [msgspec.to_builtins(finding) for finding in batch.errors]
    if options.has("string_lines"):
        rows = [row | {"line": None if row["line"] is None else str(row["line"])} for row in rows]
    return {"object": "list", "data": rows}


def _counts(batch: Batch, options: Options) -> dict[str, int | None]:
    if options.has("null_counts") and (not batch.ended or batch.status == "failed"):
        return {"total": None, "completed": None, "failed": None}
    return {"total": batch.total, "completed": batch.completed, "failed": batch.failed}


def matching(batches: list[Batch], expression: str) -> list[Batch]:
    """Those that fit all terms of a `$filter`; raises HTTP 400 for a term that is not understood."""
    for term in re.split(r"\s+and\s+", expression.strip()):
        if m := _CREATED.fullmatch(term):
            compare, moment = _OPERATORS[m[1]], int(m[2])
            batches = [batch for batch in batches if compare(int(batch.created_at), moment)]
        elif m := _STATUS.fullmatch(term):
            # The how-to filters for 'Completed', and prints "completed" for what it finds.
            status = m[1].lower()
            batches = [batch for batch in batches if batch.status == status]
        else:
            raise invalid(f"Not understood: {term}", "$filter")
    return batches


def ordered(batches: list[Batch], order: str) -> list[Batch]:
    """In the order of `$orderby`; what comes in is newest first."""
    if order not in ("created_at asc", "created_at desc", "created_at"):
        raise invalid(f"Not understood: {order}", "$orderby")
    return batches if order.endswith("desc") else batches[::-1]


def limit_of(text: str, maximum: int) -> int:
    """The `limit` of a list; raises HTTP 400 if it is not a number from 1 to `maximum`."""
    if not text.isdecimal() or not 1 <= int(text) <= maximum:
        raise invalid(f"Must be between 1 and {maximum}.", "limit")
    return int(text)


def page[T: HasId](
    rows: Sequence[T], after: str | None, limit: int, show: Callable[[T], dict[str, Any]]
) -> dict[str, Any]:
    """The `limit` rows that come after the row of id `after`; raises HTTP 400 if there is no such row."""
    start = 0
    if after is not None:
        start = next((n for n, row in enumerate(rows, start=1) if row.id == after), -1)
        if start < 0:
            raise invalid(f"There is no '{after}' in the list.", "after")
    chosen = rows[start : start + limit]
    return {
        "data": [show(row) for row in chosen],
        "first_id": chosen[0].id if chosen else None,
        "last_id": chosen[-1].id if chosen else None,
        "has_more": start + limit < len(rows),
    }
