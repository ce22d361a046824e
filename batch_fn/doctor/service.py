"""Azure OpenAI: the resource can be reached, takes our identity, files and batches, and has deployments for batch."""

from collections.abc import Iterator
from datetime import timedelta

from batch_fn.app import App
from batch_fn.azure_openai.probe import DeploymentFacts, ServiceRefusedError
from batch_fn.core.checkup import Check, State
from batch_fn.core.cures import cure_of
from batch_fn.doctor.storage import skew
from batch_fn.runtime import clock

DATED_VERSION = "2024-10-21"
BATCH_SKUS = frozenset({"globalbatch", "datazonebatch"})
RETIRES_SOON = timedelta(days=30)
MOST_FILES = {True: 10_000, False: 500}
"""Files that a resource holds, with expiry and without. Source: how-to, "Batch limits"."""


def check_service(app: App, *, changing: bool) -> Iterator[Check]:
    """Yield a check for each thing; after one that nothing works without, no more. `changing`: upload a file as well."""
    probe, settings = app.openai_probe, app.settings
    for name, look in (("name", probe.resolve), ("TLS", probe.handshake)):
        try:
            look()
            yield Check(f"service: {name}", State.OK, f"{probe.host}: well.")
        except ServiceRefusedError as error:
            yield refused(f"service: {name}", error)
            return
    yield _sub_domain(probe.host)
    yield _routes(app)
    try:
        probe.list_batches()
        yield Check("service: access", State.OK, f"Batches can be listed, {_how(app)}.")
    except ServiceRefusedError as error:
        yield refused("service: access", error)
        return
    try:
        if changing:
            uploaded = probe.upload()
            yield _expiry(app, honoured=uploaded.expires_at is not None)
        yield _files(probe.count_files(), expiring=bool(settings.file_expiry_seconds))
        yield skew("service: clock", "the service", probe.clock_skew())
    except ServiceRefusedError as error:
        yield refused("service: files", error)


def check_deployments(app: App) -> Iterator[Check]:
    """Yield a check for each deployment that drops have named or settings name."""
    known = {each.name: each for each in app.tables.deployments()}
    wanted = sorted({*known, *app.settings.token_limits, *app.settings.prices} - {""})
    for name in wanted:
        if (deployment := known.get(name)) is not None and deployment.limit is not None:
            saw = f"The service takes {deployment.limit:,} enqueued tokens."
            yield Check(f"deployment {name}: quota", State.OK, saw)
    if not app.settings.openai_resource_id:
        cure = "Set AZURE_OPENAI_RESOURCE_ID to the resource's id, to see SKU and retirement of each deployment."
        yield Check("deployments", State.UNKNOWN, "SKU and model cannot be seen without the resource's id.", cure)
        return
    try:
        facts = app.openai_probe.deployments()
    except ServiceRefusedError as error:
        cure = "Give the identity the role Reader on the resource, and check AZURE_OPENAI_RESOURCE_ID."
        yield Check("deployments", State.UNKNOWN, f"{error.doing.capitalize()} failed with {error.code}.", cure)
        return
    there = {each.name: each for each in facts}
    for name in wanted:
        if name not in there:
            yield _missing(name, facts)
    for each in facts:
        yield _deployment(each, wanted=each.name in wanted)
    if not any(each.sku.lower() in BATCH_SKUS for each in facts):
        saw, cure = "No deployment is of a batch SKU.", "Deploy a model with the SKU GlobalBatch (docs/deploy.md)."
        yield Check("deployments", State.WRONG, saw, cure)


def refused(name: str, error: ServiceRefusedError) -> Check:
    """Return the check of something that the service refused."""
    cure = cure_of(error.code, error.message)
    said = f": {error.message}" if error.message else ""
    saw = f"{error.doing.capitalize()} failed with {error.code}{said}".rstrip(".") + "."
    if cure is not None:
        return Check(name, State.WRONG, f"{saw} {cure.meaning}", cure.cure)
    return Check(name, State.WRONG, saw, "Check AZURE_OPENAI_ENDPOINT, and that the network lets the app reach it.")


def _how(app: App) -> str:
    return "with the key" if app.settings.openai_api_key else "with Microsoft Entra ID"


def _sub_domain(host: str) -> Check:
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
    saw = ", ".join(f"{version} answers {status}" for version, status in seen.items())
    if answers[ours]:
        return Check("service: routes", State.OK, f"The routes of {saw}.")
    cure = f"Set AZURE_OPENAI_API_VERSION to {other}." if answers[other] else "Check AZURE_OPENAI_ENDPOINT."
    return Check("service: routes", State.WRONG, f"The routes of {saw}.", cure)


def _expiry(app: App, *, honoured: bool) -> Check:
    if honoured or not app.settings.file_expiry_seconds:
        return Check("service: files", State.OK, "A file can be uploaded and deleted.")
    saw = "A file can be uploaded and deleted, but it has no expiry: the resource holds 500 files, not 10,000."
    return Check("service: files", State.WARNING, saw, "Set AZURE_OPENAI_API_VERSION to v1.")


def _files(count: int, *, expiring: bool) -> Check:
    limit = MOST_FILES[expiring]
    saw = f"The resource has {count} files for batch, and holds {limit:,}."
    if count < 0.9 * limit:
        return Check("service: file quota", State.OK, saw)
    return Check("service: file quota", State.WARNING, saw, "Delete files that no job needs any more.")


def _missing(name: str, facts: list[DeploymentFacts]) -> Check:
    there = ", ".join(sorted(each.name for each in facts)) or "none"
    cure = "Name one of these in body.model, or create it with the SKU GlobalBatch."
    return Check(f"deployment {name}", State.WRONG, f"The resource does not have it. It has: {there}.", cure)


def _deployment(facts: DeploymentFacts, *, wanted: bool) -> Check:
    name, now = f"deployment {facts.name}", clock.now()
    what = f"{facts.model} {facts.version}, {facts.sku}"
    if facts.sku.lower() not in BATCH_SKUS:
        state = State.WRONG if wanted else State.OK
        cure = "Deploy the model with the SKU GlobalBatch or DataZoneBatch." if wanted else ""
        return Check(name, state, f"{what}: not of a batch SKU.", cure)
    if facts.retires is None:
        return Check(name, State.OK, f"{what}.")
    day = f"{facts.retires:%Y-%m-%d}"
    cure = "Deploy a newer model under another name, and name that in body.model (docs/deploy.md)."
    if facts.retires <= now:
        return Check(name, State.WRONG, f"{what}: retired on {day}.", cure)
    if facts.retires - now < RETIRES_SOON:
        return Check(name, State.WARNING, f"{what}: retires on {day}.", cure)
    return Check(name, State.OK, f"{what}: served until {day}.")
