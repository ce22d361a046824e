"""What the service answered: the files in `payloads` are judged line by line."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_fn.core.jobs import Usage
from batch_fn.core.results import FinalResult, Result, Verdict, merge, no_response, pack, read_result, unpack
from batch_fn.validation.requests import custom_id_of, with_custom_id
from tests.conftest import PAYLOADS

finals = st.builds(
    FinalResult, st.integers(1, 10**6), st.booleans(), st.binary(max_size=60).map(lambda raw: raw.replace(b"\n", b"\t"))
)


def answer(status: object, body: object = None, **members: object) -> bytes:
    response = {"request_id": "", "status_code": status, "body": body}
    return json.dumps({"custom_id": "a", "response": response, "error": None} | members).encode()


def refusal(error: object) -> bytes:
    return json.dumps({"custom_id": "a", "response": None, "error": error}).encode()


def judged(raw: bytes) -> Result:
    result = read_result(raw)
    assert result is not None
    return result


# What a line means


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("output_chat.jsonl", [Result("task-0", Verdict.SUCCEEDED, Usage(27, 24, 51))]),
        ("output_responses.jsonl", [Result("request-2", Verdict.SUCCEEDED, Usage(37, 11, 48))]),
        (
            "errors_expired.jsonl",
            [Result("request-3", Verdict.RETRY, Usage()), Result("request-7", Verdict.RETRY, Usage())],
        ),
        ("errors_filtered.jsonl", [Result("task-1", Verdict.FAILED, Usage())]),
        ("errors_busy.jsonl", [Result("task-2", Verdict.RETRY, Usage()), Result("task-3", Verdict.RETRY, Usage())]),
    ],
)
def test_each_line_of_a_payload_is_judged(file: str, expected: list[Result]) -> None:
    assert [read_result(raw) for raw in (PAYLOADS / file).read_bytes().splitlines()] == expected


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, Verdict.SUCCEEDED),
        (201, Verdict.SUCCEEDED),
        (299, Verdict.SUCCEEDED),
        (199, Verdict.FAILED),
        (300, Verdict.FAILED),
        (400, Verdict.FAILED),
        (401, Verdict.FAILED),
        (404, Verdict.FAILED),
        (408, Verdict.RETRY),
        (409, Verdict.RETRY),
        (413, Verdict.FAILED),
        (422, Verdict.FAILED),
        (429, Verdict.RETRY),
        (499, Verdict.FAILED),
        (500, Verdict.RETRY),
        (503, Verdict.RETRY),
        (529, Verdict.RETRY),
        (None, Verdict.FAILED),
    ],
)
def test_a_line_s_status_decides(status: int | None, verdict: Verdict) -> None:
    assert judged(answer(status)).verdict is verdict


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        ({"code": "batch_expired", "message": ""}, Verdict.RETRY),
        ({"code": "batch_cancelled"}, Verdict.RETRY),
        ({"code": "token_limit_exceeded"}, Verdict.RETRY),
        ({"code": "rate_limit_exceeded"}, Verdict.RETRY),
        ({"code": "server_error"}, Verdict.RETRY),
        ("batch_expired", Verdict.RETRY),
        ({"code": "content_filter"}, Verdict.FAILED),
        ({"code": 400}, Verdict.FAILED),
        ({"code": None, "message": "no"}, Verdict.FAILED),
        ({}, Verdict.FAILED),
        ("no", Verdict.FAILED),
        (None, Verdict.FAILED),
    ],
)
def test_a_line_s_error_decides_where_there_is_no_response(error: object, verdict: Verdict) -> None:
    assert judged(refusal(error)).verdict is verdict


def test_an_error_beside_a_response_is_never_a_success() -> None:
    assert judged(answer(200, {}, error={"code": "content_filter"})).verdict is Verdict.FAILED
    assert judged(answer(200, {}, error={"code": "server_error"})).verdict is Verdict.RETRY


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"a"',
        b"{}",
        b'{"custom_id": null, "response": null}',
        b'{"custom_id": 7, "response": null}',
        b'{"custom_id": "a", "response": 200}',
        b'{"custom_id": "\xff", "response": null}',
        answer(200)[:-1],
    ],
)
def test_what_is_no_result_line_is_not_taken_for_one(raw: bytes) -> None:
    assert read_result(raw) is None


def odd(body: bytes = b"{}", *, status: bytes = b"200", error: bytes = b"null") -> bytes:
    """A line of an output file that is not as documented."""
    return b'{"custom_id": "a", "response": {"status_code": %b, "body": %b}, "error": %b}' % (status, body, error)


DEEP = b"[" * 12_000 + b"]" * 12_000
SPENT = b'{"usage": {"total_tokens": 3}}'
ODD_ANSWERS = [
    pytest.param(odd(rb'{"content": "cut off within an emoji: \ud83d"}'), Usage(), id="half a character"),
    pytest.param(
        odd(b'{"logprob": -Infinity, "usage": {"total_tokens": 3}}'), Usage(0, 0, 3), id="a number that is none"
    ),
    pytest.param(odd(b'{"content": "a\tb"}'), Usage(), id="a control character"),
    pytest.param(odd(b'{"usage": {"prompt_tokens": 1.5}}'), Usage(), id="half a token"),
    pytest.param(odd(b'{"usage": {"prompt_tokens": 7.0, "x": NaN}}'), Usage(7, 0, 7), id="tokens as floats"),
    pytest.param(odd(b'{"usage": "unknown"}'), Usage(), id="no usage"),
    pytest.param(odd(b'{"usage": {"total_tokens": -1}}'), Usage(), id="fewer tokens than none"),
    pytest.param(odd(b'{"usage": {"prompt_tokens": 5, "total_tokens": %d}}' % 2**63), Usage(5, 0, 5), id="2 ** 63"),
    pytest.param(odd(b'{"usage": {"total_tokens": %b}}' % (b"9" * 5_000)), Usage(), id="5,000 digits"),
    pytest.param(odd(b'{"x": %b, "usage": {"total_tokens": 3}}' % DEEP), Usage(0, 0, 3), id="nested deep"),
    pytest.param(odd(b'{"x": "\xff"}'), Usage(), id="no UTF-8"),
    pytest.param(odd(b'{"x": "\xff \\ud83d", "usage": {"total_tokens": 3}}'), Usage(0, 0, 3), id="no UTF-8, and more"),
    pytest.param(odd(b'{"x": "\xff", "y": NaN, "z": %b}' % DEEP), Usage(), id="no UTF-8, no number, nested deep"),
    pytest.param(odd(SPENT, status=b'"200"'), Usage(0, 0, 3), id="a status in quotes"),
    pytest.param(odd(SPENT, status=b"200.0"), Usage(0, 0, 3), id="a status as a float"),
    pytest.param(odd(SPENT, status=b"null"), Usage(0, 0, 3), id="no status, and tokens spent"),
    pytest.param(odd(SPENT, status=b"true"), Usage(0, 0, 3), id="a status that is none, and tokens spent"),
    *(
        pytest.param(odd(SPENT, error=error), Usage(0, 0, 3), id=f"error {error.decode()}")
        for error in (b"{}", b'""', b"[]", b"false", b"0", b'{"code": null, "message": null}', b'{"message": ""}')
    ),
]


@pytest.mark.parametrize(("raw", "usage"), ODD_ANSWERS)
def test_an_answer_that_is_not_quite_as_it_should_be_is_an_answer(raw: bytes, usage: Usage) -> None:
    """Its line was taken for missing: the request went again, and was paid for again, and ended as an error."""
    assert read_result(raw) == Result("a", Verdict.SUCCEEDED, usage)
    assert custom_id_of(raw) == "a"
    renamed = with_custom_id(raw, 'b"')
    assert read_result(renamed) == Result('b"', Verdict.SUCCEEDED, usage)
    assert renamed.partition(b"status_code")[2].replace(b" ", b"") == raw.partition(b"status_code")[2].replace(
        b" ", b""
    )


@pytest.mark.parametrize(
    ("raw", "verdict"),
    [
        (odd(status=b'"429"'), Verdict.RETRY),
        (odd(status=b"503.0"), Verdict.RETRY),
        (odd(status=b'"400"'), Verdict.FAILED),
        (odd(status=b"null"), Verdict.FAILED),
        (odd(SPENT, status=b"null", error=b'"batch_expired"'), Verdict.RETRY),
        (odd(b'"\xff \\ud83d"', error=b'{"code": "content_filter"}'), Verdict.FAILED),
        (odd(b'"\xff \\ud83d"', error=b'{"code": "batch_expired"}'), Verdict.RETRY),
        (odd(b'"\xff \\ud83d"', error=b'{"code": 7}'), Verdict.FAILED),
        (odd(error=b"true"), Verdict.FAILED),
        (odd(error=b'["no"]'), Verdict.FAILED),
        (odd(error=b'{"message": {"text": "no"}}'), Verdict.FAILED),
    ],
)
def test_a_failure_that_is_not_quite_as_it_should_be_is_a_failure(raw: bytes, verdict: Verdict) -> None:
    assert judged(raw).verdict is verdict


@given(
    st.binary(max_size=80) | st.recursive(st.none() | st.text(), st.lists).map(lambda some: json.dumps(some).encode())
)
def test_no_bytes_make_the_reading_of_a_result_fall_over(raw: bytes) -> None:
    assert read_result(raw) is None or b"custom_id" in raw


# What it cost


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        ({"usage": {"prompt_tokens": 27, "completion_tokens": 24, "total_tokens": 51}}, Usage(27, 24, 51)),
        ({"usage": {"input_tokens": 37, "output_tokens": 11, "total_tokens": 48}}, Usage(37, 11, 48)),
        ({"usage": {"prompt_tokens": 8, "total_tokens": 8}}, Usage(8, 0, 8)),
        ({"usage": {"prompt_tokens": 27, "completion_tokens": 24}}, Usage(27, 24, 51)),
        ({"usage": {"prompt_tokens": 1, "completion_tokens_details": {"reasoning_tokens": 9}}}, Usage(1, 0, 1)),
        ({"usage": {}}, Usage()),
        ({"usage": None}, Usage()),
        ({}, Usage()),
        ("upstream connect error", Usage()),
        ([], Usage()),
        (None, Usage()),
    ],
)
def test_usage_is_what_the_answer_states(body: Any, usage: Usage) -> None:
    assert judged(answer(200, body)).usage == usage


# A request without a line


def test_a_request_without_a_response_gets_an_errors_line_that_is_final() -> None:
    raw = no_response('a "quoted" Größe', "The batch ended as expired.")
    assert json.loads(raw) == {
        "custom_id": 'a "quoted" Größe',
        "response": None,
        "error": {"code": "no_response", "message": "The batch ended as expired."},
    }
    assert judged(raw) == Result('a "quoted" Größe', Verdict.FAILED, Usage())


# How results are kept


@given(finals)
def test_what_is_packed_is_unpacked_the_same_with_and_without_its_line_end(final: FinalResult) -> None:
    packed = pack(final)
    assert packed.count(b"\n") == 1
    assert packed.endswith(b"\n")
    assert unpack(packed) == final
    assert unpack(packed[:-1]) == final


@given(st.lists(finals, unique_by=lambda final: final.line), st.integers(1, 5), st.randoms())
def test_merging_gives_every_result_of_every_part_once_in_the_drop_s_order(
    results: list[FinalResult], count: int, random: Any
) -> None:
    parts: list[list[FinalResult]] = [[] for _ in range(count)]
    for result in sorted(results, key=lambda final: final.line):
        random.choice(parts).append(result)
    firsts = [random.randint(1, part[0].line) if part else 1 for part in parts]
    assert list(merge(zip(firsts, map(iter, parts), strict=True))) == sorted(results, key=lambda final: final.line)


def test_results_are_not_asked_for_before_their_first_line_has_its_turn() -> None:
    asked: list[int] = []

    def part(first_line: int) -> Iterator[FinalResult]:
        asked.append(first_line)
        yield FinalResult(first_line, True, b"{}")
        yield FinalResult(first_line + 1, True, b"{}")

    merged = merge((first_line, part(first_line)) for first_line in (1, 3, 5))
    assert [(next(merged).line, len(asked)) for _ in range(6)] == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (6, 3)]
