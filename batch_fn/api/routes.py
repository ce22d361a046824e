"""The HTTP API: one function for each route, which reads the query, calls the app and answers in JSON.

An error is answered with a problem detail (RFC 9457): a type for programs and a sentence for people.
"""

import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import PurePath
from urllib.parse import parse_qs, urlsplit

import azure.functions as func
import msgspec

from batch_fn.app import App
from batch_fn.core.batches import BATCH_STATUSES, NotFoundError, PermanentServiceError, TransientServiceError
from batch_fn.core.checkup import Examination, worst
from batch_fn.core.errors import BadQueryError, NoSuchJobError, UserError
from batch_fn.core.names import is_job_id
from batch_fn.core.report import to_iso
from batch_fn.queries import job_detail, job_list
from batch_fn.queries.batches import list_batches
from batch_fn.queries.deployments import list_deployments
from batch_fn.queries.health import check_health
from batch_fn.queries.job_detail import STATUSES
from batch_fn.queries.usage import daily_usage
from batch_fn.runtime import log
from batch_fn.storage.rows import FinishedJob

DEFAULT_LIMIT, MOST = 50, 200
DEFAULT_DAYS, MOST_DAYS = 7, 90

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def jobs(app: App, request: func.HttpRequest) -> func.HttpResponse:
    """GET /jobs: a page of jobs."""

    def answer() -> func.HttpResponse:
        query = Query(request.url)
        page = job_list.list_jobs(
            app,
            status=query.words("status", STATUSES),
            prefix=query.text("prefix"),
            since=query.time("since"),
            until=query.time("until"),
            limit=query.number("limit", DEFAULT_LIMIT, MOST),
            after=query.job_id("after"),
        )
        return _json(page)

    return _answer(request, answer)


def job(app: App, request: func.HttpRequest) -> func.HttpResponse:
    """GET /jobs/{id}: one job."""
    return _answer(request, lambda: _json(job_detail.show_job(app, _id(request))))


def cancel(app: App, request: func.HttpRequest) -> func.HttpResponse:
    """POST /jobs/{id}/cancel: 202, or 200 if it has already ended as cancelled."""
    from batch_fn.steps import cancelling

    def answer() -> func.HttpResponse:
        now = cancelling.cancel(app, _id(request))
        status = HTTPStatus.OK if isinstance(now, FinishedJob) else HTTPStatus.ACCEPTED
        return _json(job_detail.show_job(app, now.job_id), status)

    return _answer(request, answer)


def retry(app: App, request: func.HttpRequest) -> func.HttpResponse:
    """POST /jobs/{id}/retry: 202; the failed lines are sent again."""
    from batch_fn.steps import retrying

    def answer() -> func.HttpResponse:
        entered = retrying.retry(app, _id(request))
        return _json(job_detail.show_job(app, entered.job_id), HTTPStatus.ACCEPTED)

    return _answer(request, answer)


def batches(app: App, request: func.HttpRequest) -> func.HttpResponse:
    """GET /batches: a page of the service's batches, ours and others'."""

    def answer() -> func.HttpResponse:
        query = Query(request.url)
        try:
            page = list_batches(
                app,
                status=query.words("status", BATCH_STATUSES),
                since=query.time("since"),
                until=query.time("until"),
                limit=query.number("limit", DEFAULT_LIMIT, MOST),
                after=query.text("after"),
            )
        except (PermanentServiceError, NotFoundError):  # the only input that reaches the service is `after`
            raise BadQueryError("after takes the value of after from the previous page.") from None
        return _json(page)

    return _answer(request, answer)


def deployments(app: App, request: func.HttpRequest) -> func.HttpResponse:
    """GET /deployments: each deployment's quota, and what waits for it."""
    return _answer(request, lambda: _json({"deployments": list_deployments(app)}))


def usage(app: App, request: func.HttpRequest) -> func.HttpResponse:
    """GET /usage: tokens and cost of finished jobs by day."""

    def answer() -> func.HttpResponse:
        days = Query(request.url).number("days", DEFAULT_DAYS, MOST_DAYS)
        return _json({"days": daily_usage(app, days)})

    return _answer(request, answer)


def health(app: App, request: func.HttpRequest) -> func.HttpResponse:
    """GET /health: 200 if every check passes, else 503."""

    def answer() -> func.HttpResponse:
        found = check_health(app)
        well = found["status"] == "healthy"
        return _json(found, HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE)

    return _answer(request, answer)


def ask_doctor(app: App, request: func.HttpRequest) -> func.HttpResponse:
    """POST /doctor: 202, and where to ask for what was found."""
    from batch_fn.doctor import runs

    return _answer(request, lambda: _examination(runs.ask(app)))


