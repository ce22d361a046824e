"""Checks lines that are alike many at a time, in C, instead of one by one.

Most drops are written by one program: the same keys in the same order, only the texts differ. A template is a regular
expression made from an accepted line. It keeps the line's keys, brackets, spaces, constants and the kind of each value,
and the JSON text at some paths. Other strings and numbers may differ, and a list of like elements may have any number
of them but none. What a rule reads is therefore the same for every line that the template matches (line_rules.py). The
contents of strings are then checked by msgspec.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Set

import msgspec

from batch_fn.validation.lines import LineBlock

LEARN_AFTER = 16  # lines: a template takes a millisecond to compile, which does not pay in a small drop
MAX_TEMPLATES = 16  # of a drop: a line that matches none has been tried against all
MAX_LEARN_TRIES = 64  # of a drop: lines that no template can be made from cost time as well
MAX_LEARN_BYTES = 64 * 1024  # of a line that is learnt: what is longer is as fast on the careful path
MAX_TOKENS = 2000  # of a line that is learnt: what compiles in a few milliseconds

# A quote after one or three backslashes is within the string. A line with five in a row matches no template.
_STRING = rb'"[^"]*+(?:(?:(?<=[^\\]\\)|(?<=[^\\]\\\\\\))"[^"]*+)*+(?<!\\\\\\\\\\)"'
_PLAIN_STRING = rb'"[^"]*+"'  # where there is no backslash at all
_NUMBER = rb"-?+(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][-+]?+[0-9]++)?+"
_CUSTOM_ID = rb'"([^"\\]++)"'  # one with an escape is left to the careful path
_TOKEN = re.compile(rb'([ \t\r]*+)("(?:[^"\\]++|\\.)*+"|[{}\[\]:,]|[^ \t\r{}\[\]:,"]++)', re.DOTALL)
_REST = rb"|.+"  # the first line that does not match, with all lines after it: the rest is not searched
_SKIP = msgspec.json.Decoder(msgspec.Raw).decode_lines

type Find = Callable[[bytes, int, int], list[bytes]]
type Token = tuple[bytes, bytes]
"""The space before a token of JSON, and the token."""


class LineTemplate(msgspec.Struct, frozen=True):
    """What the lines that match one template have in common."""

    custom_ids: Find
    """Returns the custom_ids of the lines in a range that match, and a last empty one if not all lines match."""
    plain_custom_ids: Find
    """The same for a range without a backslash; it is a seventh faster."""
    overhead: int
    """The characters of a line around its body: without its custom_id, with its line feed."""
    url: str
    deployment: str
    filled: bool


class Match(msgspec.Struct, frozen=True):
    """Lines that follow one another and match one template."""

    block: LineBlock
    shape: LineTemplate
    custom_ids: list[bytes]
    """One for each line; none if the content of some string is not JSON, and the careful path must say which."""
    characters: int
    """The total of the bodies."""


class LineTemplates:
    """The templates of the lines of a drop that were accepted so far, the last used first.

    `literal` are the paths at which a line must have the same JSON text as the line that was learnt.
    """

    def __init__(self, literal: Set[tuple[str, ...]]) -> None:
        self._literal = literal
        self._templates: list[LineTemplate] = []
        self._lines = self._tries = 0

    def run(self, block: LineBlock) -> Match | None:
        """Return the first lines of a block that match one template, None if the first line matches none."""
        plain = block.chunk.find(b"\\", block.begin, block.end) < 0
        for shape in self._templates:
            find = shape.plain_custom_ids if plain else shape.custom_ids
            custom_ids = find(block.chunk, block.begin, block.end)
            if not custom_ids[-1]:
                custom_ids.pop()
                block = block.head(len(custom_ids)) if custom_ids else block
            if custom_ids:
                break
        else:
            return None
        if shape is not self._templates[0]:
            self._templates.remove(shape)
            self._templates.insert(0, shape)
        return _checked(block, shape, custom_ids)

    def learn(self, raw: bytes, custom_id: str, characters: int, url: str, deployment: str, *, filled: bool) -> None:
        """Make a template from the accepted line `raw`, whose body has that many characters."""
        self._lines += 1
        if (
            self._lines < LEARN_AFTER
            or len(raw) > MAX_LEARN_BYTES
            or self._tries == MAX_LEARN_TRIES
            or len(self._templates) == MAX_TEMPLATES
        ):
            return
        self._tries += 1
        some = list(itertools.islice(tokens(raw), MAX_TOKENS + 1))
        if len(some) > MAX_TOKENS:
            return
        custom_ids, plain = (_finder(some, string, self._literal) for string in (_STRING, _PLAIN_STRING))
        if custom_ids and plain:
            overhead = len(raw.decode().rstrip(" \t\r")) + 1 - characters - len(custom_id)
            self._templates.insert(0, LineTemplate(custom_ids, plain, overhead, url, deployment, filled))


def tokens(raw: bytes) -> Iterator[Token]:
    """Yield the tokens of a valid line one by one, as far as they are asked for."""
    for match in _TOKEN.finditer(raw):
        yield match[1], match[2]


def _finder(some: list[Token], string: bytes, literal: Set[tuple[str, ...]]) -> Find | None:
    pattern = _Writer(some, string, literal).pattern()
    return None if pattern is None else re.compile(pattern + rb"\n" + _REST, re.DOTALL).findall


def _checked(block: LineBlock, shape: LineTemplate, custom_ids: list[bytes]) -> Match:
    """Return the lines as a match, with custom_ids if the contents of their strings are JSON and UTF-8."""
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
    """Writes the pattern of one valid line; `string` is the pattern of each string that may differ."""

    def __init__(self, some: list[Token], string: bytes, literal: Set[tuple[str, ...]]) -> None:
        self._tokens, self._string, self._literal = some, string, literal
        self._next = 0
        self._free_outside = self._has_group = False

    def pattern(self) -> bytes | None:
        """Return the line's pattern, whose group is the custom_id; None if it has none.

        That is so if a key or the custom_id has an escape, if the custom_id is literal, or if another value outside the
        body may differ from line to line.
        """
        keys = (one[1] for one, two in itertools.pairwise(self._tokens) if two[1] == b":")
        if any(b"\\" in key for key in keys):
            return None
        pattern = self._value(())
        return pattern if self._has_group and not self._free_outside else None

    def _take(self) -> Token:
        """Return the next token: the pattern of the space before it, and itself."""
        self._next += 1
        space, token = self._tokens[self._next - 1]
        return re.escape(space), token

    def _value(self, path: tuple[str, ...]) -> bytes:
        """Return the pattern of the next value, which is at `path`."""
        if path in self._literal:
            return self._text()
        space, token = self._take()
        if token == b"{":
            return space + rb"\{" + self._members(path)
        if token == b"[":
            return space + rb"\[" + self._elements(path)
        if path == ("custom_id",) and b"\\" not in token:
            self._has_group = True
            return space + _CUSTOM_ID
        free = _NUMBER if token[:1] in b"-0123456789" else self._string if token.startswith(b'"') else None
        if free is None:
            return space + re.escape(token)
        self._free_outside |= path[0] != "body"
        return space + free

    def _text(self) -> bytes:
        """Return the pattern that only the text of the next value matches."""
        text, depth = b"", 0
        while True:
            space, token = self._take()
            text += space + re.escape(token)
            depth += (token in (b"{", b"[")) - (token in (b"}", b"]"))
            if not depth:
                return text

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
        path = (*path, "[]", "")  # no path leads into an array
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
