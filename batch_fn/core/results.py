"""The service's result lines: which request succeeded, failed for good, or is worth another attempt. Pure."""

import heapq
import itertools
from collections.abc import Iterable, Iterator
from enum import StrEnum
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec

from batch_fn.core.jobs import Usage
from batch_fn.validation import loose_json

RETRYABLE_STATUSES = frozenset({408, 409, 429})
"""Like every 5xx. Source: the service's own client retries the same ones."""

RETRYABLE_CODES = frozenset(
    {"batch_expired", "batch_cancelled", "token_limit_exceeded", "rate_limit_exceeded", "server_error"}
)
"""Error codes of requests that were not run, or not to their end."""

NO_RESPONSE = "no_response"


class Verdict(StrEnum):
    """What one line of an output or error file means for its request."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    #: It did not succeed, and another attempt may.
    RETRY = "retry"


class Result(NamedTuple):
    """What one line of an output or error file says."""

    custom_id: str
    verdict: Verdict
    usage: Usage


class FinalResult(NamedTuple):
    """A request's final result, as the results of a part are kept."""

    line: int
    """The request's line number in the drop."""
    succeeded: bool
    raw: bytes
    """The line for the output or the errors blob, without its line feed."""


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
    message: str | None = None

    def __bool__(self) -> bool:
        return bool(self.code) or bool(self.message)


class _Line(msgspec.Struct):
    custom_id: str
    response: _Response | None = None
    error: _Error | str | None = None


_read_line = msgspec.json.Decoder(_Line).decode

MAX_STATED_TOKENS = 2**40
"""A count of tokens beyond this is no count, and is taken as not stated: sums of a million stay within 64 bits."""


def read_result(raw: bytes) -> Result | None:
    """Return what one line of an output or error file says, None if it is no result line at all."""
    try:
        line = _read_line(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:
            line = _read_odd_line(raw)
        except ValueError:
            return None
    usage = _usage_of(line.response)
    if line.response is not None and not line.error:
        return Result(line.custom_id, _by_status(line.response.status_code, usage), usage)
    code = line.error.code if isinstance(line.error, _Error) else line.error
    return Result(line.custom_id, Verdict.RETRY if code in RETRYABLE_CODES else Verdict.FAILED, usage)


def _read_odd_line(raw: bytes) -> _Line:
    """Return a line that is not quite JSON, or has not the members that it should: it is an answer, and paid for.

    Raises:
        ValueError: if it names no request, or says of it neither a response nor an error.
    """
    line = loose_json.members(raw)
    custom_id = loose_json.string(line.get("custom_id", b""))
    response, error = line.get("response", b"null"), line.get("error", b"null")
    if custom_id is None or (response == b"null" and error in _NO_ERROR):
        raise ValueError("it is no result line")
    return _Line(custom_id, _odd_response(response), _odd_error(error))


_NO_ERROR = frozenset({b"null", b"false", b"0", b'""', b"[]", b"{}"})


def _odd_response(raw: bytes) -> _Response | None:
    """Raises: ValueError if it is neither an object nor null."""
    if raw == b"null":
        return None
    response = loose_json.members(raw)
    status = loose_json.number(response.get("status_code", b""))
    try:
        stated = loose_json.members(loose_json.members(response["body"])["usage"])
    except (ValueError, KeyError):
        stated = {}
    counts = {name: loose_json.number(stated[name]) for name in _Usage.__struct_fields__ if name in stated}
    usage = _Usage(**{name: int(count) for name, count in counts.items() if count is not None and count.is_integer()})
    return _Response(None if status is None else int(status), _Body(usage))


def _odd_error(raw: bytes) -> _Error | str | None:
    if raw in _NO_ERROR:
        return None
    try:
        error = loose_json.members(raw)
    except ValueError:
        return loose_json.string(raw) or "unknown"
    if all(said in _NO_ERROR for said in error.values()):
        return None
    code = error.get("code", b"null")
    return _Error(loose_json.string(code) or (None if code == b"null" else "unknown"), "unknown")


def no_response(custom_id: str | None, message: str, code: str = NO_RESPONSE) -> bytes:
    """Return the errors line of a request that has no response; None where its custom_id is not known any more."""
    error = {"code": code, "message": message}
    return msgspec.json.encode({"custom_id": custom_id, "response": None, "error": error})


def pack(final: FinalResult) -> bytes:
    """Return the result as one line of a part's kept results."""
    return b"%d\t%c\t%b\n" % (final.line, b"+" if final.succeeded else b"-", final.raw)


def unpack(packed: bytes) -> FinalResult:
    """Return the result that `pack` turned into this line, with or without its line feed."""
    line, mark, raw = packed.rstrip(b"\n").split(b"\t", 2)
    return FinalResult(int(line), mark == b"+", raw)


def merge(streams: Iterable[tuple[int, Iterator[FinalResult]]]) -> Iterator[FinalResult]:
    """Yield the results of several attempts and parts in the drop's order; each gives its own in order.

    Each stream comes with a lower bound for its line numbers; it is not read before that line is reached.
    """
    in_order = heapq.merge(*itertools.starmap(_numbered, streams), key=itemgetter(0))
    return (final for _, final in in_order if final is not None)


def _numbered(first_line: int, finals: Iterator[FinalResult]) -> Iterator[tuple[int, FinalResult | None]]:
    yield first_line, None
    for final in finals:
        yield final.line, final


def _by_status(status: int | None, usage: Usage) -> Verdict:
    if status is None:  # that it says nothing does not mean that the request did not succeed
        return Verdict.SUCCEEDED if usage.total_tokens else Verdict.FAILED
    if status in RETRYABLE_STATUSES or status >= 500:
        return Verdict.RETRY
    return Verdict.SUCCEEDED if 200 <= status < 300 else Verdict.FAILED


def _usage_of(response: _Response | None) -> Usage:
    body = response.body if response is not None else None
    if not isinstance(body, _Body) or body.usage is None:
        return Usage()
    stated = body.usage
    prompt = _count(stated.prompt_tokens) or _count(stated.input_tokens)
    completion = _count(stated.completion_tokens) or _count(stated.output_tokens)
    return Usage(prompt, completion, _count(stated.total_tokens) or prompt + completion)


def _count(stated: int | None) -> int:
    return stated if stated is not None and 0 <= stated <= MAX_STATED_TOKENS else 0
