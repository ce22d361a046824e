"""Somebody opens the page in a browser, gives the key, follows, filters, cancels and retries; and it harms nobody."""

import contextlib
import re
from collections.abc import Iterator
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Browser, expect

from tests.dashboard.browser import NoBrowserError, is_required, open_browser
from tests.dashboard.visitor import Visitor
from tests.end_to_end.bench import Bench, Dropped, wait_for
from tests.end_to_end.stories import jsonl, line, lines

pytestmark = [pytest.mark.xdist_group("page"), pytest.mark.usefixtures("browser")]

HOSTILE = "<img src=x onerror=alert(1)>\"'&amp;\u202egnp.jsonl"
REFUSED = re.compile(r"Failed to load resource: the server responded with a status of 401 \(Unauthorized\)")
"""Chromium's own line about an answer; no page can keep it from being written."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A browser; without one the tests are skipped, and fail where one is required."""
    with contextlib.ExitStack() as opened:
        try:
            browser = opened.enter_context(open_browser())
        except NoBrowserError as error:
            if is_required():
                raise
            pytest.skip(str(error))
        yield browser


@pytest.fixture(scope="module")
def stack() -> Iterator[Bench]:
    with Bench({"MAX_ATTEMPTS": "1", "PRICES": "global-batch=1000/2000"}) as bench:
        wait_for(lambda: _is_well(bench), "the first tick")  # until then the app says that it is not well
        yield bench


def _is_well(stack: Bench) -> bool:
    request = Request(f"{stack.host.url}/api/health", headers={"x-functions-key": stack.host.keys["function"]})
    try:
        with urlopen(request, timeout=30) as answer:
            return bool(answer.status == 200)
    except HTTPError:
        return False


@pytest.fixture
def visitor(browser: Browser, stack: Bench) -> Iterator[Visitor]:
    """Somebody who has given the key."""
    visitor = Visitor(browser, stack)
    visitor.come()
    visitor.give_key()
    yield visitor
    visitor.page.close()
    assert visitor.complaints == []


@pytest.fixture
def held(stack: Bench) -> Iterator[Bench]:
    """The stack, its service letting no batch move on until it is released."""
    stack.service.hold()
    yield stack
    stack.service.release()


@pytest.fixture
def full(stack: Bench) -> Iterator[str]:
    """A deployment that takes next to nothing."""
    before = stack.service.options()
    stack.service.options(token_limits={"full": 10}, quota_headers=False)
    yield "full"
    stack.service.options(**before)


def finished(dropped: Dropped) -> Dropped:
    dropped.wait()
    return dropped


@pytest.fixture(scope="module")
def hostile(stack: Bench) -> Dropped:
    """A rejected file, whose name and findings would run a script if they were taken for HTML."""
    script = "<script>alert(2)</script><img src=x onerror=alert(3)>"
    return finished(stack.drop(f"hostile/{HOSTILE}", jsonl(line(script), line(script))))


@pytest.fixture(scope="module")
def failed(stack: Bench) -> Dropped:
    """A file of which one line failed, and would not a second time."""
    return finished(stack.drop("page/failed.jsonl", jsonl(*lines(2), line("fails", "[[status 500 x1]]"))))


def test_the_key_is_asked_for_once_and_is_in_no_address(browser: Browser, stack: Bench) -> None:
    visitor = Visitor(browser, stack)
    visitor.come("?code=wrong")
    expect(visitor.page.locator("#key-why")).to_contain_text("does not take this key")
    assert visitor.page.url.endswith("/api/dashboard")
    visitor.give_key()
    visitor.page.reload()
    expect(visitor.page.locator("#fresh")).to_have_text("live")
    assert visitor.page.url.endswith("/api/dashboard")
    assert visitor.page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    visitor.page.close()
    assert visitor.complaints
    assert all(REFUSED.fullmatch(each) for each in visitor.complaints)


def test_a_job_is_seen_to_its_end_without_a_reload(visitor: Visitor, held: Bench) -> None:
    visitor.page.evaluate("window.sameDocument = true")
    held.drop("page/live.jsonl", jsonl(*lines(3)))
    visitor.sees("page/live.jsonl", "accepted")
    detail = visitor.opens("page/live.jsonl")
    estimate = re.compile(r"Cost so far0Estimate[1-9]\d* tokens of input, cost 0\.\d")
    expect(detail.locator("#facts")).to_contain_text(estimate)
    held.service.release()
    visitor.sees("page/live.jsonl", "succeeded")
    expect(visitor.row("page/live.jsonl")).to_contain_text("3 of 3")
    expect(detail.locator("#facts")).to_contain_text("batch-output/page/live/")
    expect(detail.locator("#facts")).to_contain_text(re.compile(r"Cost0\.\d"))
    expect(visitor.page.locator("#sum")).to_have_text(re.compile(r"^14 days: [1-9]\d* tokens, cost 0\.\d+$"))
    expect(detail.locator("#batches")).to_contain_text(re.compile(r"completed3 of 3[1-9]\d*0\.\d"))
    expect(detail.locator("#transitions")).to_contain_text(re.compile("dropped.*submitted.*finished"))
    expect(visitor.page.locator("#health")).to_have_text("✓ healthy")
    assert visitor.page.evaluate("window.sameDocument")


