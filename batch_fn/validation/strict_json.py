"""Parses strict JSON: what another parser might refuse or read in another way is a problem, with a sentence."""

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

import msgspec

MAX_DEPTH = 100  # levels of objects and arrays in one line; real requests (tools with JSON schemas) use fewer than 30
SHOWN = 100  # characters of a drop's own text that may appear in a message
MAX_REPEATED_KEYS = 100  # of one line that are reported


class NotJsonError(ValueError):
    """A line that cannot be read as JSON; its text says why and where."""


class Parsed(msgspec.Struct):
    """A line's value, and the problems that do not stop the parser: repeated keys, lone surrogates."""

    value: Any
    problems: list[str]


def shown(text: str) -> str:
    """Return `text` as it may appear in a message: at most 100 characters, without control characters."""
    cut = text if len(text) <= SHOWN else text[:SHOWN] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in cut)


def parse(raw: bytes, offset: int) -> Parsed:
    """Return the value of the line `raw`, which begins at byte `offset` of the drop.

    All numbers are floats. Raises NotJsonError.
    """
    text = _decoded(raw, offset)
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _too_deep(raw):
        raise NotJsonError(f"The line is nested more than {MAX_DEPTH} levels deep. Flatten the request.")
    repeated: dict[str, None] = {}

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs) and len(repeated) < MAX_REPEATED_KEYS:
            repeated.update(dict.fromkeys(itertools.islice(_repeated_keys(pairs), MAX_REPEATED_KEYS)))
        return found

    # A number of more than 4300 digits is valid JSON, but int() refuses it; float() does not.
    decoder = json.JSONDecoder(object_pairs_hook=members, parse_constant=_refuse_constant, parse_int=float)
    try:
        value = decoder.decode(text)
    except json.JSONDecodeError as error:
        raise NotJsonError(_syntax(text, error)) from None
    keys = itertools.islice(repeated, MAX_REPEATED_KEYS)
    return Parsed(value, [*map(_repeated, keys), *_lone_surrogates(text)])


def parse_if_flawless(raw: bytes) -> dict[str, Any] | None:
    """Return the object that the line `raw` holds; None if `parse` must say what it holds and what is wrong.

    This is faster, and most lines have no problem. msgspec refuses all that `parse` refuses or reports, except repeated
    keys and depth, which are checked here.

    Of a repeated key, decoding keeps one value and drops the others, and with them at least the key's two quotes. So if
    the decoded value accounts for every quote in the line, nothing was dropped: each key and each string has two quotes
    around it, and its own quotes are as many decoded as escaped, unless one is written as \\u0022.
    """
    try:
        value = _DECODER.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    containers: list[Any] = [value]
    strings = 0
    for container in containers:  # grows while it is walked
        members = container
        if type(container) is dict:
            strings += len(container)
            members = container.values()
        for member in members:
            kind = type(member)
            if kind is str:
                strings += 1
            elif kind is dict or kind is list:
                containers.append(member)
    quotes = raw.count(b'"') - 2 * strings
    if quotes and (quotes != _quotes_in_strings(containers) or b"\\u0022" in raw):
        return None
    if len(containers) > MAX_DEPTH and _too_deep(raw):
        return None
    return value


def _quotes_in_strings(containers: list[Any]) -> int:
    """Return the number of quotes within the strings of these arrays and objects. Keys rarely have one."""
    count = 0
    for container in containers:
        for member in container.values() if type(container) is dict else container:
            if type(member) is str:
                count += member.count('"')
    return count


_DECODER = msgspec.json.Decoder()


def _decoded(raw: bytes, offset: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        where = f"byte {offset + error.start} of the file (0x{raw[error.start]:02x})"
        raise NotJsonError(f"The line is not UTF-8: {where} does not belong there. Save the file as UTF-8.") from None


_STRINGS_AND_BRACKETS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


def _too_deep(raw: bytes) -> bool:
    """Return whether more than MAX_DEPTH brackets are open at once; brackets within strings do not count."""
    depth = 0
    for match in _STRINGS_AND_BRACKETS.finditer(raw):
        token = match[0]
        if token in (b"[", b"{"):
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif token in (b"]", b"}"):
            depth -= 1
    return False


def _refuse_constant(name: str) -> NoReturn:
    raise NotJsonError(f"{name} is not JSON. Write a number, a string or null in its place.")


def _syntax(text: str, error: json.JSONDecodeError) -> str:
    """Return where the JSON breaks, as a sentence that a user can act on."""
    problem = error.msg.removesuffix(" at")
    if error.pos >= len(text.rstrip(" \t\r")) or error.msg.startswith("Unterminated string"):
        return (
            f"The JSON is cut off: {problem} at column {error.colno}, and the line ends at column {len(text)}. "
            "Write each request in full, on one line of its own."
        )
    if text.startswith("\ufeff", error.pos):
        return f"There is a byte order mark at column {error.colno}, as when files were joined. Remove it."
    if error.msg == "Extra data":
        return f"The JSON ends before column {error.colno}, but the line goes on. Write one JSON object per line."
    return f"The line is not JSON: {problem} at column {error.colno}. Write each line with a JSON library."


def _repeated_keys(pairs: list[tuple[str, Any]]) -> Iterator[str]:
    """Yield each key that appears more than once, once."""
    times: dict[str, int] = {}
    for key, _ in pairs:
        times[key] = times.get(key, 0) + 1
        if times[key] == 2:
            yield key


def _repeated(key: str) -> str:
    return f'The key "{shown(key)}" appears more than once in one object. Keep one of them.'


# In valid JSON every backslash begins one of these: a pair of surrogates, a lone surrogate, or another escape.
_ESCAPES = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F]..)|.)", re.DOTALL)


def _lone_surrogates(text: str) -> Iterator[str]:
    """Yield one problem for the first lone surrogate: in a UTF-8 line it can only be an escape."""
    if "\\ud" not in text and "\\uD" not in text:
        return
    for match in _ESCAPES.finditer(text):
        if match[1]:
            yield (
                f"The escape \\{match[1]} at column {match.start() + 1} is half a character (a lone surrogate). "
                "Remove it, or write the character itself."
            )
            return
