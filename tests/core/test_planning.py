"""Accepted lines become parts: checked against the bytes of the file that they are ranges of."""

import json
from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from batch_fn.core.jobs import InputRange, Part, PartState, estimated_tokens
from batch_fn.core.planning import Limits, Planner, next_attempt, split
from batch_fn.validation.check import check
from batch_fn.validation.findings import Finding
from batch_fn.validation.requests import Request, Rules, fill_deployment
from tests.conftest import JOB_ID, NOON, a_part

BOM = b"\xef\xbb\xbf"
MAX_LINE = 1_000_000
DUE = NOON + timedelta(minutes=10)
DEPLOYMENT = "batch-small-größer"  # its name has more bytes than characters


class Sent(NamedTuple):
    """A line that a part sends: its number in the drop, and its bytes there."""

    number: int
    raw: bytes


@st.composite
def drops(draw: st.DrawFn) -> bytes:
    """A file that is accepted, with all that may lie between its lines."""
    content = draw(st.sampled_from([b"", BOM]))
    for number in range(draw(st.integers(1, 12))):
        body: dict[str, object] = {"messages": [{"role": "user", "content": draw(st.text(max_size=40))}]}
        if draw(st.integers(0, 4)):
            body["model"] = DEPLOYMENT
        request = {"custom_id": str(number), "method": "POST", "url": "/chat/completions", "body": body}
        content += json.dumps(request, ensure_ascii=draw(st.booleans())).encode()
        content += draw(st.sampled_from([b"\n", b"\n", b"\n", b"\r\n", b"\n\n", b"\n \t\r\n"]))
    return content if draw(st.booleans()) else content.removesuffix(b"\n")


limits = st.builds(Limits, st.integers(1, 1500), st.integers(1, 6), st.none() | st.integers(1, 200))
generous = Limits(10**9, 10**9)
some_examples = hypothesis_settings(max_examples=60)


def accepted(content: bytes) -> list[Request]:
    """The lines as the check of a drop accepts them; a line without a model gets the deployment."""
    requests: list[Request] = []
    for result in check([content], Rules(deployment=DEPLOYMENT)):
        assert not isinstance(result, Finding), result
        requests.append(result)
    return requests


def planned(content: bytes, limits: Limits) -> list[Part]:
    planner = Planner(limits, container="batch-input", name="monday.jsonl", size=len(content))
    for request in accepted(content):
        planner.add(request)
    return planner.parts(JOB_ID, now=NOON, due=DUE)


def lines_of(content: bytes) -> list[Sent]:
    """Every line of a file that is not blank, found in the simplest way."""
    physical = enumerate(content.removeprefix(BOM).split(b"\n"), start=1)
    return [Sent(number, raw.removesuffix(b"\r")) for number, raw in physical if raw.strip()]


def bytes_of(part: Part, content: bytes) -> bytes:
    assert part.source.length is not None
    return content[part.source.offset : part.source.offset + part.source.length]


def sent_by(part: Part, content: bytes) -> list[Sent]:
    """The lines of a part, as its byte range of the file has them."""
    return [Sent(part.source.first_line + number - 1, raw) for number, raw in lines_of(bytes_of(part, content))]


def upload_size(part: Part, content: bytes) -> int:
    raws = [raw for _, raw in sent_by(part, content)]
    return sum(len(fill_deployment(raw, DEPLOYMENT) if part.source.fill else raw) + 1 for raw in raws)


def size_at_most(raw: bytes) -> int:
    """The bytes that a line may have when it is sent: a model that is filled in comes on top."""
    model = b"" if "model" in json.loads(raw)["body"] else f'"model":"{DEPLOYMENT}",'.encode()
    return len(raw + model) + 1


def tokens_of(lines: Sequence[Sent], requests: Sequence[Request]) -> int:
    characters = {request.line: request.characters for request in requests}
    return estimated_tokens(sum(characters[line.number] for line in lines))


# From a drop to parts


@some_examples
@given(drops(), limits)
def test_the_parts_hold_every_line_once_in_order_with_its_number(content: bytes, limits: Limits) -> None:
    parts = planned(content, limits)
    assert [line for part in parts for line in sent_by(part, content)] == lines_of(content)
    assert [part.requests for part in parts] == [len(sent_by(part, content)) for part in parts]
    assert [part.number for part in parts] == list(range(1, len(parts) + 1))


@some_examples
@given(drops(), limits)
def test_a_part_s_byte_range_begins_and_ends_with_a_line(content: bytes, limits: Limits) -> None:
    for part in planned(content, limits):
        lines = sent_by(part, content)
        piece = bytes_of(part, content)
        assert piece.startswith(lines[0].raw)
        assert piece.endswith(lines[-1].raw)


