"""Lines like one that was accepted are checked a shorter way, which finds exactly what the careful way finds."""

import json
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batch_fn.core.jobs import Part
from batch_fn.core.planning import Limits, Planner
from batch_fn.validation.check import check, validate_blocks
from batch_fn.validation.fast_path import LEARN_AFTER, MAX_TEMPLATES, LineTemplates, Match
from batch_fn.validation.findings import Finding
from batch_fn.validation.line_rules import LINE_RULES, literal_paths
from batch_fn.validation.lines import LineBlock
from batch_fn.validation.requests import Request, RequestRun, Rules

TEXTS = ["Hello", 'say "yes"', "a\\b", "\\", '\\"', "C:\\\\x", "\n\t", "Grüße", "東京 🙂", "", "x" * 3000, '{"a": "b"}']
SCRAPS = [b'"', b"\\", b'\\"', b"\\\\", b"\\" * 3, b"\\" * 4, b"\\" * 5, b"\\u0022", b"\\ud800", b"\\udc00", b"\\u12g4"]
SCRAPS += [
    b"\\ud83d\\ude42",
    b"\\ud83d\\ud83d\\ude42",
    b"\\x",
    b"\\n",
    b"\0",
    b"\x1f",
    b"\t",
    b"\x7f",
    b"\xff",
    b"\xc3",
]
SCRAPS += [
    b"\xc3\xa9",
    b"\xed\xa0\x80",
    b"\xf0\x9f\x99\x82",
    b"\xc0\x80",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b" ",
    b"\r",
]
SCRAPS += [
    b"0",
    b"-",
    b"1e5",
    b"1.",
    b".5",
    b"+1",
    b"01",
    b"1e999",
    b"NaN",
    b"null",
    b"true",
    b'", "a": "',
    b'"custom_id": ',
]
SCRAPS += [b'"model": "b", ', b'"messages": [], ', b'"stream": true, ', b'{"role": "user", "content": ""}, ']


def value(number: int, text: str, messages: int = 2) -> dict[str, Any]:
    """A good request, of one of several shapes."""
    body: dict[str, Any] = {"model": "mini", "messages": [{"role": "user", "content": text}] * messages}
    more: list[dict[str, Any]] = [
        {},
        {"temperature": 0.5, "stop": ["a", text]},
        {"metadata": {"ü": [1, -2.5e3, None, True, []]}},
    ]
    body |= more[number % 3]
    return {"custom_id": f"id-{number}", "method": "POST", "url": "/chat/completions", "body": body}


def written(number: int, text: str, messages: int = 2, *, ascii_only: bool = False) -> bytes:
    return json.dumps(value(number, text, messages), ensure_ascii=ascii_only).encode()


KNOWN = [written(number, "Hello") for number in range(LEARN_AFTER + 8)]


def both_ways(*raw: bytes, rules: Rules | None = None, chunk_bytes: int = 10**9) -> list[Request | Finding]:
    """What comes of the lines after some of known shapes, once it is sure that both ways give the same."""
    drop = b"\n".join([*KNOWN, *raw])
    chunks = [drop[start : start + chunk_bytes] for start in range(0, len(drop), chunk_bytes)]
    quick = list(check(chunks, rules or Rules()))
    with patch.object(LineTemplates, "run", return_value=None):
        assert quick == list(check([drop], rules or Rules()))
    return quick[len(KNOWN) :]


def learnt(*raw: bytes, url: str = "/chat/completions") -> LineTemplates:
    """The shapes of these lines."""
    shapes = LineTemplates(literal_paths(LINE_RULES))
    for each in raw:
        request = json.loads(each)
        characters = len(json.dumps(request["body"], ensure_ascii=False))
        shapes.learn(each, request["custom_id"], characters, url, "mini", filled=False)
    return shapes


