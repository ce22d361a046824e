"""Small parts that wait for the same deployment and url share one batch: the service's own advice is few large files.

A *bundle* is a job of our own making whose one part carries the lines of its *members*, parts of other jobs. It goes
to the service, and is settled, like any part; then each member gets its own results.

Who rides is decided by one write. The bundle's row is entered first, then the members are claimed for it, then the row
is changed to name them, together with the part that carries them. A bundle that never came to that is broken up by the
tick, with a change to the same row: only one of the two can be made, so no member rides in a batch and goes alone too.
"""

import contextlib
import secrets
from collections.abc import Iterator
from datetime import datetime

import msgspec

from batch_fn.app import App
from batch_fn.core import admission
from batch_fn.core.jobs import Job, JobState, Member, Part, PartState, Source, rides_in
from batch_fn.core.names import new_bundle_id
from batch_fn.runtime import clock, log
from batch_fn.storage.part_lines import SourceLine, picked, read_lines
from batch_fn.storage.rows import Change, ConflictError, Held, Work
from batch_fn.validation.requests import fill_deployment, with_custom_id

MAX_MEMBERS = 500
"""A bundle's row names its members, and a column of a row holds 32,768 characters."""


def bundled_id(member: int, line: int) -> str:
    """Return the custom_id under which a member's line rides: those of two jobs may be the same."""
    return f"{member}.{line}"


def may_bundle(app: App, size: int) -> bool:
    """Return whether a part that has to upload that many bytes may share a batch."""
    return app.settings.bundle_seconds > 0 and size <= app.settings.bundle_bytes


def gather(app: App, first: Part) -> tuple[str, str] | None:
    """Bundle a part with others that wait for the same. Return job id and key of what is to be sent, None if nothing.

    A part that finds no company goes alone.
    """
    waiting = _company(app, first)
    if len(waiting) < 2:
        return first.job_id, first.key
    bundle_id = new_bundle_id(clock.now(), secrets.token_hex(5))
    bundle = app.ledger.begin(_bundle(app, bundle_id))
    riders = list(_claim(app, bundle_id, waiting))
    if not riders:
        app.ledger.forget(Work(bundle))
        return None
    try:
        _write_lines(app, bundle_id, riders)
    except Exception:
        abandon(app, bundle, alone=True)  # one that cannot be read is not to keep the others
        raise
    carrier = _carrier(app, bundle_id, riders)
    members = tuple(Member(part.job_id, part.key) for part in riders)
    accepted = msgspec.structs.replace(
        bundle.row,
        state=JobState.ACCEPTED,
        due=None,
        accepted_at=clock.now(),
        requests=carrier.requests,
        parts_left=1,
        members=members,
    )
    try:
        app.ledger.change([Change(carrier), Change(accepted, bundle.etag)])
    except ConflictError:
        made = app.ledger.work(bundle_id)
        if made is None or not made.job.row.members:  # it took so long that the tick has broken it up
            _let_go(app, bundle_id)
            return None
        # Else it was this very write, made again by the client after its answer was lost.
    log.note("bundle_made", job_id=bundle_id, members=len(members), requests=carrier.requests)
    return bundle_id, carrier.key


def abandon(app: App, held: Held[Job], *, alone: bool = False) -> None:
    """Break up a bundle that whoever gathered it did not complete; its members wait again, to go alone or not."""
    gone = app.ledger.update(held, msgspec.structs.replace(held.row, state=JobState.FINISHING, due=clock.now()))
    _let_go(app, gone.row.job_id, alone=alone)
    app.ledger.forget(Work(gone))


def look_after(app: App, held: Held[Part]) -> None:
    """Let a part wait again that was claimed for a bundle that left without it; else look again in a while."""
    bundle = app.ledger.work(held.row.bundle)
    if bundle is None:
        _let_go(app, held.row.bundle)
    elif bundle.job.row.members and Member(held.row.job_id, held.row.key) not in bundle.job.row.members:
        _release(app, held.row.bundle, [held], alone=False)
    else:
        later = clock.after(app.settings.claim_seconds + app.settings.resend_seconds)
        app.ledger.update(held, held.row.moved(PartState.BUNDLED, later))


def break_up(app: App, bundle: Job, carrier: Part) -> None:
    """Let the members of a bundle that the service would not take go one by one: one bad member is to harm nobody."""
    code = carrier.errors[0].code if carrier.errors else None
    log.warn("bundle_broken_up", job_id=bundle.job_id, code=code, members=len(bundle.members))
    held = []
    for member in bundle.members:
        work = app.ledger.work(member.job_id)
        part = work.part(member.part) if work else None
        if part is not None and rides_in(bundle, part.row):
            held.append(part)
    _release(app, bundle.job_id, held, alone=True)
    forget_bundle(app, bundle.job_id)


