"""Azure OpenAI: the resource can be reached, takes our identity, files and batches, and has deployments for batch."""

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import NamedTuple

from batch_fn.app import App
from batch_fn.azure_openai.probe import MOST_FILES, DeploymentFacts, ServiceRefusedError
from batch_fn.core.checkup import Check, State, sentence
from batch_fn.core.cures import SERVICE_ROLE, cure_of
from batch_fn.core.deployments import Deployment
from batch_fn.doctor.storage import skew
from batch_fn.runtime import clock

DATED_VERSION = "2024-10-21"
BATCH_SKUS = frozenset({"globalbatch", "datazonebatch"})
RETIRES_SOON = timedelta(days=30)
LATELY = timedelta(days=30)
NEARLY_FULL = 0.9
FILES_WITHOUT_EXPIRY = 500
"""Source: how-to, "Batch limits"."""


def check_service(app: App, *, changing: bool) -> Iterator[Check]:
    """Yield a check for each thing, none after one that nothing works without. `changing`: upload a file as well."""
    probe, settings = app.openai_probe, app.settings
    for name, look in (("name", probe.resolve), ("TLS", probe.handshake)):
        try:
            yield Check(f"service: {name}", State.OK, look())
        except ServiceRefusedError as error:
            yield refused(f"service: {name}", error)
            return
    yield sub_domain(probe.host)
    try:
        whom = probe.identity()
        yield _routes(app)
        ahead = probe.list_batches()
        yield Check("service: access", State.OK, f"Batches can be listed, as {whom}.")
        yield skew("service: clock", "the service", ahead)
    except ServiceRefusedError as error:
        yield refused("service: access", error)
        return
    expiring = bool(settings.file_expiry_seconds)
    try:
        if changing:
            expiring = expiring and probe.upload().expires_at is not None
            yield _uploaded(app, expiring=expiring)
        yield _files(probe.count_files(), expiring=expiring)
    except ServiceRefusedError as error:
        yield refused("service: files", error)


class Wanted(NamedTuple):
    """The deployments that must exist: those of active parts, and those that settings or recent drops name."""

    now: frozenset[str]
    lately: frozenset[str]

    def state(self, name: str) -> State:
        """Return how bad it is if this one cannot be used."""
        return State.WRONG if name in self.now else State.WARNING


def check_deployments(app: App) -> Iterator[Check]:
    """Yield a check for each deployment that drops or settings name, and for each of a batch SKU."""
    known = {each.name: each for each in app.tables.deployments()}
    for name, deployment in sorted(known.items()):
        if deployment.limit is not None:
            saw = f"The service takes {deployment.limit:,} enqueued tokens."
            yield Check(f"deployment {name}: quota", State.OK, saw)
    if not app.settings.openai_resource_id:
        cure = "Set AZURE_OPENAI_RESOURCE_ID to the resource's id, to see SKU and retirement of each deployment."
        yield Check("deployments", State.UNKNOWN, "SKU and model cannot be seen without the resource's id.", cure)
        return
    try:
        facts = app.openai_probe.deployments()
    except ServiceRefusedError as error:
        cure = f"Give the identity {SERVICE_ROLE} or Reader on the resource, and check AZURE_OPENAI_RESOURCE_ID."
        yield Check("deployments", State.UNKNOWN, sentence(f"{error.doing} failed with {error.code}"), cure)
        return
    wanted = _wanted(app, known.values())
    there = {each.name for each in facts}
    for name in sorted((wanted.now | wanted.lately) - there):
        yield _missing(name, wanted.state(name), there)
    usable = False
    for each in facts:
        check = _deployment(each, wanted)
        if check is not None:
            usable = usable or (check.state in {State.OK, State.WARNING} and each.sku.lower() in BATCH_SKUS)
            yield check
    if not usable:
        saw = "The resource has no deployment that takes batches."
        yield Check("deployments", State.WRONG, saw, "Deploy a model with the SKU GlobalBatch (docs/deploy.md).")


def _wanted(app: App, known: Iterable[Deployment]) -> Wanted:
    since = clock.now() - LATELY
    lately = {*app.settings.token_limits, *app.settings.prices}
    for each in known:
        if any(at is not None and at > since for at in (each.extra_until, each.refused_at, each.oldest_waiting)):
            lately.add(each.name)
    return Wanted(frozenset(part.deployment for part in app.tables.active_parts()), frozenset(lately))