@some_examples
@given(drops(), limits)
def test_a_part_is_sent_verbatim_exactly_when_nothing_but_line_feeds_lies_between_its_lines(
    content: bytes, limits: Limits
) -> None:
    for part in planned(content, limits):
        raws = [raw for _, raw in sent_by(part, content)]
        to_fill = [raw for raw in raws if "model" not in json.loads(raw)["body"]]
        assert part.source.fill is bool(to_fill)
        assert part.source.verbatim is (bytes_of(part, content) == b"\n".join(raws) and not to_fill)


@some_examples
@given(drops(), limits)
def test_no_part_is_over_a_limit_unless_it_is_a_single_line(content: bytes, limits: Limits) -> None:
    requests = accepted(content)
    for part in planned(content, limits):
        assert part.requests <= limits.requests
        assert part.estimated_tokens == tokens_of(sent_by(part, content), requests)
        if part.requests > 1:
            assert upload_size(part, content) <= limits.bytes
            assert limits.tokens is None or part.estimated_tokens <= limits.tokens


@some_examples
@given(drops(), limits)
def test_no_part_ends_while_the_next_line_would_still_fit(content: bytes, limits: Limits) -> None:
    requests = accepted(content)
    parts = planned(content, limits)
    for part, following in pairwise(parts):
        lines, more = sent_by(part, content), sent_by(following, content)[:1]
        size = sum(size_at_most(raw) for _, raw in lines + more)
        full = part.requests == limits.requests or size > limits.bytes
        assert full or (limits.tokens is not None and tokens_of(lines + more, requests) > limits.tokens)


@pytest.mark.parametrize(
    ("content", "verbatim"),
    [
        (b"%(a)s\n%(b)s\n", True),
        (b"%(a)s\n%(b)s", True),
        (BOM + b"%(a)s\n%(b)s\n", True),
        (b"\n\n%(a)s\n%(b)s\n\n", True),
        (b"%(a)s\n\n%(b)s\n", False),
        (b"%(a)s\r\n%(b)s\r\n", False),
        (b"%(a)s\n%(c)s\n", False),
    ],
    ids=["plain", "no last end", "mark", "blank around", "blank between", "carriage returns", "no model"],
)
def test_what_is_sent_as_it_lies_and_what_is_rewritten(content: bytes, verbatim: bool) -> None:
    line = b'{"custom_id": "%b", "method": "POST", "url": "/chat/completions", "body": {%b"messages": [{}]}}'
    model = f'"model": "{DEPLOYMENT}", '.encode()
    content %= {b"a": line % (b"a", model), b"b": line % (b"b", model), b"c": line % (b"c", b"")}
    (part,) = planned(content, generous)
    assert part.source.verbatim is verbatim


@pytest.mark.parametrize(
    ("content", "limits", "whole"),
    [
        (b"%(a)s\n%(b)s\n", generous, [True]),
        (b"%(a)s\n%(b)s", generous, [True]),
        (b"%(a)s\n\n%(b)s\n", generous, [True]),
        (BOM + b"%(a)s\n%(b)s\n", generous, [False]),
        (b"\n%(a)s\n%(b)s\n", generous, [False]),
        (b"%(a)s\n%(b)s\n\n", generous, [False]),
        (b"%(a)s\r\n%(b)s\r\n", generous, [False]),
        (b"%(a)s\n%(b)s\n", Limits(10**9, 1), [False, False]),
    ],
    ids=["plain", "no last end", "blank between", "mark", "blank before", "blank after", "carriage returns", "split"],
)
def test_a_part_is_the_whole_blob_where_nothing_else_lies_before_or_after(
    content: bytes, limits: Limits, whole: list[bool]
) -> None:
    line = b'{"custom_id": "%b", "method": "POST", "url": "/chat/completions", "body": {"messages": [{}]}}'
    content %= {b"a": line % b"a", b"b": line % b"b"}
    parts = planned(content, limits)
    assert [part.source.whole for part in parts] == whole
    assert not any(piece.source.whole for part in parts for piece in split_up(part, content, generous))


def test_a_new_part_waits_from_now_on_for_its_deployment() -> None:
    line = b'{"custom_id": "a", "method": "POST", "url": "/chat/completions", "body": {"messages": ["Hello"]}}\n'
    (part,) = planned(line, generous)
    assert part == Part(
        job_id=JOB_ID,
        number=1,
        attempt=1,
        state=PartState.WAITING,
        due=DUE,
        deployment=DEPLOYMENT,
        url="/chat/completions",
        source=InputRange(
            container="batch-input",
            name="monday.jsonl",
            offset=0,
            length=len(line) - 1,
            first_line=1,
            fill=True,
            whole=True,
        ),
        requests=1,
        bytes=size_at_most(line.strip()),
        estimated_tokens=len('{"messages": ["Hello"]}') // 4,
        waiting_since=NOON,
    )


# From a part to smaller parts


