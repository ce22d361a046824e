"""A rule of a line holds on every line: the fast path keeps what the rule declares, and finds what the rule finds."""

import copy
import json
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest

from batch_fn.validation import check as check_module
from batch_fn.validation.check import check
from batch_fn.validation.fast_path import LineTemplates
from batch_fn.validation.findings import Finding
from batch_fn.validation.line_rules import LINE_RULES, Kind, LineRule, Path, kind_of, literal_paths, value_at
from batch_fn.validation.requests import Request, Rules

LEARNT = 29
"""Lines before the one that is changed: it is line 30."""

CHAT: dict[str, Any] = {
    "custom_id": "#",
    "method": "POST",
    "url": "/chat/completions",
    "body": {
        "model": "mini",
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": "World"}]},
        ],
        "temperature": 0.5,
        "max_tokens": 64,
        "stream": False,
        "stop": ["a", "b"],
        "logit_bias": {},
        "tools": [],
        "user": None,
        "response_format": {"type": "json_schema", "json_schema": {"strict": True, "depth": [[1, 2], [3]]}},
    },
}
RESPONSES: dict[str, Any] = {
    "custom_id": "#",
    "method": "POST",
    "url": "/v1/responses",
    "body": {"model": "maxi", "input": "Hello", "reasoning": {"effort": "low"}, "store": False},
}
REPLACEMENTS: list[Any] = ["", "x", 'a "quote"', 0, -1, 2.5, 10**30, True, False, None, [], [1], [[]], {}, {"a": 1}]

type Place = tuple[str | int, ...]


def lines_of(shape: dict[str, Any], *changed: dict[str, Any]) -> list[bytes]:
    """Return the drop: lines of one shape, then the changed ones."""
    alike = [copy.deepcopy(shape) for _ in range(LEARNT)]
    numbered = enumerate([*alike, *changed])
    every = [each | {"custom_id": f"id-{n}"} if each.get("custom_id") == "#" else each for n, each in numbered]
    return [json.dumps(each).encode() for each in every]


def both_ways(raw: list[bytes], rules: Rules | None = None) -> list[Request | Finding]:
    """Return what is found on the fast path, after a comparison with the careful path."""
    rules = rules or Rules(mixed=True)
    fast = list(check([b"\n".join(raw)], rules))
    with patch.object(LineTemplates, "run", return_value=None):
        assert fast == list(check([b"\n".join(raw)], rules))
    return fast


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Yield where each value is, objects and arrays included."""
    if place:
        yield place
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield from places(member, (*place, key))


def with_value(shape: dict[str, Any], place: Place, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(shape)
    parent: Any = changed
    for key in place[:-1]:
        parent = parent[key]
    if value is ...:
        del parent[place[-1]]
    else:
        parent[place[-1]] = value
    return changed


def key_paths(shape: dict[str, Any]) -> list[Path]:
    """Return the paths that a rule may declare."""
    return [tuple(map(str, place)) for place in places(shape) if all(isinstance(key, str) for key in place)]


@pytest.fixture(autouse=True, scope="module")
def _templates_are_used() -> None:
    """The comparison says nothing unless lines of these shapes do take the fast path."""
    for shape in (CHAT, RESPONSES):
        templates = LineTemplates(literal_paths(LINE_RULES))
        with patch.object(check_module, "LineTemplates", return_value=templates):
            runs = list(check_module.validate_blocks([b"\n".join(lines_of(shape, *[shape] * 5)) + b"\n"], Rules()))
        assert runs[-1].requests > 1  # type: ignore[union-attr]


@pytest.mark.parametrize("shape", [CHAT, RESPONSES], ids=["chat", "responses"])
def test_a_value_that_is_changed_after_the_template_is_learnt_is_found_as_on_the_careful_path(
    shape: dict[str, Any],
) -> None:
    found = 0
    for place in places(shape):
        changed = [with_value(shape, place, value) for value in [..., *REPLACEMENTS]]
        for each in changed:
            found += isinstance(both_ways(lines_of(shape, each))[-1], Finding)
    assert found > 50


@pytest.mark.parametrize("shape", [CHAT, RESPONSES], ids=["chat", "responses"])
def test_two_of_each_value_are_as_good_as_one_on_either_path(shape: dict[str, Any]) -> None:
    for place in places(shape):
        value: Any = shape
        for key in place:
            value = value[key]
        if isinstance(value, list) and value:
            both_ways(lines_of(shape, with_value(shape, place, value * 2), with_value(shape, place, value[:1])))


@pytest.mark.parametrize("path", [path for path in key_paths(CHAT) if path != ("custom_id",)], ids=".".join)
def test_a_rule_on_any_value_is_found_on_line_30(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a new rule reads: nobody has to tell the fast path."""
    original = value_at(CHAT, path)

    def problem(_: Rules, value: object) -> str | None:
        return None if json.dumps(value) == json.dumps(original) else "It differs."

    monkeypatch.setattr(check_module, "LINE_RULES", (*LINE_RULES, LineRule(problem, values=(path,))))
    for value in REPLACEMENTS:
        if json.dumps(value) == json.dumps(original):
            continue
        *_, last = both_ways(lines_of(CHAT, with_value(CHAT, path, value)))
        assert isinstance(last, Finding)
        assert last.line == LEARNT + 1


