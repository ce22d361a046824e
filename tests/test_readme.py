"""The README is short, and what it shows works."""

import re
from pathlib import Path

from batch_fn.validation.check import check
from batch_fn.validation.requests import Request, Rules

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text()
MOST_LINES = 150


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= MOST_LINES


def test_the_lines_shown_as_a_drop_are_accepted() -> None:
    [example] = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    checked = list(check([example.encode()], Rules()))
    assert len(checked) == 2
    assert all(isinstance(each, Request) for each in checked)


def test_every_page_of_the_docs_is_reached_from_it() -> None:
    seen, ahead = set[Path](), [PROJECT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page not in seen:
            seen.add(page)
            links = re.findall(r"\]\(([^)#:]+\.md)", page.read_text())
            ahead += [(page.parent / link).resolve() for link in links]
    assert {*(PROJECT / "docs").rglob("*.md")} <= seen