def examination(app: App, request: func.HttpRequest) -> func.HttpResponse:
    """GET /doctor/{id}: 202 while it runs, then 200 and what was found."""
    from batch_fn.doctor import runs

    return _answer(request, lambda: _examination(runs.result(app, str(request.route_params.get("id", "")))))


class Query:
    """The parameters of a request's query. Each method raises BadQueryError for an invalid value."""

    def __init__(self, url: str) -> None:
        # Not the request's own parameters: of a repeated one, those have only the last value.
        self._given = parse_qs(urlsplit(url).query)

    def text(self, name: str) -> str:
        """Return a parameter, empty if it is absent."""
        return self._given.get(name, [""])[-1]

    def number(self, name: str, default: int, most: int) -> int:
        """Return an integer from 1 to `most`."""
        text = self.text(name)
        if not text:
            return default
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and 1 <= int(text) <= most):
            raise BadQueryError(f"{name} takes a whole number from 1 to {most}.")
        return int(text)

    def time(self, name: str) -> datetime | None:
        """Return a time; one without a zone is in UTC."""
        text = self.text(name)
        if not text:
            return None
        try:
            # A plus sign that was not percent-encoded arrives as a space.
            time = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
        except ValueError:
            raise BadQueryError(f"{name} takes a time such as 2026-11-24T06:31:22Z, or a day.") from None
        return time if time.tzinfo else time.replace(tzinfo=UTC)

    def words(self, name: str, known: frozenset[str]) -> frozenset[str]:
        """Return the given words; the parameter may be repeated or comma-separated."""
        wanted = frozenset(each for given in self._given.get(name, []) for each in given.split(",") if each)
        if not wanted <= known:
            raise BadQueryError(f"{name} takes {', '.join(sorted(known))}.")
        return wanted

    def job_id(self, name: str) -> str | None:
        """Return the id of a job."""
        text = self.text(name)
        if text and not is_job_id(text):
            raise BadQueryError(f"{name} takes the value of {name} from the previous page.")
        return text or None


def _id(request: func.HttpRequest) -> str:
    """Return the job id in the request's path. Raises: NoSuchJobError, if it has not the form of one."""
    given = str(request.route_params.get("id", ""))
    if not is_job_id(given):
        raise NoSuchJobError(given)
    return given


def _answer(request: func.HttpRequest, answer: Callable[[], func.HttpResponse]) -> func.HttpResponse:
    """Return the answer, or the problem detail of an error."""
    from azure.core.exceptions import AzureError

    try:
        return answer()
    except UserError as error:
        return _problem(request, error.status, error.slug, error.title, str(error))
    except (TransientServiceError, AzureError) as error:
        log.warning("request_failed", path=urlsplit(request.url).path, error=type(error).__name__)
        sentence = "Storage or Azure OpenAI did not answer as expected. Try again in a moment."
        return _problem(request, HTTPStatus.SERVICE_UNAVAILABLE, "not-available", "Not available now", sentence)
    except Exception as error:  # noqa: BLE001 - our own error; its text may contain anything
        where = traceback.extract_tb(error.__traceback__)[-1]
        at = f"{PurePath(where.filename).name}:{where.lineno}"
        log.warning("request_broke", path=urlsplit(request.url).path, error=type(error).__name__, at=at)
        sentence = "The app failed with an internal error; its log has the details. Jobs are not affected."
        return _problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "The app failed", sentence)


def _problem(request: func.HttpRequest, status: HTTPStatus, slug: str, title: str, detail: str) -> func.HttpResponse:
    document = {
        "type": f"urn:batch_fn:{slug}",
        "title": title,
        "status": int(status),
        "detail": detail,
        "instance": urlsplit(request.url).path,
    }
    body = msgspec.json.encode(document)
    return func.HttpResponse(body, status_code=int(status), headers=HEADERS, mimetype="application/problem+json")


def _json(document: object, status: HTTPStatus = HTTPStatus.OK, **headers: str) -> func.HttpResponse:
    body = msgspec.json.encode(document)
    return func.HttpResponse(body, status_code=int(status), headers=HEADERS | headers, mimetype="application/json")


def _examination(examined: Examination) -> func.HttpResponse:
    document = {
        "id": examined.id,
        "state": worst(examined.checks) if examined.ended_at else "running",
        "asked": to_iso(examined.asked_at),
        "ended": to_iso(examined.ended_at),
        "checks": examined.checks,
    }
    if examined.ended_at:
        return _json(document)
    return _json(document, HTTPStatus.ACCEPTED, Location=f"/api/doctor/{examined.id}")
