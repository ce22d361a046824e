"""`make screenshot`: docs/dashboard.png, the page with jobs in several states."""

import sys

from devkit.stack import PROJECT
from tests.dashboard.visitor import Visitor, open_browser
from tests.end_to_end.bench import Bench
from tests.end_to_end.stories import jsonl, line, lines

PICTURE = PROJECT / "docs/dashboard.png"


def main() -> int:
    """Write the picture. Return the exit code."""
    with (
        Bench(
            {"MAX_ATTEMPTS": "1", "PRICES": "global-batch=75/300"}, service={"token_limits": {"global-batch": 50_000}}
        ) as stack,
        open_browser() as browser,
    ):
        stack.drop("sales/monday.jsonl", jsonl(*lines(40))).wait()
        stack.drop("sales/tuesday.jsonl", jsonl(line("twice"), line("twice"))).wait()
        failed = jsonl(*lines(18), line("task-19", "[[status 400]]"), line("task-20", "[[status 400]]"))
        stack.drop("reviews/wednesday.jsonl", failed).wait()
        stack.service.options(speed=5)
        stack.drop("reviews/thursday.jsonl", jsonl(*lines(90)))
        visitor = Visitor(browser, stack, viewport={"width": 1200, "height": 900})
        visitor.come()
        visitor.give_key()
        visitor.sees("reviews/thursday.jsonl", "accepted")
        visitor.opens("reviews/wednesday.jsonl")
        visitor.page.screenshot(path=PICTURE, full_page=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
