"""The members of a JSON object that a strict parser does not take: odd values in it stay bytes, and are not read."""

import json
import re

_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}\[\]:,]|[^\s"{}\[\]:,]++', re.DOTALL)
_CLOSING = {b"{": b"}", b"[": b"]"}


def members(raw: bytes) -> dict[str, bytes]:
    """Return the members of the JSON object `raw`, each value as the bytes that it has there.

    Values may be nested to any depth, and hold what is not JSON (NaN, a control character, bytes that are not UTF-8):
    only quotes and brackets have to match. The last member of a name counts.

    Raises:
        ValueError: if `raw` is no whole object.
    """
    found: dict[str, bytes] = {}
    open_brackets: list[bytes] = []  # what closes each of them
    head: list[bytes] = []  # name and colon of the member that is read
    value: slice | None = None
    read_to, ended = 0, False
    for token in _TOKEN.finditer(raw):
        text, begin, end = token[0], token.start(), token.end()
        if ended or raw[read_to:begin].strip():
            raise ValueError("there is more than an object, or a quote is not closed")
        read_to = end
        depth = len(open_brackets)
        if text in {b"}", b"]"}:
            if not open_brackets or open_brackets.pop() != text:
                raise ValueError("the brackets do not match")
            depth -= 1
        elif text in _CLOSING:
            open_brackets.append(_CLOSING[text])
        if depth == 0:
            if text not in {b"{", b"}"}:
                raise ValueError("it is no object")
            ended = text == b"}"
        if depth == 1 and len(head) == 2 and text != b",":
            value = slice(value.start if value else begin, end)
        elif (depth == 1 and text == b",") or ended:
            if value is not None:
                found[_name(head[0])] = raw[value]
            elif head or not ended or found:
                raise ValueError("a member has no value")
            head, value = [], None
        elif depth == 1:
            head.append(text)
            if len(head) == 2 and text != b":":
                raise ValueError("a name has no colon")
    if not ended or raw[read_to:].strip():
        raise ValueError("the object has no end")
    return found


def string(value: bytes) -> str | None:
    """Return the string that `value` is, None if it is none, or has bytes that are not UTF-8."""
    try:
        read = json.loads(value.decode(), strict=False)
    except (ValueError, RecursionError):
        return None
    return read if isinstance(read, str) else None


def number(value: bytes) -> float | None:
    """Return the number that `value` is, in quotes or not; None if it is none, or not finite."""
    try:
        read = float(string(value) or value)
    except (ValueError, OverflowError):
        return None
    return read if abs(read) < float("inf") else None


def _name(token: bytes) -> str:
    name = string(token)
    if name is None:
        raise ValueError("a name is no string")
    return name
