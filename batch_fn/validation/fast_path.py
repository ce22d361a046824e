"""What the lines of a drop have in common: those like one already accepted are checked many at a time, by calls into C.

The lines of a drop are mostly written by one program: the same keys in the same order, only the texts differ. A Shape
is a pattern made from an accepted line: its keys, brackets, spaces, constants, method, url and model as they are, its
other strings and numbers free, a list of like elements of any length but none. What holds for the line then holds for
every line that the pattern matches, but for what stands within strings, and that msgspec checks.
"""

import re
from collections.abc import Callable

import msgspec

from batch_fn.validation.lines import LineBlock

LEARN_AFTER = 16  # lines: a pattern takes a millisecond to compile, which does not pay in a small drop
MOST_SHAPES = 16  # of a drop: a line that has none of them has been tried against all
MOST_TOKENS = 2000  # of a line that is learnt: what compiles in a few milliseconds

# A quote after one backslash, or three, is within the string. After five it is not looked into: the line has no shape.
_STRING = rb'"[^"]*+(?:(?:(?<=[^\\]\\)|(?<=[^\\]\\\\\\))"[^"]*+)*+(?<!\\\\\\\\\\)"'
_PLAIN_STRING = rb'"[^"]*+"'  # where there is no backslash at all
_NUMBER = rb"-?+(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][-+]?+[0-9]++)?+"
_CUSTOM_ID = rb'"([^"\\]++)"'  # one with an escape is left to the careful way
_TOKEN = re.compile(rb'([ \t\r]*+)("(?:[^"\\]++|\\.)*+"|[{}\[\]:,]|[^ \t\r{}\[\]:,"]++)', re.DOTALL)
_KEPT = {("method",), ("url",), ("body", "model")}  # the strings that a check looks at
_REST = rb"|.+"  # the first line that is not like the others, and all after it: nothing is searched for
_SKIP = msgspec.json.Decoder(msgspec.Raw).decode_lines


type Find = Callable[[bytes, int, int], list[bytes]]


class LineTemplate(msgspec.Struct, frozen=True):
    """What lines of one pattern have in common."""

    custom_ids: Find
    """The custom_ids of the lines from one place on that match, and an empty one where not all match to the other."""
    plain_custom_ids: Find
    """The same where there is no backslash; it takes a seventh less."""
    overhead: int
    """How many characters a line has around its body, its custom_id left out, and its line feed counted in."""
    url: str
    deployment: str
    filled: bool


class Match(msgspec.Struct, frozen=True):
    """Lines that stand together and match one pattern."""

    block: LineBlock
    shape: LineTemplate
    custom_ids: list[bytes]
    """Of each line; none if the lines have to be looked at: what stands in a string of theirs is not JSON."""
    characters: int
    """Of all the bodies."""


class LineTemplates:
    """The shapes of the lines of a drop that were accepted so far, the one last seen first."""

    def __init__(self) -> None:
        self._shapes: list[LineTemplate] = []
        self._learnt = 0

    def run(self, block: LineBlock) -> Match | None:
        """Return the first lines of a block that are like one that was accepted, None if not even the first line is."""
        plain = block.chunk.find(b"\\", block.begin, block.end) < 0
        for shape in self._shapes:
            find = shape.plain_custom_ids if plain else shape.custom_ids
            custom_ids = find(block.chunk, block.begin, block.end)
            if not custom_ids[-1]:
                custom_ids.pop()
                block = block.head(len(custom_ids)) if custom_ids else block
            if custom_ids:
                break
        else:
            return None
        if shape is not self._shapes[0]:
            self._shapes.remove(shape)
            self._shapes.insert(0, shape)
        return _checked(block, shape, custom_ids)

    def learn(self, raw: bytes, custom_id: str, characters: int, url: str, deployment: str, *, filled: bool) -> None:
        """Remember the shape of the line `raw`, which was accepted, and whose body has that many characters."""
        self._learnt += 1
        if self._learnt < LEARN_AFTER or len(self._shapes) == MOST_SHAPES:
            return
        custom_ids, plain = _finder(raw, _STRING), _finder(raw, _PLAIN_STRING)
        if custom_ids and plain:
            overhead = len(raw.decode().rstrip(" \t\r")) + 1 - characters - len(custom_id)
            self._shapes.insert(0, LineTemplate(custom_ids, plain, overhead, url, deployment, filled))


def _finder(raw: bytes, string: bytes) -> Find | None:
    pattern = _Writer(raw, string).pattern()
    return None if pattern is None else re.compile(pattern + rb"\n" + _REST, re.DOTALL).findall


def _checked(block: LineBlock, shape: LineTemplate, custom_ids: list[bytes]) -> Match:
    """Return the lines as a run, once it is seen that what stands in their strings is JSON, and UTF-8."""
    content = memoryview(block.chunk)[block.begin : block.end]
    together = b"".join(custom_ids)
    try:
        _SKIP(content)  # refuses control characters, what is no escape and lone surrogates; it does not look at UTF-8
        size = len(content) if block.ascii else len(str(content, "utf-8"))
        names = len(together) if block.ascii else len(together.decode())
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Match(block, shape, [], 0)
    return Match(block, shape, custom_ids, size - len(custom_ids) * shape.overhead - names)


class _Writer:
    """Writes the pattern of one line, which is valid JSON; `string` is that of each string which may differ."""

    def __init__(self, raw: bytes, string: bytes) -> None:
        self._string = string
        self._tokens: list[tuple[bytes, bytes]] = _TOKEN.findall(raw)
        self._next = 0
        self._free_outside = False

    def pattern(self) -> bytes | None:
        """Return the line's pattern, whose group is the custom_id; None if it has none.

        That is so if it is too large, a key or the custom_id is written with an escape, or, outside the body, more than
        the custom_id may differ from line to line.
        """
        keys = (one[1] for one, two in zip(self._tokens, self._tokens[1:], strict=False) if two[1] == b":")
        if len(self._tokens) > MOST_TOKENS or any(b"\\" in key for key in keys):
            return None
        pattern = self._value(())
        return None if self._free_outside else pattern

    def _take(self) -> tuple[bytes, bytes]:
        """Return the next token: the space before it, and itself."""
        self._next += 1
        space, token = self._tokens[self._next - 1]
        return re.escape(space), token

    def _value(self, path: tuple[str, ...]) -> bytes:
        """Return the pattern of the next value, which is at `path`."""
        space, token = self._take()
        if token == b"{":
            return space + rb"\{" + self._members(path)
        if token == b"[":
            return space + rb"\[" + self._elements(path)
        if path == ("custom_id",) and b"\\" not in token:
            return space + _CUSTOM_ID
        free = _NUMBER if token[:1] in b"-0123456789" else self._string if token.startswith(b'"') else None
        if free is None or path in _KEPT:
            return space + re.escape(token)
        self._free_outside |= path[0] != "body"
        return space + free

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
        self._free_outside |= same and path[0] != "body"
        rest = b"(?:" + others[0] + b")*+" if same else b"".join(others)
        return first + rest + space + rb"\]"
