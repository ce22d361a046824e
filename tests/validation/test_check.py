import json
import tracemalloc
from collections.abc import Iterable, Iterator
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_fn.validation.check import PLACEHOLDER, check
from batch_fn.validation.custom_ids import CustomIds
from batch_fn.validation.findings import Finding
from batch_fn.validation.lines import lines
from batch_fn.validation.requests import Request, Rules, custom_id_of, fill_deployment, with_custom_id
from batch_fn.validation.strict_json import MAX_DEPTH, parse_if_flawless, shown

CHAT = "/chat/completions"
BODY = {"model": "batch-small", "messages": [{"role": "user", "content": "Hello"}]}


def request(custom_id: object = "a", **changes: object) -> dict[str, Any]:
    """A good request, with members changed; a member that is changed to ... is left out."""
    members = {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": BODY} | changes
    return {name: value for name, value in members.items() if value is not ...}


def body(**changes: object) -> dict[str, Any]:
    return {name: value for name, value in (BODY | changes).items() if value is not ...}


def line(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def results(*raw: bytes, rules: Rules | None = None) -> list[Request | Finding]:
    return list(check([b"\n".join(raw)], rules or Rules()))


def findings(*raw: bytes, rules: Rules | None = None) -> list[Finding]:
    return [result for result in results(*raw, rules=rules) if isinstance(result, Finding)]


def only_finding(*raw: bytes, rules: Rules | None = None) -> Finding:
    (finding,) = findings(*raw, rules=rules)
    return finding


GOOD = line(request())


def with_text(text: str) -> bytes:
    """A good line, whose body has one more member, which is written as `text`."""
    return GOOD[:-2] + f', "more": {text}}}}}'.encode()


# A good request


def test_a_good_line_is_one_request() -> None:
    raw = line(request(body=body(messages=[{"role": "user", "content": "Grüße 🙂"}])))
    text = json.dumps(json.loads(raw)["body"], ensure_ascii=False)
    assert results(raw) == [Request(1, 0, len(raw), "a", CHAT, "batch-small", len(text), filled=False)]


@pytest.mark.parametrize(
    "more",
    [
        *("1e400", "-0.0", "9" * 5000, "[]", "{}", "null", '"NaN"', r'"\ud83d\ude42"', r'"\\ud800"', r'"\u0022:"'),
        *(r'"{\"a\": 1, \"a\": 2}"', r'{"a\"": 1, "a": 2}', r'[{"a": 1}, {"a": 2}]', '"' + "[" * 1000 + '"'),
        "[" * (MAX_DEPTH - 2) + "]" * (MAX_DEPTH - 2),
        "[" + "[]," * 1000 + "[]]",
    ],
)
def test_what_is_unusual_json_is_accepted(more: str) -> None:
    assert not findings(with_text(more))


def test_members_the_service_may_know_are_accepted() -> None:
    assert not findings(line(request(priority=3, body=body(temperature=0.5, stream=False))))


@pytest.mark.parametrize("url", ["/responses", "/v1/responses"])
def test_responses_take_an_input(url: str) -> None:
    assert not findings(line(request(url=url, body={"model": "m", "input": "Hello"})))


# What is repaired on the way


def test_bom_crlf_blank_lines_and_a_missing_last_line_end_are_repaired() -> None:
    first, second = line(request("a")), line(request("b"))
    drop = b"\xef\xbb\xbf\r\n" + first + b"\r\n \t\r\n\n" + second
    accepted = [result for result in check([drop], Rules()) if isinstance(result, Request)]
    assert [(result.line, result.custom_id) for result in accepted] == [(2, "a"), (5, "b")]
    assert [drop[result.offset :][: result.length] for result in accepted] == [first, second]


# What is wrong with a line: how it is written


@pytest.mark.parametrize(
    ("raw", "parts"),
    [
        (b"[1]", ["The line is an array", "one request object per line"]),
        (b'"text"', ["The line is a string"]),
        (b"null", ["The line is null"]),
        (b"true", ["The line is a boolean"]),
        (b"1", ["The line is a number"]),
        (GOOD[:-1], ["cut off", f"the line ends at column {len(GOOD) - 1}", "on one line"]),
        (GOOD[:30], ["cut off: Unterminated string starting at column", "on one line"]),
        (GOOD + GOOD, [f"ends before column {len(GOOD) + 1}", "one JSON object per line"]),
        (b" \xef\xbb\xbf" + GOOD, ["byte order mark at column 2", "Remove it"]),
        (b"{'custom_id': 'a'}", ["not JSON", "at column 2", "JSON library"]),
        (with_text('"\t"'), ["not JSON: Invalid control character at column", "JSON library"]),
        (with_text("NaN"), ["NaN is not JSON", "Write a number"]),
        (with_text("-Infinity"), ["-Infinity is not JSON"]),
        (with_text("01"), ["not JSON"]),
        (with_text('"\\x"'), ["not JSON"]),
        (with_text("[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)), ["more than 100 levels", "Flatten"]),
        (b"[" * 1_000_000, ["more than 100 levels"]),
        (b'{"a":' * 1_000_000, ["more than 100 levels"]),
        (b"[" * 101 + b'"' + b"\\" * 100_000, ["more than 100 levels"]),
        (b"\x00" + GOOD, ["UTF-16"]),
    ],
)
def test_a_line_that_is_not_json(raw: bytes, parts: list[str]) -> None:
    finding = only_finding(raw)
    assert (finding.line, finding.code, finding.custom_id) == (1, "invalid_json_line", None)
    for part in parts:
        assert part in finding.message


@pytest.mark.parametrize(
    ("raw", "parts"),
    [
        (with_text('1, "model": "b"'), ['The key "model"', "Keep one"]),
        (with_text(r'1, "\u006dodel": "b"'), ['The key "model"']),
        (with_text('{"deep": [{"key": 1, "key" : 1}]}'), ['The key "key"']),
        (with_text(r'{"": "", "": ""}'), ['The key ""']),
        (with_text(r'{"a": 1, "a": "\u0022\u0022"}'), ['The key "a"']),  # as many quotes as if there were one key
        (GOOD[:-1] + b', "url": "' + CHAT.encode() + b'"}', ['The key "url"']),
        (with_text(r'"\ud800"'), [r"\ud800", "half a character", "Remove it"]),
        (with_text(r'"\uDFFF\ud800"'), [r"\uDFFF"]),
        (with_text(r'{"\udc00": 1}'), [r"\udc00"]),
    ],
)
def test_json_that_others_may_read_otherwise(raw: bytes, parts: list[str]) -> None:
    finding = only_finding(raw)
    assert (finding.line, finding.code, finding.custom_id) == (1, "invalid_json_line", "a")
    for part in parts:
        assert part in finding.message


def test_a_byte_that_is_not_utf8_is_named_by_its_place_in_the_file() -> None:
    bad = GOOD.replace(b"Hello", b"Hell\xf6")
    finding = only_finding(line(request("b")), b"", bad)
    offset = len(line(request("b"))) + 2 + bad.index(b"\xf6")
    assert (finding.line, finding.code) == (3, "invalid_json_line")
    assert f"byte {offset} of the file (0xf6)" in finding.message
    assert "Save the file as UTF-8" in finding.message


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_is_one_finding(encoding: str) -> None:
    drop = "\n".join([GOOD.decode()] * 100).encode(encoding)
    (finding,) = check([drop], Rules())
    assert finding == Finding(1, "invalid_json_line", "The file is UTF-16. Save it as UTF-8.")


def test_a_line_that_is_too_long_names_the_limit_and_its_setting() -> None:
    finding = only_finding(GOOD, b"x" * 1001, rules=Rules(max_line_bytes=1000))
    assert (finding.line, finding.code) == (2, "invalid_json_line")
    assert "1,001 bytes" in finding.message
    assert "1,000 is the limit" in finding.message
    assert "MAX_LINE_BYTES" in finding.message


# What is wrong with a line: what it says

ID_CURE = "Set it to a string that no other line has"
URLS = "Set it to one of /chat/completions, /responses, /v1/chat/completions, /v1/responses (the setting ALLOWED_URLS)"
MODEL_CURE = "Set it to the name of your global batch deployment, or set the blob's metadata `deployment`"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (request(custom_id=...), f"custom_id is missing. {ID_CURE}"),
        (request(custom_id=""), f"custom_id is empty. {ID_CURE}"),
        (request(custom_id=7), f"custom_id is a number. {ID_CURE}"),
        (request(method=...), 'method is missing. Set it to "POST"'),
        (request(method="GET"), 'method is not "POST". Set it to "POST"'),
        (request(url=...), f"url is missing. {URLS}"),
        (request(url=[CHAT]), f"url is an array. {URLS}"),
        (request(url="/embeddings"), f'url "/embeddings" is not allowed. {URLS}'),
        (request(body=...), "body is missing. Set it to the JSON object that a single call would send"),
        (request(body="{}"), "body is a string. Set it to the JSON object"),
        (request(body=body(model=...)), f"body.model is missing or empty. {MODEL_CURE}"),
        (request(body=body(model=None)), f"body.model is missing or empty. {MODEL_CURE}"),
        (request(body=body(model="")), f"body.model is missing or empty. {MODEL_CURE}"),
        (request(body=body(model=4)), f"body.model is a number, not a string. {MODEL_CURE}"),
        (
            request(body=body(model="m" * 40_000)),
            f"body.model has 40,000 characters, which no deployment's name has. {MODEL_CURE}",
        ),
        (request(body=body(model=PLACEHOLDER)), f"body.model is still the placeholder {PLACEHOLDER}. {MODEL_CURE}"),
        (request(body=body(messages=...)), "body.messages is missing, empty or not a list. Set it"),
        (request(body=body(messages=[])), "body.messages is missing, empty or not a list. Set it"),
        (request(body=body(messages="Hello")), "body.messages is missing, empty or not a list. Set it"),
        (request(url="/v1/responses"), "body.input is missing. Set it"),
        (request(body=body(stream=True)), "body.stream is true, and a batch cannot stream. Remove it"),
        (
            request(body=body(data_sources=[])),
            "body.data_sources (On Your Data) is not supported in a batch. Remove it",
        ),
    ],
)
def test_a_request_that_is_not_valid(value: dict[str, Any], message: str) -> None:
    finding = only_finding(b"", line(value))
    assert (finding.line, finding.code) == (2, "invalid_request")
    assert finding.custom_id == (value.get("custom_id") if value.get("custom_id") == "a" else None)
    assert finding.message.startswith(message)


def test_every_problem_of_a_line_is_found() -> None:
    found = findings(line(request(method="PUT", url="/x", body=body(model="", stream=True))))
    assert [finding.message.split()[0] for finding in found] == ["method", "url", "body.model", "body.stream"]
    assert {finding.custom_id for finding in found} == {"a"}


def test_a_message_shows_little_of_the_drop() -> None:
    long = "secret\n\x1b[31m" * 100
    (finding,) = findings(line(request(custom_id=long, url=long)))
    assert shown(long) in finding.message
    assert finding.message.isprintable()
    assert len(finding.message) < 400
    assert finding.custom_id == long[:100]


def test_a_finding_can_always_be_written_as_json() -> None:
    finding = findings(rb'{"custom_id": "\ud800"}')[0]
    assert json.loads(msgspec.json.encode(finding))["custom_id"] == r"\ud800"


# What is wrong with a line: what the others say


def test_a_repeated_custom_id_names_the_line_that_had_it_first() -> None:
    finding = only_finding(GOOD, line(request("b")), GOOD)
    message = 'custom_id "a" was used on line 1. Give each line one of its own.'
    assert finding == Finding(3, "duplicate_custom_id", message, "a")


def test_a_repeated_custom_id_is_found_on_a_line_with_other_problems() -> None:
    found = findings(line(request(method="PUT")), GOOD)
    assert [(finding.line, finding.code) for finding in found] == [(1, "invalid_request"), (2, "duplicate_custom_id")]


@pytest.mark.parametrize(
    ("other", "code", "name"),
    [
        (request("b", url="/v1/chat/completions"), "url_mismatch", f'"{CHAT}"'),
        (request("b", body=body(model="batch")), "model_mismatch", '"batch-small"'),
    ],
)
def test_lines_agree_on_url_and_deployment_unless_mixed(other: dict[str, Any], code: str, name: str) -> None:
    assert not findings(GOOD, line(other), rules=Rules(mixed=True))
    without_valid_ones = line(request("z", url="/x", body=...))
    *_, finding = findings(without_valid_ones, GOOD, line(other))
    assert (finding.line, finding.code, finding.custom_id) == (3, code, "b")
    assert f"line 2 has {name}" in finding.message
    assert "another file" in finding.message


def test_too_many_requests_are_told_once_and_the_rest_is_checked() -> None:
    drop = [line(request(str(number))) for number in range(5)]
    got = results(*drop, line(request("0", method="PUT")), rules=Rules(max_requests=3))
    assert [got.line for got in got if isinstance(got, Request)] == [1, 2, 3]
    found = [got for got in got if isinstance(got, Finding)]
    assert [(finding.line, finding.code) for finding in found] == [
        *[(4, "too_many_tasks"), (6, "invalid_request"), (6, "duplicate_custom_id")]
    ]
    assert found[0].message == "This is request 4 of the file, and 3 is the limit. Split the file."


@pytest.mark.parametrize("drop", [b"", b"\xef\xbb\xbf", b"\r\n \n\t", b"\n"])
def test_a_drop_without_a_request_is_empty(drop: bytes) -> None:
    assert [(finding.line, finding.code) for finding in findings(drop)] == [(1, "empty_file")]


def test_a_drop_with_a_bad_line_is_not_empty() -> None:
    assert only_finding(b"{").code == "invalid_json_line"


# The deployment from the drop's metadata


@pytest.mark.parametrize("model", [..., None, "", PLACEHOLDER])
def test_a_missing_deployment_is_filled_in(model: object) -> None:
    raw = line(request(body=body(model=model)))
    (accepted,) = results(raw, rules=Rules(deployment="batch-1"))
    assert isinstance(accepted, Request)
    assert (accepted.deployment, accepted.filled) == ("batch-1", True)
    filled = fill_deployment(raw, "batch-1")
    assert json.loads(filled) == request(body=body(model="batch-1"))
    (again,) = results(filled)
    assert isinstance(again, Request)
    assert (again.deployment, again.filled) == ("batch-1", False)


def test_a_deployment_of_the_lines_own_is_kept() -> None:
    (accepted,) = results(GOOD, rules=Rules(deployment="batch-1"))
    assert isinstance(accepted, Request)
    assert (accepted.deployment, accepted.filled) == ("batch-small", False)


def test_a_filled_deployment_is_compared_like_any_other() -> None:
    finding = only_finding(GOOD, line(request("b", body=body(model=...))), rules=Rules(deployment="batch-1"))
    assert (finding.line, finding.code) == (2, "model_mismatch")


def test_fill_deployment_keeps_all_else_byte_for_byte() -> None:
    values = [
        b"1.0",
        b"1e400",
        b"-0.0",
        b"9" * 5000,
        rb'"\u00e9\/ \ud83d\ude42"',
        "é".encode(),
        b'{ "b" : [ 1 ,2 ] }',
        b"1E+2",
    ]
    values[5] = b'"' + values[5] + b'"'
    members = b",".join(b'"k%d" : %b' % (number, value) for number, value in enumerate(values))
    raw = b'{"x": 1.50, "body": {%b, "model": "%b"}, "custom_id":"\\u0061"}' % (members, PLACEHOLDER.encode())
    filled = fill_deployment(raw, 'a "name"')
    raw_members = msgspec.json.decode(filled, type=dict[str, msgspec.Raw])
    assert bytes(raw_members["x"]) == b"1.50"
    assert bytes(raw_members["custom_id"]) == rb'"\u0061"'
    raw_body = msgspec.json.decode(raw_members["body"], type=dict[str, msgspec.Raw])
    assert [bytes(raw_body[f"k{number}"]) for number in range(len(values))] == values
    assert bytes(raw_body["model"]) == rb'"a \"name\""'


@pytest.mark.parametrize("custom_id", ["job/7", 'größer "東京" \\ 🙂', ""])
def test_with_custom_id_keeps_all_else_byte_for_byte(custom_id: str) -> None:
    body = rb'{ "model" :"m","n": 1.0, "big":12345678901234567890,"e":1E2, "s":"\u00e9\/ \ud83d\ude42", "a":[ 1 ,{} ]}'
    raw = rb'{"id": "1", "custom_id": "a", "method":"POST", "body": %b}' % body
    changed = with_custom_id(raw, custom_id)
    name = json.dumps(custom_id, ensure_ascii=False).encode()
    assert changed == rb'{"id":"1","custom_id":%b,"method":"POST","body":%b}' % (name, body)
    assert custom_id_of(changed) == custom_id
    assert with_custom_id(changed, "a") == with_custom_id(raw, "a")


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"custom_id": "a"', b'"a"'])
def test_with_custom_id_takes_a_json_object_only(raw: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        with_custom_id(raw, "b")


def test_custom_id_of() -> None:
    assert custom_id_of(rb'{"response": {"custom_id": "no"}, "custom_id": "\u0061"}') == "a"
    with pytest.raises(msgspec.DecodeError):
        custom_id_of(b"{}")


# Whatever comes


json_strings = st.lists(
    st.sampled_from(
        [
            *("a", "é", "🙂", ":", "{", "[", ",", " ", '\\"', "\\\\", "\\n", "\\/", "\\u0022", "\\u005c", "\\u006d"),
            *("\\ud83d\\ude42", "\\ud800", "\\udc00", "\\u00", "\\x", "\x00", "\t", '"'),
        ]
    ),
    max_size=4,
).map(lambda parts: '"' + "".join(parts) + '"')
json_scalars = st.sampled_from(
    ["0", "-0", "1.50", "1e400", "9" * 25, "9" * 5000, "true", "null", "NaN", "-Infinity", "01", ".5", "1.", "tru", ""]
)
json_keys = st.sampled_from(['"a"', '"b"', '"model"', '"\\u006dodel"', '"a\\""', '"a\\\\"', '"stream"']) | json_strings
spaces = st.sampled_from(["", "", " ", "\t", "\r", "  "])


def json_containers(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Arrays and objects as they may be written: keys repeat, spaces stand anywhere, and some of it is not JSON."""
    item = st.tuples(spaces, values, spaces).map("".join)
    member = st.tuples(spaces, json_keys, spaces, st.just(":"), item).map("".join)
    arrays = st.lists(item, max_size=3).map(lambda items: f"[{','.join(items)}]")
    return arrays | st.lists(member, max_size=4).map(lambda members: f"{{{','.join(members)}}}")


json_texts = st.recursive(json_strings | json_scalars, json_containers, max_leaves=8)
written_lines = st.tuples(st.sampled_from([GOOD, line(request("b", body=...))]), json_keys, spaces, json_texts).map(
    lambda parts: parts[0][:-1] + f", {parts[1]}{parts[2]}:{parts[3]}}}".encode()
)


@st.composite
def mutated_lines(draw: st.DrawFn) -> bytes:
    """A good line of which some pieces were put in again elsewhere, or taken out."""
    raw = with_text(r'{"key": [1, {"key": "a \"b\": \\"}], "other": "é\u0022"}')
    for _ in range(draw(st.integers(1, 3))):
        begin, end = sorted((draw(st.integers(0, len(raw))), draw(st.integers(0, len(raw)))))
        place = draw(st.integers(0, len(raw)))
        raw = draw(st.sampled_from([raw[:place] + raw[begin:end] + raw[place:], raw[:begin] + raw[end:]]))
    return raw


any_drop = st.lists(
    written_lines | mutated_lines() | st.binary(max_size=8) | st.sampled_from([GOOD, b"", b" ", b"\xef\xbb\xbf"]),
    max_size=5,
).flatmap(lambda raw: st.sampled_from([b"\n", b"\r\n", b"\r\r\n"]).map(lambda end: end.join(raw)))


def careful(drop: bytes) -> list[Request | Finding]:
    """What check yields when no line takes the fast way."""
    with patch("batch_fn.validation.check.parse_if_flawless", return_value=None):
        return list(check([drop], Rules()))


@settings(max_examples=600, deadline=None)
@given(written_lines | mutated_lines() | json_texts.map(with_text))
def test_the_fast_way_accepts_what_the_careful_one_does(raw: bytes) -> None:
    assert list(check([raw], Rules())) == careful(raw)


@pytest.mark.parametrize("more", ["{}", '[1, {"a": "é"}]', r'"She said: \"hi\"\n"', '"' + "{" * 200 + '"', "[[], []]"])
def test_an_ordinary_line_takes_the_fast_way(more: str) -> None:
    raw = with_text(more)
    assert parse_if_flawless(raw) == json.loads(raw)


@settings(max_examples=300, deadline=None)
@given(json_texts.map(with_text))
def test_what_is_accepted_is_json_without_repeated_keys(raw: bytes) -> None:
    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    if not findings(raw):
        json.loads(raw, object_pairs_hook=members, parse_int=float)


@settings(max_examples=200, deadline=None)
@given(any_drop, st.lists(st.integers(1, 40), min_size=1), st.sampled_from([20, 150, 10_000]))
def test_where_the_chunks_are_cut_makes_no_difference(drop: bytes, sizes: list[int], max_line_bytes: int) -> None:
    def chunks() -> Iterator[bytes]:
        begin = 0
        while begin < len(drop):
            size = sizes[begin % len(sizes)]
            yield drop[begin : begin + size]
            begin += size

    rules = Rules(max_line_bytes=max_line_bytes)
    assert list(check(chunks(), rules)) == list(check([drop], rules))
    assert list(check((drop[i : i + 1] for i in range(len(drop))), rules)) == list(check([drop], rules))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | any_drop)
def test_nothing_raises_and_every_line_has_a_result(drop: bytes) -> None:
    got = list(check([drop], Rules()))
    assert got
    for finding in got:
        if isinstance(finding, Finding):
            assert finding.message.isprintable()
            json.loads(msgspec.json.encode(finding))
    if not drop.startswith((b"\xff\xfe", b"\xfe\xff")) and b"\0" not in drop:
        numbers = [read.number for read in lines([drop], 10_000)]
        assert sorted({result.line for result in got}) == (numbers or [1])


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.text(min_size=1, max_size=80), values, st.booleans()), min_size=1, unique_by=lambda it: it[0]
    ),
    st.sampled_from([b"\n", b"\r\n", b"\n\n \r\n"]),
    st.booleans(),
)
def test_a_good_drop_is_accepted_line_by_line(contents: list[tuple[str, Any, bool]], end: bytes, has_bom: bool) -> None:
    written = [request(custom_id, body=body(metadata=value)) for custom_id, value, _ in contents]
    raw = [
        json.dumps(value, ensure_ascii=ascii_only).encode()
        for value, (_, _, ascii_only) in zip(written, contents, strict=True)
    ]
    drop = b"\xef\xbb\xbf" * has_bom + end.join(raw) + end
    got = list(check([drop], Rules()))
    accepted = [result for result in got if isinstance(result, Request)]
    assert len(accepted) == len(got)
    slices = [drop[result.offset : result.offset + result.length] for result in accepted]
    assert slices == raw
    assert [result.custom_id for result in accepted] == [custom_id for custom_id, _, _ in contents]
    assert [custom_id_of(slice_) for slice_ in slices] == [custom_id for custom_id, _, _ in contents]
    for value, filled in zip(written, (fill_deployment(slice_, "new") for slice_ in slices), strict=True):
        assert json.loads(filled) == value | {"body": value["body"] | {"model": "new"}}


# Memory


def peak_bytes(chunks: Iterable[bytes], rules: Rules) -> int:
    tracemalloc.start()
    try:
        for _ in check(chunks, rules):
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_line_of_any_length_takes_no_more_memory_than_the_limit() -> None:
    chunk = b"x" * 2**20
    assert peak_bytes((chunk for _ in range(200)), Rules(max_line_bytes=4 * 2**20)) < 10 * 2**20


def test_memory_does_not_grow_with_the_lines() -> None:
    filling = body(messages=[{"role": "user", "content": "x" * 20_000}])
    small, large = (
        peak_bytes((line(request(f"id-{i}", body=filling)) + b"\n" for i in range(n)), Rules()) for n in (20, 1000)
    )
    assert large < small + 300_000


def test_findings_are_yielded_as_they_are_found() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"{\n"

    got = check(endless(), Rules())
    assert [next(got).line for _ in range(3)] == [1, 2, 3]


def test_custom_ids_are_exact_and_bounded() -> None:
    ids = CustomIds(limit=3)
    long = b"x" * 1000
    names = [b"a", long, long + b"y", long, b"b", b"b"]
    assert [ids.first_line(key, number) for number, key in enumerate(names, 1)] == [
        *[1, 2, 3, 2, 5, 6]  # "b" comes after the limit
    ]
    assert ids.first_line(b"a", 7) == 1