def test_jobs_are_searched_by_name_and_by_status(visitor: Visitor, failed: Dropped, hostile: Dropped) -> None:
    rows = visitor.page.locator("#jobs tr")
    visitor.sees(failed.name, "partially succeeded")
    visitor.searches("hostile/")
    expect(rows).to_have_count(1)
    visitor.sees(hostile.name, "rejected")
    expect(visitor.row(hostile.name)).to_contain_text("1 finding")
    visitor.page.get_by_label("Status").select_option("succeeded")
    expect(visitor.page.get_by_text("No job here.")).to_be_visible()
    visitor.page.get_by_label("Status").select_option("partially succeeded")
    visitor.searches("page/")
    visitor.sees(failed.name, "partially succeeded")
    expect(rows).to_have_count(1)


def test_a_job_is_opened_and_closed_by_keyboard(visitor: Visitor, failed: Dropped) -> None:
    visitor.row(failed.name).get_by_role("button").focus()
    visitor.page.keyboard.press("Enter")
    heading = visitor.page.locator("#detail").get_by_role("heading", level=2)
    expect(heading).to_be_focused()
    for _ in range(2):  # past Retry, on to Close; there is nothing to cancel
        visitor.page.keyboard.press("Tab")
    visitor.page.keyboard.press("Enter")
    expect(heading).to_be_hidden()


def test_a_job_is_seen_to_wait_and_is_cancelled_after_a_question(visitor: Visitor, full: str, stack: Bench) -> None:
    dropped = stack.drop("page/waits.jsonl", jsonl(*lines(8, body_model=full)))
    visitor.sees(dropped.name, "accepted")
    detail = visitor.opens(dropped.name)
    expect(detail.locator("#batches")).to_contain_text("waiting: token limit")
    expect(detail.locator("#waits")).to_contain_text("token_limit")
    expect(visitor.page.locator("#deployments")).to_contain_text("1 part waiting")
    question = visitor.page.get_by_role("dialog", name="Cancel this job?")
    detail.get_by_role("button", name="Cancel job").click()
    question.get_by_role("button", name="No").click()
    expect(question).to_be_hidden()
    assert not any(row.get("cancelled") for row in stack.work(dropped.job_id)), "No means no"
    detail.get_by_role("button", name="Cancel job").click()
    question.get_by_role("button", name="Yes").click()
    visitor.sees(dropped.name, "cancelled")
    expect(detail.get_by_role("button", name="Cancel job")).to_be_hidden()


def test_failed_lines_are_retried_after_a_question(visitor: Visitor, stack: Bench) -> None:
    dropped = finished(stack.drop("page/retry.jsonl", jsonl(line("fails", "[[status 500 x1]]"))))
    visitor.sees(dropped.name, "failed")
    visitor.opens(dropped.name).get_by_role("button", name="Retry failed lines").click()
    visitor.page.get_by_role("dialog", name="Retry the failed lines?").get_by_role("button", name="Yes").click()
    visitor.sees(dropped.name, "succeeded")


def test_hostile_names_and_messages_are_shown_as_text(visitor: Visitor, hostile: Dropped) -> None:
    detail = visitor.opens(hostile.name)
    expect(detail.locator("#findings")).to_contain_text("<script>alert(2)</script>")
    assert visitor.page.locator("img").count() == 0
    assert visitor.page.locator("script").count() == 1
    assert visitor.page.evaluate("getComputedStyle(document.querySelector('#jobs bdi')).unicodeBidi") == "isolate"


@pytest.mark.parametrize("width", [1200, 390], ids=["desk", "phone"])
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_axe_has_nothing_to_complain_of(
    browser: Browser, stack: Bench, failed: Dropped, hostile: Dropped, colours: str, width: int
) -> None:
    visitor = Visitor(browser, stack, color_scheme=colours, viewport={"width": width, "height": 800})
    visitor.come()
    assert visitor.violations() == [], "asking for the key"
    visitor.give_key()
    visitor.sees(hostile.name, "rejected")
    assert visitor.violations() == [], "the list"
    visitor.opens(hostile.name)
    assert visitor.violations() == [], "a job"
    detail = visitor.opens(failed.name)
    assert visitor.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
    detail.get_by_role("button", name="Retry failed lines").click()
    assert visitor.violations() == [], "a question"
    visitor.page.close()
    assert visitor.complaints == []


def test_a_job_whose_report_was_deleted_does_not_stop_the_list(visitor: Visitor, stack: Bench) -> None:
    dropped = finished(stack.drop("page/deleted.jsonl", jsonl(line("one"))))
    visitor.sees(dropped.name, "succeeded")  # the page has told of its end, and has nothing else to tell meanwhile
    stack.user.blobs.get_blob_client("batch-reports", f"{dropped.path}.json").delete_blob()
    visitor.row(dropped.name).get_by_role("button").click()
    expect(visitor.page.get_by_role("status")).to_contain_text("was deleted")
    expect(visitor.page.locator("#fresh")).to_have_text("live")
    assert [each for each in visitor.complaints if "410" not in each] == []
    visitor.complaints.clear()
