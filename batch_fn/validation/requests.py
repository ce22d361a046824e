"""A request line: its facts, what it is checked against, and edits that keep every other byte."""

import json
from collections.abc import Iterable, Iterator
from typing import ClassVar

import msgspec

from batch_fn.validation import loose_json
from batch_fn.validation.fast_path import Match
from batch_fn.validation.lines import Line, lines

PLACEHOLDER = "REPLACE-WITH-MODEL-DEPLOYMENT-NAME"
"""The body.model of the samples in the documentation."""

LONGEST_MODEL = 256
"""Characters. The name of a deployment has at most 64, and a property of a table row holds at most 32K."""

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Request(msgspec.Struct, frozen=True, gc=False):
    """One accepted line.

    `offset` is the byte of the drop at which the line begins (a byte order mark counts), `length` its bytes without the
    line end. `characters` is the length of the body as JSON text: the service estimates tokens as a quarter of it.
    `filled` says that `deployment` comes from the rules: fill_deployment must write it into the line before it is sent.
    """

    requests: ClassVar[int] = 1
    """The number of lines; a RequestRun has more."""

    line: int
    offset: int
    length: int
    custom_id: str
    url: str
    deployment: str
    characters: int
    filled: bool


class RequestRun(msgspec.Struct, frozen=True, gc=False):
    """Accepted lines that follow one another with one line feed between them, all of one url and deployment.

    `line` and `offset` are those of the first line. `length` (line feeds between lines included) and `characters` are
    totals.
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
        """Yield the lines one by one."""
        block, shape = self.run.block, self.run.shape
        for line, name in zip(block.lines(self.line, self.length), self.run.custom_ids, strict=True):
            assert line is not None  # noqa: S101 - a line that matches a template is not blank
            text, custom_id = line.raw if block.ascii else line.raw.decode(), name.decode()
            characters = len(text) + 1 - shape.overhead - len(custom_id)
            yield Request(
                line.number, line.offset, line.length, custom_id, shape.url, shape.deployment, characters, shape.filled
            )


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """The options and limits of a check.

    `deployment` replaces a body.model that is missing or a placeholder. `mixed` allows the lines of one drop to differ
    in url and deployment, with at most `max_deployments` deployments. `max_requests` is the service's own limit for a
    file. `max_line_bytes` is ours: a line is held in memory, and 16 MiB is room for a few images in base64. After
    `max_findings` findings the rest of the drop is not read.
    """

    allowed_urls: frozenset[str] = frozenset(
        {"/chat/completions", "/v1/chat/completions", "/responses", "/v1/responses"}
    )
    max_line_bytes: int = 16 * 1024 * 1024
    max_requests: int = 100_000
    max_findings: int = 10_000
    max_deployments: int = 100
    deployment: str | None = None
    mixed: bool = False


def deployment_of(model: object, fill_in: str | None) -> tuple[str | None, bool]:
    """Return the deployment of a line with that body.model, and whether it is `fill_in`; None if it has none.

    `model` is None or msgspec.UNSET for a line that has none.
    """
    if isinstance(model, str) and model and model != PLACEHOLDER:
        return (model if len(model) <= LONGEST_MODEL else None), False
    if isinstance(model, str | None) or model is msgspec.UNSET:
        return fill_in, fill_in is not None
    return None, False


def accepted_requests(chunks: Iterable[bytes], fill_in: str | None) -> Iterator[tuple[Request, bytes]]:
    """Yield each request of a drop that was accepted before, with its line.

    No limit and no rule applies: settings may have changed since the drop was accepted. `fill_in` is the deployment
    that was given with the drop. Raises msgspec.DecodeError at a line that was never accepted.
    """
    for line in lines(chunks):
        yield _accepted(line, fill_in), line.raw


def _accepted(line: Line, fill_in: str | None) -> Request:
    facts = _FACTS.decode(line.raw)
    model = _MODEL.decode(facts.body).model
    deployment, filled = deployment_of(model, fill_in)
    if deployment is None:
        raise msgspec.DecodeError(f"Line {line.number} has no deployment.")
    characters = _characters(facts.body)
    return Request(line.number, line.offset, line.length, facts.custom_id, facts.url, deployment, characters, filled)


def fill_deployment(raw: bytes, deployment: str) -> bytes:
    """Return the line `raw` with `deployment` as its body.model; every other value keeps its bytes.

    The line must be an accepted one. Raises msgspec.DecodeError or KeyError if its body is not an object.
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


class _WithModel(msgspec.Struct):
    model: str | None = None


class _WithFacts(msgspec.Struct):
    custom_id: str
    url: str
    body: msgspec.Raw


_CUSTOM_ID = msgspec.json.Decoder(_WithCustomId)
_BODY = msgspec.json.Decoder(_WithBody)
_MODEL = msgspec.json.Decoder(_WithModel)
_FACTS = msgspec.json.Decoder(_WithFacts)


def body_characters(raw: bytes) -> int:
    """Return the length in characters of the body's JSON text in the valid line `raw`."""
    return _characters(_BODY.decode(raw).body)


def _characters(value: msgspec.Raw) -> int:
    text = bytes(value)
    return len(text) if text.isascii() else len(text.decode())
