"""A line like one that was accepted is checked a shorter way, which finds exactly what the careful way finds."""

import json
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batch_fn.requests import Finding, Request, Rules, check
from batch_fn.shapes import LEARN_AFTER, MOST_SHAPES, Shapes

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


def both_ways(*raw: bytes, rules: Rules | None = None) -> list[Request | Finding]:
    """What comes of the lines after some of known shapes, once it is sure that both ways give the same."""
    drop = b"\n".join([*KNOWN, *raw])
    quick = list(check([drop], rules or Rules()))
    with patch.object(Shapes, "find", return_value=None):
        assert quick == list(check([drop], rules or Rules()))
    return quick[len(KNOWN) :]


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


@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(mutated(), min_size=1, max_size=8), st.sampled_from([None, "mini", "other"]), st.booleans())
def test_the_short_way_finds_what_the_careful_way_finds(raw: list[bytes], deployment: str | None, mixed: bool) -> None:
    both_ways(*raw, rules=Rules(deployment=deployment, mixed=mixed))


@pytest.mark.parametrize("scrap", SCRAPS)
def test_a_scrap_anywhere_in_a_line_makes_no_difference(scrap: bytes) -> None:
    raw = written(90, "a", 1)
    both_ways(*(raw[:place] + scrap + raw[place + cut :] for place in range(len(raw)) for cut in (0, 1)))


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_lines_like_those_before_them_take_the_short_way(text: str, ascii_only: bool) -> None:
    shapes = Shapes()
    for raw in KNOWN:
        shapes.learn(raw, "/chat/completions", "mini", filled=False)
    for messages in (1, 2, 5):
        raw = written(99, text, messages, ascii_only=ascii_only)
        (accepted,) = both_ways(raw)
        found = shapes.find(raw)
        assert isinstance(accepted, Request)
        assert found is not None
        assert (found.custom_id, found.characters) == ("id-99", accepted.characters)


def test_the_shapes_of_a_drop_are_bounded() -> None:
    shapes = Shapes()
    lines = [b'{"custom_id": "a", "method": "POST", "body": {"k%d": ""}}' % number for number in range(100)]
    for raw in lines:
        shapes.learn(raw, "/responses", "mini", filled=False)
    assert sum(shapes.find(raw) is not None for raw in lines) == MOST_SHAPES


@pytest.mark.parametrize("raw", [b'{"a": [' + b"1, 2, " * 2000 + b"3]}", rb'{"custom_id": "a", "\u0061": {"b": 1}}'])
def test_a_line_too_large_or_with_an_escape_in_a_key_has_no_shape(raw: bytes) -> None:
    shapes = Shapes()
    for _ in range(LEARN_AFTER + 1):
        shapes.learn(raw, "/responses", "mini", filled=False)
    assert shapes.find(raw) is None
