"""What a strict parser refuses is taken apart into members, as bytes; what is not whole is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_fn.validation import loose_json

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(st.dictionaries(st.text(), values, max_size=5), st.sampled_from([None, 1]), st.booleans())
def test_the_members_are_those_that_json_reads(given: dict[str, object], indent: int | None, ascii_only: bool) -> None:
    raw = json.dumps(given, indent=indent, ensure_ascii=ascii_only).encode(errors="surrogatepass")
    found = loose_json.members(raw)
    assert {name: repr(json.loads(value)) for name, value in found.items()} == {
        name: repr(value) for name, value in json.loads(raw).items()
    }


def test_a_value_may_be_nested_to_any_depth_and_hold_any_bytes() -> None:
    deep = b"[" * 100_000 + b"{" + b'"\xff\\"}": NaN' + b"}" + b"]" * 100_000
    assert loose_json.members(b'{"a": 1, "b":%b , "a": -Infinity}' % deep) == {"a": b"-Infinity", "b": deep}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"1",
        b"[]",
        b'"a"',
        b"{",
        b'{"a": 1',
        b'{"a": [1}',
        b'{"a": 1]',
        b'{"a": "}',
        b'{"a": 1}}',
        b'{"a": 1} 2',
        b'{"a": 1,}',
        b'{,"a": 1}',
        b'{"a": }',
        b'{"a"}',
        b'{"a" 1}',
        b"{a: 1}",
        b"{1: 1}",
        b'{"\xff": 1}',
        b"{} {}",
        b"}",
    ],
)
def test_what_is_no_whole_object_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        loose_json.members(raw)


@given(st.binary(max_size=60) | st.text(st.sampled_from('{}[]":,\\ a1'), max_size=30).map(str.encode))
def test_no_bytes_raise_anything_else(raw: bytes) -> None:
    try:
        found = loose_json.members(raw)
    except ValueError:
        return
    for value in found.values():
        loose_json.string(value)
        loose_json.number(value)


@pytest.mark.parametrize(
    ("value", "read"),
    [(b"200", 200), (b'"200"', 200), (b"200.0", 200), (b"NaN", None), (b"1e999", None), (b"[]", None)],
)
def test_a_number_is_read_in_quotes_or_not(value: bytes, read: float | None) -> None:
    assert loose_json.number(value) == read
