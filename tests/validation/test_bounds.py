"""What one drop can cost is bounded: the tokens that are looked at, the findings, the deployments."""

import json
from collections.abc import Iterator
from unittest.mock import patch

import pytest

from batch_fn.validation import fast_path
from batch_fn.validation.check import check, validate_blocks
from batch_fn.validation.fast_path import LEARN_AFTER, MAX_LEARN_BYTES, MAX_LEARN_TRIES, MAX_TOKENS, Token
from batch_fn.validation.findings import Finding
from batch_fn.validation.requests import Request, Rules


def line(number: int, model: str = "mini", numbers: int = 0) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "x": [1] * numbers}
    return json.dumps({"custom_id": f"{number}", "method": "POST", "url": "/chat/completions", "body": body}).encode()


# Tokens


def tokens_taken(raw: Iterator[bytes]) -> list[int]:
    """Return how many tokens of each line were taken, of lines that are all accepted."""
    taken: list[int] = []
    tokens = fast_path.tokens

    def counted(raw: bytes) -> Iterator[Token]:
        taken.append(0)
        for token in tokens(raw):
            taken[-1] += 1
            yield token

    with patch.object(fast_path, "tokens", counted):
        for each in check((one + b"\n" for one in raw), Rules(max_requests=10**6)):
            assert isinstance(each, Request)
    return taken


def test_no_token_is_taken_of_a_line_that_is_too_large_to_learn() -> None:
    assert len(line(0, numbers=MAX_LEARN_BYTES)) > MAX_LEARN_BYTES
    assert tokens_taken(line(number, numbers=MAX_LEARN_BYTES) for number in range(LEARN_AFTER + 1)) == []


def test_tokens_are_taken_only_up_to_the_most_that_a_template_may_have() -> None:
    numbers = MAX_LEARN_BYTES // 4
    assert MAX_TOKENS < numbers < len(line(0, numbers=numbers)) < MAX_LEARN_BYTES
    assert tokens_taken(line(number, numbers=numbers) for number in range(LEARN_AFTER + 1)) == [MAX_TOKENS + 1] * 2


def test_so_many_lines_are_learnt_and_no_more() -> None:
    taken = tokens_taken(line(number, numbers=MAX_TOKENS) for number in range(LEARN_AFTER + 2 * MAX_LEARN_TRIES))
    assert len(taken) == MAX_LEARN_TRIES


def test_a_line_that_can_be_learnt_is_tokenised_once() -> None:
    assert len(tokens_taken(line(number) for number in range(3 * LEARN_AFTER))) == 1


# Findings


class Chunks:
    """The chunks of a drop without end, counted as they are read."""

    def __init__(self, chunk: bytes) -> None:
        self.read, self._chunk = 0, chunk

    def __iter__(self) -> Iterator[bytes]:
        while True:
            self.read += 1
            yield self._chunk


def test_reading_stops_after_so_many_findings_and_the_last_one_says_so() -> None:
    chunks = Chunks(b"x\n" * 1_000)
    found = list(check(chunks, Rules(max_findings=2_500)))
    assert len(found) == 2_501
    assert chunks.read == 3
    assert {each.code for each in found[:-1] if isinstance(each, Finding)} == {"invalid_json_line"}
    assert found[-1] == Finding(
        2_501,
        "too_many_findings",
        "The file has more than 2,500 findings, and the rest of it was not checked. "
        "Fix the listed findings, or raise the setting MAX_FINDINGS.",
    )


@pytest.mark.parametrize("findings", [0, 1, 9, 10, 11])
def test_a_drop_is_read_whole_unless_it_has_more_findings_than_that(findings: int) -> None:
    raw = [*(b"x" for _ in range(findings)), *map(line, range(40))]
    found = list(check([b"\n".join(raw)], Rules(max_findings=10)))
    codes = [each.code for each in found if isinstance(each, Finding)]
    assert codes == ["invalid_json_line"] * min(findings, 10) + ["too_many_findings"] * (findings > 10)
    assert sum(isinstance(each, Request) for each in found) == (0 if findings > 10 else 40)


def test_a_line_with_several_problems_counts_each() -> None:
    found = list(check([b"{}\n{}\n"], Rules(max_findings=4)))
    assert [each.line for each in found if isinstance(each, Finding)] == [1, 1, 1, 1, 2]


def test_the_keys_that_one_line_repeats_are_named_up_to_a_limit() -> None:
    members = ", ".join(f'"key{number}": 1, "key{number}": 2' for number in range(5_000))
    found = list(check([b'{"custom_id": "a", ' + members.encode() + b"}"], Rules()))
    repeated = [each.message for each in found if isinstance(each, Finding) and "more than once" in each.message]
    assert len(repeated) == 100
    assert len(set(repeated)) == 100


# Deployments


def deployments(count: int) -> list[bytes]:
    """Return the lines of a drop with so many deployments, in turns."""
    return [line(number, f"deployment-{number % count}") for number in range(3 * count)]


def test_a_drop_may_have_so_many_deployments() -> None:
    found = list(check([b"\n".join(deployments(5))], Rules(mixed=True, max_deployments=5)))
    assert all(isinstance(each, Request) for each in found)


def test_more_deployments_than_that_are_one_finding() -> None:
    found = list(check([b"\n".join(deployments(7))], Rules(mixed=True, max_deployments=5)))
    (finding,) = [each for each in found if isinstance(each, Finding)]
    assert finding == Finding(
        6,
        "too_many_deployments",
        'body.model "deployment-5" is deployment 6 of the file, and 5 is the limit. '
        "Split the file, or raise the setting MAX_DEPLOYMENTS.",
        "5",
    )
    assert {each.deployment for each in found if isinstance(each, Request)} == {f"deployment-{n}" for n in range(5)}


def test_deployments_are_counted_on_the_fast_path_too() -> None:
    raw = [line(number, f"deployment-{number // 40}") for number in range(240)]
    found = list(validate_blocks([b"\n".join(raw)], Rules(mixed=True, max_deployments=5)))
    assert [each.line for each in found if isinstance(each, Finding)] == [201]
    assert sum(each.requests for each in found if not isinstance(each, Finding)) == 200
