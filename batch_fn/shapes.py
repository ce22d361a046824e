"""What the lines of a drop have in common, so that a line like one already accepted is checked by two calls into C.

The lines of a drop are mostly written by one program: the same keys in the same order, only the texts differ. A Shape
is a pattern made from an accepted line: its keys, brackets, spaces, constants, method, url and model as they are, its
other strings and numbers free, a list of like elements of any length but none. What holds for the line then holds for
every line that the pattern matches, but for what stands within strings, and that msgspec checks.
"""

import re
from collections.abc import Callable

import msgspec

LEARN_AFTER = 16  # lines: a pattern takes a millisecond to compile, which does not pay in a small drop
MOST_SHAPES = 16  # of a drop: a line that has none of them has been tried against all
MOST_TOKENS = 2000  # of a line that is learnt: what compiles in a few milliseconds

# A quote after one backslash, or three, is within the string. After five it is not looked into: the line has no shape.
_STRING = rb'"[^"]*+(?:(?:(?<=[^\\]\\)|(?<=[^\\]\\\\\\))"[^"]*+)*+(?<!\\\\\\\\\\)"'
_NUMBER = rb"-?+(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][-+]?+[0-9]++)?+"
_CUSTOM_ID = rb'"([^"\\]++)"'  # one with an escape is left to the careful way
_TOKEN = re.compile(rb'([ \t\r]*+)("(?:[^"\\]++|\\.)*+"|[{}\[\]:,]|[^ \t\r{}\[\]:,"]++)', re.DOTALL)
_KEPT = {("method",), ("url",), ("body", "model")}  # the strings that a check looks at
_SKIP = msgspec.json.Decoder(msgspec.Raw).decode


class Shape(msgspec.Struct, frozen=True):
    """What lines of one pattern have in common; the pattern's groups are the custom_id and the body."""

    match: Callable[[bytes], re.Match[bytes] | None]
    url: str
    deployment: str
    filled: bool


class Found(msgspec.Struct, frozen=True, gc=False):
    """A line that has a shape: nothing is wrong with it by itself."""

    shape: Shape
    custom_id: str
    characters: int


class Shapes:
    """The shapes of the lines of a drop that were accepted so far, the one last seen first."""

    def __init__(self) -> None:
        self._shapes: list[Shape] = []
        self._learnt = 0

    def find(self, raw: bytes) -> Found | None:
        """Return what the line `raw` says if it is like one that was accepted, None if it has to be looked at."""
        for shape in self._shapes:
            match = shape.match(raw)
            if match is not None:
                break
        else:
            return None
        begin, end = match.span(2)
        characters = end - begin
        try:
            _SKIP(raw)  # refuses control characters, what is no escape and lone surrogates; it does not look at UTF-8
            if not raw.isascii():
                characters = len(raw.decode()) - len((raw[:begin] + raw[end:]).decode())
            custom_id = match[1].decode()
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        if shape is not self._shapes[0]:
            self._shapes.remove(shape)
            self._shapes.insert(0, shape)
        return Found(shape, custom_id, characters)

    def learn(self, raw: bytes, url: str, deployment: str, *, filled: bool) -> None:
        """Remember the shape of the line `raw`, which was accepted."""
        self._learnt += 1
        if self._learnt < LEARN_AFTER or len(self._shapes) == MOST_SHAPES:
            return
        pattern = _Writer(raw).pattern()
        if pattern is not None:
            self._shapes.insert(0, Shape(re.compile(pattern, re.DOTALL).fullmatch, url, deployment, filled))


class _Writer:
    """Writes the pattern of one line, which is valid JSON."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._tokens: list[tuple[bytes, bytes]] = _TOKEN.findall(raw)
        self._next = 0

    def pattern(self) -> bytes | None:
        """Return the line's pattern, None if it has none: it is too large, or a key is written with an escape."""
        keys = (one[1] for one, two in zip(self._tokens, self._tokens[1:], strict=False) if two[1] == b":")
        if len(self._tokens) > MOST_TOKENS or any(b"\\" in key for key in keys):
            return None
        return self._value(()) + rb"[ \t\r]*+"

    def _take(self) -> tuple[bytes, bytes]:
        """Return the next token: the space before it, and itself."""
        self._next += 1
        space, token = self._tokens[self._next - 1]
        return re.escape(space), token

    def _value(self, path: tuple[str, ...]) -> bytes:
        """Return the pattern of the next value, which is at `path`."""
        space, token = self._take()
        if token == b"{":
            value = rb"\{" + self._members(path)
            return space + (b"(" + value + b")" if path == ("body",) else value)
        if token == b"[":
            return space + rb"\[" + self._elements(path)
        if token.startswith(b'"') and path not in _KEPT:
            return space + (_CUSTOM_ID if path == ("custom_id",) else _STRING)
        if token[:1] in b"-0123456789":
            return space + _NUMBER
        return space + re.escape(token)

    def _members(self, path: tuple[str, ...]) -> bytes:
        members = b""
        while True:
            space, token = self._take()
            members += space + re.escape(token)
            if token == b"}":
                return members
            if token != b",":
                space, colon = self._take()
                members += space + colon + self._value((*path, token[1:-1].decode()))

    def _elements(self, path: tuple[str, ...]) -> bytes:
        space, token = self._tokens[self._next]
        if token == b"]":
            self._next += 1
            return re.escape(space) + rb"\]"
        path = (*path, "[]", "")  # never one of those that are kept
        first = self._value(path)
        others: list[bytes] = []
        while True:
            space, token = self._take()
            if token == b"]":
                break
            others.append(space + token + self._value(path))
        same = len(set(others)) == 1 and others[0].endswith(first)
        rest = b"(?:" + others[0] + b")*+" if same else b"".join(others)
        return first + rest + space + rb"\]"
