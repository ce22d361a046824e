"""A file may have any name that a blob may have."""

import unicodedata
from collections.abc import Mapping

import pytest

from tests.end_to_end.bench import Bench, Dropped
from tests.end_to_end.stories import answered, jsonl, lines

NAMES = [
    "a b/c  d.jsonl",
    "sharp #1.jsonl",
    "100%.jsonl",
    "%2F.jsonl",
    "a%2Fb%20c.jsonl",
    "1+1.jsonl",
    "what?.jsonl",
    "a&b=c;d.jsonl",
    'it\'s "quoted".jsonl',
    "[x]{y}|z^`~!@$*(),.jsonl",
    "Köln/日本語/файл.jsonl",
    unicodedata.normalize("NFC", "é.jsonl"),
    unicodedata.normalize("NFD", "é.jsonl"),
    "🎉👩‍👩‍👧.jsonl",
    "no extension",
    "UPPER.JSONL",
    "monday.jsonl.txt",
    "v1.2.3..jsonl",
    "a//b.jsonl",
    ".jsonl",
    "..jsonl",
    "...jsonl",
    "folder/.jsonl",
    "folder/...jsonl",
    "x" * 900 + ".jsonl",
    "/".join(["deep" * 5] * 40) + ".jsonl",
    "l" * (1024 - len("names/.jsonl")) + ".jsonl",
    "é" * (1024 - len("names/.jsonl")) + ".jsonl",
    "n" * (1024 - len("names/")),
]


@pytest.fixture(scope="module")
def dropped(stack: Bench) -> Mapping[str, Dropped]:
    """A file of each name, dropped at once."""
    return {name: stack.drop(f"names/{name}", jsonl(*lines(2))) for name in NAMES}


@pytest.mark.parametrize("name", NAMES, ids=lambda name: f"{name[:20]!a}-{len(name)}")
def test_a_file_of_any_name_is_answered(dropped: Mapping[str, Dropped], name: str) -> None:
    report = answered(dropped[name])
    assert report["status"] == "succeeded"


def test_a_file_at_the_top_may_have_a_name_of_nothing_but_its_ending(stack: Bench) -> None:
    assert answered(stack.drop(".jsonl", jsonl(*lines(1))))["status"] == "succeeded"


def test_names_that_look_the_same_are_two_jobs(dropped: Mapping[str, Dropped]) -> None:
    composed, decomposed = (dropped[unicodedata.normalize(form, "é.jsonl")] for form in ("NFC", "NFD"))
    assert answered(composed)["job_id"] != answered(decomposed)["job_id"]