def run_of(shapes: LineTemplates, *raw: bytes) -> Match | None:
    content = b"".join(each + b"\n" for each in raw)
    return shapes.run(LineBlock(0, content, 0, len(content)))


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A good line, perhaps with bytes cut out of it or put into it."""
    number, text = draw(st.integers(0, 60)), draw(st.sampled_from(TEXTS) | st.text(max_size=12))
    raw = written(number, text, draw(st.integers(0, 4)), ascii_only=draw(st.booleans()))
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2, 3]))):
        start = draw(st.integers(0, len(raw)))
        end = draw(st.sampled_from([start, start, start + 1, start + 2, start + 8]))
        raw = raw[:start] + draw(st.sampled_from(SCRAPS) | st.binary(max_size=3)) + raw[end:]
    return raw


some_rules = st.builds(
    Rules,
    deployment=st.sampled_from([None, "mini", "other"]),
    mixed=st.booleans(),
    max_requests=st.sampled_from([26, 99]),
    max_line_bytes=st.sampled_from([250, 2**24]),
)


@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(mutated(), min_size=1, max_size=8), some_rules, st.sampled_from([100, 1500, 10**9]))
def test_the_short_way_finds_what_the_careful_way_finds(raw: list[bytes], rules: Rules, chunk_bytes: int) -> None:
    both_ways(*raw, rules=rules, chunk_bytes=chunk_bytes)


@pytest.mark.parametrize("scrap", SCRAPS)
def test_a_scrap_anywhere_in_a_line_makes_no_difference(scrap: bytes) -> None:
    raw = written(90, "a", 1)
    both_ways(*(raw[:place] + scrap + raw[place + cut :] for place in range(len(raw)) for cut in (0, 1)))


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_lines_like_those_before_them_take_the_short_way(text: str, ascii_only: bool) -> None:
    shapes = learnt(*KNOWN)
    for messages in (1, 2, 5):
        raw = written(99, text, messages, ascii_only=ascii_only)
        (accepted,) = both_ways(raw)
        run = run_of(shapes, raw)
        assert isinstance(accepted, Request)
        assert run is not None
        assert (run.custom_ids, run.characters) == ([b"id-99"], accepted.characters)


def test_blanks_behind_the_line_that_was_learnt_do_not_count() -> None:
    shapes = learnt(*[written(0, "Hello") + b" \t "] * LEARN_AFTER)
    run, again = run_of(shapes, written(3, "Hello")), run_of(learnt(*KNOWN), written(3, "Hello"))
    assert run is not None
    assert again is not None
    assert run.characters == again.characters


def test_lines_of_one_shape_are_surveyed_together_until_one_is_of_another() -> None:
    drop = b"\n".join([*KNOWN, *(written(3 * number, "Grüße") for number in range(30, 40)), written(100, "x"), b"{"])
    found = list(validate_blocks([drop], Rules()))
    assert [(each.line, each.requests) for each in found if isinstance(each, RequestRun)][-2:] == [(25, 10), (35, 1)]
    assert isinstance(found[-1], Finding)
    assert found[-1].line == 36


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from([0, 0, 0, 1, 2]), max_size=60),
    st.builds(Limits, st.integers(500, 9000), st.integers(1, 30), st.none() | st.integers(20, 900)),
    st.booleans(),
)
def test_parts_are_the_same_whether_their_lines_come_together_or_one_by_one(
    kinds: list[int], limits: Limits, mixed: bool
) -> None:
    raw = [written(300 + 3 * place + kind, "Grüße " * kind) for place, kind in enumerate(kinds)]
    raw = [
        each.replace(b'"mini"', b'"maxi"') if mixed and kind else each for each, kind in zip(raw, kinds, strict=True)
    ]
    drop = b"\n".join([*KNOWN, *raw])

    def parts(how: Any) -> tuple[frozenset[int], list[Part]]:
        planner = Planner(limits, container="archive", name="a.jsonl", size=len(drop))
        for each in how([drop], Rules(mixed=True)):
            planner.add(each)
        noon = datetime(2026, 11, 24, 12, tzinfo=UTC)
        return planner.interleaved, planner.parts("20261124T120000Z-0123456789", now=noon, due=noon)

    assert parts(validate_blocks) == parts(check)


def test_the_shapes_of_a_drop_are_bounded() -> None:
    lines = [b'{"custom_id": "a", "method": "POST", "body": {"k%d": ""}}' % number for number in range(100)]
    shapes = learnt(*lines, url="/responses")
    assert sum(run_of(shapes, raw) is not None for raw in lines) == MAX_TEMPLATES


@pytest.mark.parametrize(
    "raw",
    [
        b'{"custom_id": "a", "body": {"a": [' + b"1, 2, " * 2000 + b"3]}}",
        rb'{"custom_id": "a", "body": {"\u0061": {"b": 1}}}',
        rb'{"custom_id": "\u0061", "body": {}}',
        b'{"custom_id": "a", "note": "free", "body": {}}',
        b'{"custom_id": "a", "note": 5, "body": {}}',
        b'{"custom_id": "a", "note": [null, null], "body": {}}',
    ],
)
def test_a_line_too_large_with_an_escape_in_a_key_or_more_around_its_body_has_no_shape(raw: bytes) -> None:
    shapes = learnt(*[raw] * (LEARN_AFTER + 1))
    assert run_of(shapes, raw) is None


@pytest.mark.parametrize("chunk_bytes", [50, 700, 10**9])
def test_a_line_too_long_after_lines_of_known_shapes_is_found(chunk_bytes: int) -> None:
    long = written(90, "x" * 3000)
    found = both_ways(
        written(91, "a"), long, written(93, "b"), rules=Rules(max_line_bytes=500), chunk_bytes=chunk_bytes
    )
    assert [each.line for each in found if isinstance(each, Finding)] == [len(KNOWN) + 2]
    assert [each.custom_id for each in found if isinstance(each, Request)] == ["id-91", "id-93"]