def split_up(part: Part, content: bytes, limits: Limits) -> list[Part]:
    chunks = [bytes_of(part, content)]
    return split(part, chunks, limits, max_line_bytes=MAX_LINE, first_number=7, most=1_000, due=DUE)


@some_examples
@given(drops(), limits, limits)
def test_a_split_part_s_pieces_hold_its_lines_with_their_numbers(content: bytes, first: Limits, then: Limits) -> None:
    for part in planned(content, first):
        pieces = split_up(part, content, then)
        assert [line for piece in pieces for line in sent_by(piece, content)] == sent_by(part, content)
        assert [piece.number for piece in pieces] == list(range(7, 7 + len(pieces)))
        again = [smaller for piece in pieces for smaller in split_up(piece, content, Limits(1, 1))]
        assert [line for smaller in again for line in sent_by(smaller, content)] == sent_by(part, content)


@some_examples
@given(drops(), limits)
def test_the_pieces_of_a_split_part_keep_to_the_limits(content: bytes, limits: Limits) -> None:
    requests = accepted(content)
    for piece in split_up(planned(content, generous)[0], content, limits):
        assert piece.requests <= limits.requests
        assert piece.estimated_tokens == tokens_of(sent_by(piece, content), requests)
        if piece.requests > 1:
            assert upload_size(piece, content) <= limits.bytes
            assert limits.tokens is None or piece.estimated_tokens <= limits.tokens


def test_the_pieces_keep_the_part_s_place_in_the_line_and_its_attempt() -> None:
    part = a_part(
        attempt=2,
        number=3,
        waiting_since=NOON - timedelta(hours=5),
        source=InputRange(container="batch-work", name="x.again", picked=True, fill=True, length=None),
    )
    lines = b'4\t{"body":{}}\n9\t{"body":{}}\n'
    pieces = split(part, [lines], Limits(1, 1), max_line_bytes=99, first_number=4, most=98, due=DUE)
    assert [piece.key for piece in pieces] == ["part-00004-02", "part-00005-02"]
    for piece in pieces:
        assert (piece.waiting_since, piece.due) == (NOON - timedelta(hours=5), DUE)
        assert (piece.deployment, piece.url, piece.state) == (part.deployment, part.url, PartState.WAITING)
        assert (piece.source.container, piece.source.name) == ("batch-work", "x.again")
        assert piece.source.picked
        assert piece.source.fill
        assert not piece.source.verbatim


def test_where_there_may_be_no_more_pieces_the_last_one_takes_the_rest() -> None:
    content = b"".join(b'{"body":{"n":%d}}\n' % n for n in range(10))
    part = a_part(requests=10)
    pieces = split(part, [content], Limits(99, 2), max_line_bytes=99, first_number=2, most=3, due=DUE)
    assert [piece.requests for piece in pieces] == [2, 2, 6]
    assert [line for piece in pieces for line in sent_by(piece, content)] == lines_of(content)


@some_examples
@given(drops(), limits)
def test_a_split_of_picked_lines_keeps_each_line_and_its_number(content: bytes, limits: Limits) -> None:
    some = lines_of(content)[::2]
    blob = b"".join(b"%d\t%b\n" % line for line in some)
    part = a_part(source=InputRange(container="batch-work", name="x.again", picked=True))
    pieces = split(part, [blob], limits, max_line_bytes=MAX_LINE, first_number=2, most=98, due=DUE)
    kept = [raw.split(b"\t", 1) for piece in pieces for _, raw in lines_of(bytes_of(piece, blob))]
    assert [Sent(int(number), raw) for number, raw in kept] == some
    characters = {request.line: request.characters for request in accepted(content)}
    assert [piece.estimated_tokens for piece in pieces] == [
        estimated_tokens(sum(characters[int(raw.split(b"\t")[0])] for _, raw in lines_of(bytes_of(piece, blob))))
        for piece in pieces
    ]


# From a part to its next attempt


@pytest.mark.parametrize("bundles", [True, False])
def test_the_next_attempt_starts_afresh_with_the_picked_lines(bundles: bool) -> None:
    part = a_part(
        number=3,
        attempt=2,
        state=PartState.ENDED,
        batch_id="batch_1",
        file_id="file-1",
        claims=4,
        refused=("batch_0",),
        output_file_id="file-2",
        create_intent_at=NOON,
        bundle="20261122T032151Z-0123456789",
        bundles=not bundles,
    )
    picked = InputRange(container="batch-work", name="x.again", picked=True)
    later = NOON + timedelta(hours=1)
    following = next_attempt(
        part, source=picked, requests=2, size=5_000, characters=4_000, now=later, due=DUE, bundles=bundles
    )
    assert following == a_part(
        number=3,
        attempt=3,
        source=picked,
        requests=2,
        bytes=5_000,
        estimated_tokens=1_000,
        bundles=bundles,
        waiting_since=later,
        due=DUE,
    )
