"""A request line: its facts, the rules for it, and edits that keep every other byte."""

import json
from collections.abc import Iterator
from typing import ClassVar

import msgspec

from batch_fn.validation import loose_json
from batch_fn.validation.fast_path import Match

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Request(msgspec.Struct, frozen=True, gc=False):
    """One accepted line.

    `offset` is the byte of the drop at which the line begins (a byte order mark counts), `length` its bytes without the
    line's end. `characters` is the length of the body's JSON text: the service estimates tokens as a quarter of it.
    `filled` says that `deployment` came from the rules: the line is to go through fill_deployment on its way.
    """

    requests: ClassVar[int] = 1
    """How many these are; a Stretch is more."""

    line: int
    offset: int
    length: int
    custom_id: str
    url: str
    deployment: str
    characters: int
    filled: bool


class RequestRun(msgspec.Struct, frozen=True, gc=False):
    """Accepted lines that stand together, with one line feed between them, and are of one url and deployment.

    `line` and `offset` are the first one's, `length` (with the line feeds between) and `characters` those of all.
    """

    line: int
    offset: int
    length: int
    requests: int
    url: str
    deployment: str
    characters: int
    filled: bool
    run: Match

    def each(self) -> Iterator[Request]:
        """Yield them one by one."""
        block, shape = self.run.block, self.run.shape
        for line, name in zip(block.lines(self.line, self.length), self.run.custom_ids, strict=True):
            assert line is not None  # noqa: S101 - none that has a shape is blank
            text, custom_id = line.raw if block.ascii else line.raw.decode(), name.decode()
            characters = len(text) + 1 - shape.overhead - len(custom_id)
            yield Request(
                line.number, line.offset, line.length, custom_id, shape.url, shape.deployment, characters, shape.filled
            )


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What a drop is checked against.

    `deployment` is put in where a line's body.model is missing or a placeholder. `mixed` allows the lines of one drop
    to differ in url and deployment. `max_requests` is the service's own limit for a file. `max_line_bytes` is ours: a
    line is held in memory, and 16 MiB is room for a few images in base64.
    """

    allowed_urls: frozenset[str] = frozenset(
        {"/chat/completions", "/v1/chat/completions", "/responses", "/v1/responses"}
    )
    max_line_bytes: int = 16 * 1024 * 1024
    max_requests: int = 100_000
    deployment: str | None = None
    mixed: bool = False


def fill_deployment(raw: bytes, deployment: str) -> bytes:
    """Return the line `raw` with `deployment` as its body.model; every other value stays byte for byte what it was.

    For a line that check accepted: one whose body is not an object raises msgspec.DecodeError or KeyError.
    """
    members = _MEMBERS.decode(raw)
    body = _MEMBERS.decode(members["body"])
    body["model"] = msgspec.Raw(msgspec.json.encode(deployment))
    members["body"] = msgspec.Raw(msgspec.json.encode(body))
    return msgspec.json.encode(members)


def with_custom_id(raw: bytes, custom_id: str) -> bytes:
    """Return the line `raw`, of an input or a result file, under another custom_id; each other value stays as it is.

    Raises: msgspec.DecodeError if it is not a JSON object.
    """
    named = msgspec.json.encode(custom_id)
    try:
        members = _MEMBERS.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = _members(raw) | {"custom_id": named}
        return b"{%b}" % b",".join(b"%b:%b" % (json.dumps(name).encode(), value) for name, value in found.items())
    members["custom_id"] = msgspec.Raw(named)
    return msgspec.json.encode(members)


def custom_id_of(raw: bytes) -> str:
    """Return the custom_id of the line `raw`, of a drop or of a result. Raises msgspec.DecodeError."""
    try:
        return _CUSTOM_ID.decode(raw).custom_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        custom_id = loose_json.string(_members(raw).get("custom_id", b""))
    if custom_id is None:
        raise msgspec.DecodeError("it has no custom_id")
    return custom_id


def _members(raw: bytes) -> dict[str, bytes]:
    """Return the members of a result line that is not quite JSON, or nested too deep: it is an answer, and paid for.

    Raises: msgspec.DecodeError if it is not that either.
    """
    try:
        return loose_json.members(raw)
    except ValueError as error:
        raise msgspec.DecodeError(str(error)) from error


class _WithCustomId(msgspec.Struct):
    custom_id: str


class _WithBody(msgspec.Struct):
    body: msgspec.Raw


_CUSTOM_ID = msgspec.json.Decoder(_WithCustomId)
_BODY = msgspec.json.Decoder(_WithBody)


def body_characters(raw: bytes) -> int:
    """Return how many characters the JSON text of the body has, in the line `raw`, which is valid."""
    body = bytes(_BODY.decode(raw).body)
    return len(body) if body.isascii() else len(body.decode())
