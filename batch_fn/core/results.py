"""What the service answered, line by line: what succeeded, failed for good, or is worth another attempt. Pure."""

import heapq
import itertools
from collections.abc import Iterable, Iterator
from enum import StrEnum
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec

from batch_fn.core.jobs import Usage
from batch_fn.validation.requests import read_loosely

RETRYABLE_STATUSES = frozenset({408, 409, 429})
"""And every 5xx. Source: the service's own client retries the same ones."""

RETRYABLE_CODES = frozenset(
    {"batch_expired", "batch_cancelled", "token_limit_exceeded", "rate_limit_exceeded", "server_error"}
)
"""Codes of lines that were not run, or not to their end."""

NO_RESPONSE = "no_response"


class Verdict(StrEnum):
    """What one line of an output or error file means for its request."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    #: It did not succeed, and another attempt may.
    RETRY = "retry"


class Result(NamedTuple):
    """One line of an output or error file, judged."""

    custom_id: str
    verdict: Verdict
    usage: Usage


class FinalResult(NamedTuple):
    """A request's final result, as results of a part are kept."""

    line: int
    """The request's line number in the drop."""
    succeeded: bool
    raw: bytes
    """The line for the output or the errors blob, without its end."""


class _Usage(msgspec.Struct):
    """Chat completions speak of prompt and completion, responses of input and output."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None


class _Body(msgspec.Struct):
    usage: _Usage | None = None


class _Response(msgspec.Struct):
    status_code: int | None = None
    body: _Body | str | list[Any] | float | bool | None = None


class _Error(msgspec.Struct):
    code: str | int | None = None


class _Line(msgspec.Struct):
    custom_id: str
    response: _Response | None = None
    error: _Error | str | None = None


_read_line = msgspec.json.Decoder(_Line).decode


def read_result(raw: bytes) -> Result | None:
    """Return what one line of an output or error file says, None if it is no result line at all."""
    try:
        line = _read_line(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        odd = _odd_line(raw)
        if odd is None:
            return None
        line = odd
    usage = _usage_of(line.response)
    if line.response is not None and line.error is None:
        return Result(line.custom_id, _by_status(line.response.status_code), usage)
    code = line.error.code if isinstance(line.error, _Error) else line.error
    return Result(line.custom_id, Verdict.RETRY if code in RETRYABLE_CODES else Verdict.FAILED, usage)


def _odd_line(raw: bytes) -> _Line | None:
    """Return a line that is not quite JSON, or whose body has not the members that it should: it is an answer still."""
    try:
        members = read_loosely(raw)
        try:
            return msgspec.convert(members, _Line)
        except msgspec.ValidationError:
            return msgspec.convert(members | {"response": members["response"] | {"body": None}}, _Line)
    except (msgspec.DecodeError, KeyError, TypeError):
        return None


def no_response(custom_id: str, message: str, code: str = NO_RESPONSE) -> bytes:
    """Return the errors line of a request that the service gave no line for."""
    error = {"code": code, "message": message}
    return msgspec.json.encode({"custom_id": custom_id, "response": None, "error": error})


def pack(final: FinalResult) -> bytes:
    """Return the result as one line of a part's kept results."""
    return b"%d\t%c\t%b\n" % (final.line, b"+" if final.succeeded else b"-", final.raw)


def unpack(packed: bytes) -> FinalResult:
    """Return the result that `pack` made the line of, with or without its line end."""
    line, mark, raw = packed.rstrip(b"\n").split(b"\t", 2)
    return FinalResult(int(line), mark == b"+", raw)


def merge(streams: Iterable[tuple[int, Iterator[FinalResult]]]) -> Iterator[FinalResult]:
    """Yield the results of several attempts and parts in the drop's order; each gives its own in order.

    With each comes a line that none of its own is before: it is asked for nothing until that line has its turn.
    """
    in_order = heapq.merge(*itertools.starmap(_numbered, streams), key=itemgetter(0))
    return (final for _, final in in_order if final is not None)


def _numbered(first_line: int, finals: Iterator[FinalResult]) -> Iterator[tuple[int, FinalResult | None]]:
    yield first_line, None
    for final in finals:
        yield final.line, final


def _by_status(status: int | None) -> Verdict:
    if status is None or status in RETRYABLE_STATUSES or status >= 500:
        return Verdict.RETRY
    return Verdict.SUCCEEDED if 200 <= status < 300 else Verdict.FAILED


def _usage_of(response: _Response | None) -> Usage:
    body = response.body if response is not None else None
    if not isinstance(body, _Body) or body.usage is None:
        return Usage()
    stated = body.usage
    prompt = stated.prompt_tokens or stated.input_tokens or 0
    completion = stated.completion_tokens or stated.output_tokens or 0
    return Usage(prompt, completion, stated.total_tokens or prompt + completion)