def forget_bundle(app: App, bundle_id: str) -> None:
    """Delete a bundle's files at the service, its blobs and its rows; every member has what it needs of it.

    The row says so first: whoever goes on with this after a crash must not look for results that are deleted.
    """
    work = app.ledger.work(bundle_id)
    if work is None:
        return
    bundle = work.job
    if bundle.row.state is not JobState.FINISHING:
        due = clock.after(app.settings.resend_seconds)
        try:
            bundle = app.ledger.update(bundle, msgspec.structs.replace(bundle.row, state=JobState.FINISHING, due=due))
        except ConflictError:
            return  # another instance is at it
    if app.settings.delete_service_files:
        for held in work.parts:
            app.service.delete_files_of(held.row)
    app.containers.clear_work(bundle_id)
    app.ledger.forget(Work(bundle, work.parts))


def _company(app: App, first: Part) -> list[Held[Part]]:
    """Return the parts that may ride together, `first` and then the oldest, within the limits of one part."""
    settings = app.settings
    waiting = sorted(app.ledger.bundleable(first), key=lambda held: _place_in_line(held.row, first))
    if len(waiting) < 2:
        return waiting  # what is known of the deployment is not asked for a part that goes alone anyway
    known = app.ledger.deployment(first.deployment)
    most_tokens = admission.limit_of(app, known)
    company: list[Held[Part]] = []
    size = requests = tokens = 0
    for held in waiting:
        size += held.row.bytes
        requests += held.row.requests
        tokens += known.needs(held.row)
        if size > settings.part_bytes or requests > settings.max_part_requests or len(company) == MAX_MEMBERS:
            break
        if most_tokens is not None and tokens > most_tokens:
            break
        company.append(held)
    return company


def _place_in_line(part: Part, first: Part) -> tuple[bool, datetime, str]:
    """Whoever asks goes first: its message is used up, and nobody else may ask for it soon."""
    return (part.job_id, part.key) != (first.job_id, first.key), part.waiting_since, part.job_id


def _claim(app: App, bundle_id: str, waiting: list[Held[Part]]) -> Iterator[Part]:
    for held in waiting:
        try:
            due = clock.after(app.settings.claim_seconds + app.settings.resend_seconds)
            yield app.ledger.update(held, held.row.moved(PartState.BUNDLED, due, bundle=bundle_id)).row
        except ConflictError:
            continue  # it rides elsewhere


def _write_lines(app: App, bundle_id: str, riders: list[Part]) -> None:
    """Write the lines of all members, under custom_ids that are unique in the bundle."""
    with app.containers.writer(app.settings.work_container, _lines_name(bundle_id)) as writer:
        number = 0
        for member, part in enumerate(riders):
            for line in read_lines(app.containers, part.source, app.settings.max_line_bytes):
                number += 1
                raw = fill_deployment(line.raw, part.deployment) if part.source.fill else line.raw
                writer.write(picked(SourceLine(number, with_custom_id(raw, bundled_id(member, line.line)))))


def _bundle(app: App, bundle_id: str) -> Job:
    return Job(
        job_id=bundle_id,
        due=clock.after(app.settings.claim_seconds),
        container="",
        name="",
        etag="",
        bytes=0,
        dropped_at=clock.now(),
        bundle=True,
    )


def _carrier(app: App, bundle_id: str, riders: list[Part]) -> Part:
    return Part(
        job_id=bundle_id,
        number=1,
        attempt=max(part.attempt for part in riders),
        due=clock.after(app.settings.resend_seconds),
        waiting_since=min(part.waiting_since for part in riders),
        deployment=riders[0].deployment,
        url=riders[0].url,
        source=Source(container=app.settings.work_container, name=_lines_name(bundle_id), picked=True),
        requests=sum(part.requests for part in riders),
        bytes=sum(part.bytes for part in riders),
        estimated_tokens=sum(part.estimated_tokens for part in riders),
    )


def _lines_name(bundle_id: str) -> str:
    return f"{bundle_id}/lines"


def _let_go(app: App, bundle_id: str, *, alone: bool = False) -> None:
    """Let all that were claimed for a bundle wait again, and delete what was written of it: it never came to be."""
    _release(app, bundle_id, list(app.ledger.riders(bundle_id)), alone=alone)
    app.containers.clear_work(bundle_id)


def _release(app: App, bundle_id: str, held_parts: list[Held[Part]], *, alone: bool) -> None:
    for held in held_parts:
        part = held.row
        due = clock.after(app.settings.resend_seconds)
        changes = {"bundle": "", "bundles": part.bundles and not alone}
        with contextlib.suppress(ConflictError):  # it moved meanwhile; if it still rides, the tick looks after it
            app.ledger.update(held, part.moved(PartState.WAITING, due, **changes))
            app.queues.submit(part.job_id, part.key)
    log.note("members_released", job_id=bundle_id, members=len(held_parts))
