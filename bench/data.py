"""The benchmark's own data, made anew for each run and the same each time."""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench.measuring import MB

DEPLOYMENT = "batch"
MODEL = "gpt-5.4-mini-2026-03-17"
URL = "/chat/completions"
LINES_TO_THE_MB = 500  # 100,000 lines in 200 MB: about 2 KB each
_SIZES = (1000, 2780)  # of a body; with what is around it, a little under 2,000 bytes a line on average
_BODIES = 4000  # different ones; the lines of a file draw from them

_WORDS = re.findall(
    r"\w+",
    """
    the of and to in is that for it was on are as with they be at one have this from or had by but some what there we
    can out other were all your when up use word how said an each she which do their time if will way about many then
    them would write like so these her long make thing see him two has look more day could go come did my sound no most
    number who over know water than call first people may down side been now find customer invoice delivery account
    refund contract warranty package supplier quarter forecast meeting summary translate classify sentiment
    """,
)
_ACCENTED = re.findall(
    r"\w+", "für über größe straße café élève niño señor coração 東京 配送 請求書 Москва заказ ответ"
)

PLAIN, ESCAPED, ACCENTED = "plain", "escaped", "accented"
"""Prose without any escape; with line feeds and quotes, which JSON escapes; with characters outside ASCII."""


def write_drop(path: Path, size: int, kind: str = PLAIN) -> int:
    """Write a drop of about `size` bytes and never more. Return its number of lines."""
    bodies = _bodies(kind)
    count = size // MB * LINES_TO_THE_MB
    with path.open("wb") as file:
        for number in range(1, count + 1):
            file.write(_line(number, bodies[number * 7919 % _BODIES]))
    assert path.stat().st_size <= size  # noqa: S101 - one part takes 200 MB, and what is called that is not to be more
    return count


def write_bad(path: Path, size: int) -> int:
    """Write a drop of about `size` bytes in which every line is cut off. Return its number of lines."""
    bodies = _bodies(PLAIN)
    count = size // MB * LINES_TO_THE_MB
    with path.open("wb") as file:
        for number in range(1, count + 1):
            file.write(_line(number, bodies[number * 7919 % _BODIES])[:-3] + b"\n")
    return count


def write_one_line(path: Path, size: int) -> None:
    """Write a drop of `size` bytes that is one line."""
    with path.open("wb") as file:
        file.write(b'{"custom_id": "long", "method": "POST", "url": "/chat/completions", "body": {"model": "')
        for _ in range(size // MB):
            file.write(b"a" * MB)
        file.write(b'"}}\n')


def small_drop(number: int, lines: int = 10) -> bytes:
    """Return a drop of a few short lines."""
    body = {"model": DEPLOYMENT, "messages": [{"role": "user", "content": f"Is parcel {number} on its way?"}]}
    raw = json.dumps(body).encode()
    return b"".join(_line(line, raw) for line in range(1, lines + 1))


def write_results(path: Path, count: int, line_bytes: int = 1950) -> None:
    """Write the output file of a batch of `count` lines, in an order that is not the input's, as the service does."""
    numbers = list(range(1, count + 1))
    _random().shuffle(numbers)
    answers = [_answer(line_bytes, prose) for prose in _prose(PLAIN, 200)]
    with path.open("wb") as file:
        for number in numbers:
            file.write(b'{"custom_id": "request-%07d", ' % number + answers[number % len(answers)])


def _line(number: int, body: bytes) -> bytes:
    return b'{"custom_id": "request-%07d", "method": "POST", "url": "/chat/completions", "body": %b}\n' % (number, body)


def _random() -> random.Random:
    return random.Random(20261122)  # noqa: S311 - no secret, and the same each time


def _bodies(kind: str) -> list[bytes]:
    """Return the JSON of request bodies: a system message, and a user's that makes up the size."""
    dice = _random()
    system = {"role": "system", "content": "You are a helpful assistant. Answer in one short sentence."}
    bodies = []
    for prose in _prose(kind, _BODIES):
        size = dice.randint(*_SIZES)
        body = {
            "model": DEPLOYMENT,
            "messages": [system, {"role": "user", "content": prose}],
            "max_completion_tokens": dice.choice((64, 128, 256)),
        }
        raw = json.dumps(body, ensure_ascii=False).encode()
        # Shortened by what is too much: an escape or a character of several bytes counts as what it takes in the file.
        while len(raw) > size:
            prose = prose[: len(prose) - max(1, (len(raw) - size) // 2)]
            body["messages"] = [system, {"role": "user", "content": prose}]
            raw = json.dumps(body, ensure_ascii=False).encode()
        bodies.append(raw)
    return bodies


def _prose(kind: str, count: int) -> Iterator[str]:
    """Yield texts of some 3,000 characters."""
    dice = _random()
    words = [*_WORDS, *_ACCENTED * 3] if kind == ACCENTED else _WORDS
    for _ in range(count):
        sentences = []
        for _ in range(45):
            sentence = " ".join(dice.choices(words, k=dice.randint(8, 18))).capitalize() + "."
            if kind == ESCAPED:
                sentence = dice.choice(('He said: "{}"\n', '- "{}"\n', "{}\n\n", "{} ")).format(sentence)
            sentences.append(sentence)
        yield ("" if kind == ESCAPED else " ").join(sentences)[:3000]


def _answer(line_bytes: int, prose: str) -> bytes:
    """Return the rest of an output line, after its custom_id, as the how-to prints it."""
    filtered = {name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")}
    choice = {
        "content_filter_results": filtered,
        "finish_reason": "stop",
        "index": 0,
        "logprobs": None,
        "message": {"content": "", "role": "assistant"},
    }
    body = {
        "choices": [choice],
        "created": 1763856000,
        "id": "chatcmpl-AbCdEfGhIjKlMnOpQrStUvWxYz012",
        "model": MODEL,
        "object": "chat.completion",
        "system_fingerprint": "fp_0123456789",
        "usage": {"completion_tokens": 300, "prompt_tokens": 400, "total_tokens": 700},
    }
    line = {"response": {"body": body, "request_id": "0" * 36, "status_code": 200}, "error": None}
    room = line_bytes - len(msgspec.json.encode(line)) - len('{"custom_id": "request-0000000", ')
    choice["message"] = {"content": prose[:room], "role": "assistant"}
    return msgspec.json.encode(line)[1:] + b"\n"