@pytest.mark.parametrize("path", [path for path in key_paths(CHAT) if path != ("custom_id",)], ids=".".join)
def test_a_rule_on_any_kind_is_found_on_line_30(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = kind_of(value_at(CHAT, path))

    def problem(_: Rules, kind: Kind) -> str | None:
        return None if kind is original else "It differs."

    monkeypatch.setattr(check_module, "LINE_RULES", (*LINE_RULES, LineRule(problem, kinds=(path,))))
    for value in [..., *REPLACEMENTS]:
        differs = value is ... or kind_of(value) is not original
        *_, last = both_ways(lines_of(CHAT, with_value(CHAT, path, value)))
        if differs:
            assert isinstance(last, Finding)
            assert last.line == LEARNT + 1


@pytest.mark.parametrize("number", [3, 30])
def test_a_new_content_rule_is_found_on_line_3_and_on_line_30(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def problem(_: Rules, temperature: object) -> str | None:
        low = not isinstance(temperature, int | float) or temperature <= 2
        return None if low else "body.temperature is over 2. Lower it."

    rule = LineRule(problem, values=(("body", "temperature"),))
    monkeypatch.setattr(check_module, "LINE_RULES", (*LINE_RULES, rule))
    raw = lines_of(CHAT, *[CHAT] * 6)
    raw[number - 1] = raw[number - 1].replace(b'"temperature": 0.5', b'"temperature": 2.5')
    assert [each.line for each in both_ways(raw) if isinstance(each, Finding)] == [number]


def test_a_rule_is_given_nothing_but_what_it_declares(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[object, ...]] = []

    def problem(*arguments: object) -> None:
        seen.append(arguments[1:])

    rule = LineRule(problem, values=(("method",), ("body", "stop")), kinds=(("body", "stop"), ("body", "absent")))
    monkeypatch.setattr(check_module, "LINE_RULES", (rule,))
    list(check([json.dumps(CHAT | {"custom_id": "a"}).encode()], Rules()))
    assert seen == [("POST", ["a", "b"], Kind.ARRAY, Kind.MISSING)]


def test_a_rule_does_not_apply_where_a_parent_is_no_object(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = LineRule(lambda _, __: "It applies.", kinds=(("body", "stop", "deep"),))
    monkeypatch.setattr(check_module, "LINE_RULES", (*LINE_RULES, rule))
    (accepted,) = check([json.dumps(CHAT | {"custom_id": "a"}).encode()], Rules())
    assert isinstance(accepted, Request)


def test_lines_that_differ_where_a_rule_reads_kinds_only_still_take_the_fast_path() -> None:
    other = with_value(
        CHAT, ("body", "messages"), [{"role": "system", "content": "Be very short."}, CHAT["body"]["messages"][1]]
    )
    raw = lines_of(CHAT, with_value(other, ("body", "temperature"), 1.5), with_value(other, ("body", "max_tokens"), 9))
    templates = LineTemplates(literal_paths(LINE_RULES))
    with patch.object(check_module, "LineTemplates", return_value=templates):
        last = list(check_module.validate_blocks([b"\n".join(raw) + b"\n"], Rules()))[-1]
    assert last.requests > 2  # type: ignore[union-attr]


def test_a_rule_on_custom_ids_is_found_on_line_30(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = LineRule(lambda _, custom_id: "Too long." if len(str(custom_id)) > 5 else None, values=(("custom_id",),))
    monkeypatch.setattr(check_module, "LINE_RULES", (*LINE_RULES, rule))
    raw = lines_of(CHAT, CHAT | {"custom_id": "id-long"}, CHAT)
    assert [each.line for each in both_ways(raw) if isinstance(each, Finding)] == [LEARNT + 1]