def refused(name: str, error: ServiceRefusedError) -> Check:
    """Return the check of something that the service refused."""
    cure = cure_of(error.code, error.message)
    said = f": {error.message}" if error.message else ""
    saw = sentence(f"{error.doing} failed with {error.code}{said}")
    if cure is not None:
        return Check(name, State.WRONG, f"{saw} {cure.meaning}", cure.cure)
    return Check(name, State.WRONG, saw, "Check AZURE_OPENAI_ENDPOINT, and that the network lets the app reach it.")


def sub_domain(host: str) -> Check:
    """Return whether an address is one of a single resource, at which batches are served."""
    name = "service: custom sub-domain"
    if host.endswith(".cognitiveservices.azure.com"):
        cure = "Set AZURE_OPENAI_ENDPOINT to https://<sub-domain>.openai.azure.com."
        return Check(name, State.WRONG, f"{host} does not serve batches.", cure)
    if host.endswith(".api.cognitive.microsoft.com"):
        cure = "Create a resource with a custom sub-domain: one without does not work with batch."
        return Check(name, State.WRONG, f"{host} is a regional address, without a custom sub-domain.", cure)
    return Check(name, State.OK, f"{host} is an address of one resource.")


def _routes(app: App) -> Check:
    """Return whether the routes of the configured API version answer, and what those of the other do."""
    probe, ours = app.openai_probe, app.settings.openai_api_version
    other = DATED_VERSION if ours == "v1" else "v1"
    try:
        seen = {version: probe.status_of(version) for version in (ours, other)}
    except ServiceRefusedError as error:
        return refused("service: routes", error)
    answers = {version: status not in {404, 405} for version, status in seen.items()}
    saw = ", ".join(f"The route {version} answers {status}" for version, status in seen.items())
    if answers[ours]:
        return Check("service: routes", State.OK, f"{saw}.")
    cure = f"Set AZURE_OPENAI_API_VERSION to {other}." if answers[other] else "Check AZURE_OPENAI_ENDPOINT."
    return Check("service: routes", State.WRONG, f"{saw}.", cure)


def _uploaded(app: App, *, expiring: bool) -> Check:
    if expiring or not app.settings.file_expiry_seconds:
        return Check("service: files", State.OK, "A file can be uploaded and deleted.")
    saw = (
        "A file can be uploaded and deleted, but the expiry is not honoured: the resource holds 500 files, not 10,000."
    )
    return Check("service: files", State.WARNING, saw, "Set AZURE_OPENAI_API_VERSION to v1.")


def _files(count: int, *, expiring: bool) -> Check:
    limit = MOST_FILES if expiring else FILES_WITHOUT_EXPIRY
    saw = f"The resource has {count:,} files for batch, and holds {limit:,}."
    if count < NEARLY_FULL * limit:
        return Check("service: file quota", State.OK, saw)
    return Check("service: file quota", State.WARNING, saw, "Delete files that no job needs any more.")


def _missing(name: str, state: State, there: set[str]) -> Check:
    names = ", ".join(sorted(there)) or "none"
    cure = "Name one of these in body.model, or create it with the SKU GlobalBatch."
    return Check(f"deployment {name}", state, f"The resource does not have it. It has: {names}.", cure)


def _deployment(facts: DeploymentFacts, wanted: Wanted) -> Check | None:
    """Return the check of a deployment, None for one that is for other things than batches."""
    name, now = f"deployment {facts.name}", clock.now()
    what = f"{facts.model} {facts.version}, {facts.sku}"
    if facts.sku.lower() not in BATCH_SKUS:
        if facts.name not in wanted.now | wanted.lately:
            return None
        cure = "Deploy the model with the SKU GlobalBatch or DataZoneBatch, and name that deployment in body.model."
        return Check(name, wanted.state(facts.name), f"{what}: it takes no batches.", cure)
    if facts.retires is None:
        return Check(name, State.OK, f"{what}; when the model retires is not said.")
    day = f"{facts.retires:%Y-%m-%d}"
    cure = "Deploy a model that is served for longer, and name its deployment in body.model (docs/deploy.md)."
    if facts.retires <= now:
        return Check(name, State.WRONG, f"{what}: the model retired on {day}.", cure)
    if facts.retires - now < RETIRES_SOON:
        return Check(name, State.WARNING, f"{what}: the model retires on {day}.", cure)
    return Check(name, State.OK, f"{what}, served until {day}.")
