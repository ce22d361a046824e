"""Small parts that wait for the same deployment and url share one batch: the service advises few large files.

A *bundle* is a job that the app makes. Its one part carries the lines of its *members*, which are parts of other jobs.
It is sent and settled like any other part; then each member gets its own results.

One write decides which parts are members. The bundle's row is inserted first, then the members are claimed for it, then
the row is changed to name them, together with the part that carries them. The tick dissolves a bundle that did not get
that far, with a change to the same row: only one of the two changes can be made, so no member is sent twice.
"""

import contextlib
import secrets
from collections.abc import Iterator
from datetime import datetime

import msgspec

from batch_fn.app import App
from batch_fn.core import admission
from batch_fn.core.jobs import InputRange, Job, JobState, Member, Part
from batch_fn.core.members import is_pending_member
from batch_fn.core.names import new_bundle_id
from batch_fn.runtime import clock, log
from batch_fn.steps import part_moves
from batch_fn.steps.cleaning import clean_up
from batch_fn.steps.ownership import finishing_lease
from batch_fn.storage.part_lines import InputGoneError, SourceLine, picked, read_lines
from batch_fn.storage.rows import ActiveJob, Change, ConflictError, Stored
from batch_fn.validation.requests import fill_deployment, with_custom_id

MAX_MEMBERS = 500
"""A bundle's row names its members, and a column of a row holds 32,768 characters."""


def bundled_id(member: int, line: int) -> str:
    """Return the custom_id that a member's line has in the bundle: those of two jobs may be the same."""
    return f"{member}.{line}"


def member_and_line(custom_id: str) -> tuple[int, int] | None:
    """Return the member and the line that `bundled_id` gave this custom_id, None if it did not."""
    member, _, line = custom_id.partition(".")
    if member.isdecimal() and line.isdecimal() and bundled_id(int(member), int(line)) == custom_id:
        return int(member), int(line)
    return None


def may_bundle(app: App, size: int) -> bool:
    """Return whether a part that has to upload that many bytes may share a batch."""
    return app.settings.bundle_seconds > 0 and size <= app.settings.bundle_bytes


def build_bundle(app: App, first: Part) -> tuple[str, str] | None:
    """Bundle a part with others that wait for the same. Return job id and key of what is to be sent, None if nothing.

    A part without another candidate is sent alone.
    """
    waiting = _candidates(app, first)
    if len(waiting) < 2:
        return first.job_id, first.key
    bundle_id = new_bundle_id(clock.now(), secrets.token_hex(5))
    bundle = app.tables.insert_if_absent(_bundle(app, bundle_id))
    bundle_members = list(_claim(app, bundle_id, waiting))
    if not bundle_members:
        app.tables.delete_active(ActiveJob(bundle))
        return None
    try:
        _write_lines(app, bundle_id, bundle_members)
    except Exception as error:
        dissolve_unsent(app, bundle, alone=True)  # a member that cannot be read must not keep the others waiting
        if isinstance(error, InputGoneError):
            return None  # each member has its message
        raise
    bundle_part = _bundle_part(app, bundle_id, bundle_members)
    members = tuple(Member(part.job_id, part.key) for part in bundle_members)
    accepted = msgspec.structs.replace(
        bundle.row,
        state=JobState.ACCEPTED,
        due=None,
        accepted_at=clock.now(),
        requests=bundle_part.requests,
        parts_left=1,
        members=members,
    )
    try:
        app.tables.change([Change(bundle_part), Change(accepted, bundle.etag)])
    except ConflictError:
        made = app.tables.active_job(bundle_id)
        if made is None or not made.job.row.members:  # it took so long that the tick has broken it up
            _release_claimed(app, bundle_id)
            return None
        # Else it was this very write, made again by the client after its answer was lost.
    log.info("bundle_made", job_id=bundle_id, members=len(members), requests=bundle_part.requests)
    return bundle_id, bundle_part.key


def dissolve_unsent(app: App, stored: Stored[Job], *, alone: bool = False) -> None:
    """Dissolve a bundle that was not completed; its members wait again, each to be sent alone if `alone`."""
    gone = app.tables.update(stored, msgspec.structs.replace(stored.row, state=JobState.FINISHING, due=clock.now()))
    _release_claimed(app, gone.row.job_id, alone=alone)
    app.tables.delete_active(ActiveJob(gone))


def recheck_member(app: App, stored: Stored[Part]) -> None:
    """Let a part wait again that was claimed for a bundle that left without it; else look again in a while."""
    bundle = app.tables.active_job(stored.row.bundle)
    if bundle is None:
        _release_claimed(app, stored.row.bundle)
    elif bundle.job.row.members and Member(stored.row.job_id, stored.row.key) not in bundle.job.row.members:
        _release(app, stored.row.bundle, [stored], alone=False)
    else:
        part_moves.bundle(app, stored, stored.row.bundle)


def dissolve(app: App, bundle: Job, bundle_part: Part) -> None:
    """Dissolve a refused bundle: each member is sent alone, so that one bad member harms no other."""
    code = bundle_part.errors[0].code if bundle_part.errors else None
    log.warning("bundle_broken_up", job_id=bundle.job_id, code=code, members=len(bundle.members))
    stored = []
    for member in bundle.members:
        active = app.tables.active_job(member.job_id)
        part = active.part(member.part) if active else None
        if part is not None and is_pending_member(bundle, part.row):
            stored.append(part)
    _release(app, bundle.job_id, stored, alone=True)
    forget_bundle(app, bundle.job_id)


def forget_bundle(app: App, bundle_id: str) -> None:
    """Delete a bundle's files at the service, its blobs and its rows; every member has its results.

    The row says so first: an instance that goes on with this after a crash must not look for results that are deleted.
    """
    active = app.tables.active_job(bundle_id)
    if active is None:
        return
    with finishing_lease(app, active.job) as lease:
        if lease is not None and clean_up(app, lease, active.parts):
            app.tables.delete_active(ActiveJob(lease.stored, active.parts))


def _candidates(app: App, first: Part) -> list[Stored[Part]]:
    """Return the parts that may share a batch, `first` and then the oldest, within the limits of one part."""
    settings = app.settings
    waiting = sorted(app.tables.bundleable(first), key=lambda stored: _place_in_line(stored.row, first))
    if len(waiting) < 2:
        return waiting  # what is known of the deployment is not asked for a part that goes alone anyway
    known = app.tables.deployment(first.deployment)
    most_tokens = admission.limit_of(known, app.settings.token_limits)
    candidates: list[Stored[Part]] = []
    size = requests = tokens = 0
    for stored in waiting:
        size += stored.row.bytes
        requests += stored.row.requests
        tokens += known.needs(stored.row)
        if size > settings.part_bytes or requests > settings.max_part_requests or len(candidates) == MAX_MEMBERS:
            break
        if most_tokens is not None and tokens > most_tokens:
            break
        candidates.append(stored)
    return candidates


def _place_in_line(part: Part, first: Part) -> tuple[bool, datetime, str]:
    """The calling part goes first: its queue message is consumed, and will not come again soon."""
    return (part.job_id, part.key) != (first.job_id, first.key), part.waiting_since, part.job_id


def _claim(app: App, bundle_id: str, waiting: list[Stored[Part]]) -> Iterator[Part]:
    for stored in waiting:
        try:
            yield part_moves.bundle(app, stored, bundle_id)
        except ConflictError:
            continue  # it is in another bundle


def _write_lines(app: App, bundle_id: str, bundle_members: list[Part]) -> None:
    """Write the lines of all members, under custom_ids that are unique in the bundle."""
    with app.blobs.writer(app.settings.work_container, _lines_name(bundle_id)) as writer:
        number = 0
        for member, part in enumerate(bundle_members):
            for line in read_lines(app.blobs, part.source):
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


def _bundle_part(app: App, bundle_id: str, bundle_members: list[Part]) -> Part:
    return Part(
        job_id=bundle_id,
        number=1,
        attempt=max(part.attempt for part in bundle_members),
        due=clock.after(app.settings.resend_seconds),
        waiting_since=min(part.waiting_since for part in bundle_members),
        deployment=bundle_members[0].deployment,
        url=bundle_members[0].url,
        source=InputRange(container=app.settings.work_container, name=_lines_name(bundle_id), picked=True),
        requests=sum(part.requests for part in bundle_members),
        bytes=sum(part.bytes for part in bundle_members),
        estimated_tokens=sum(part.estimated_tokens for part in bundle_members),
    )


def _lines_name(bundle_id: str) -> str:
    return f"{bundle_id}/lines"


def _release_claimed(app: App, bundle_id: str, *, alone: bool = False) -> None:
    """Let all that were claimed for a bundle wait again, and delete what was written of it: it never came to be."""
    _release(app, bundle_id, list(app.tables.bundle_members(bundle_id)), alone=alone)
    app.blobs.clear_work(bundle_id)


def _release(app: App, bundle_id: str, held_parts: list[Stored[Part]], *, alone: bool) -> None:
    for stored in held_parts:
        with contextlib.suppress(ConflictError):  # it moved meanwhile; if it is still bundled, the tick rechecks it
            part_moves.unbundle(app, stored, alone=alone)
    log.info("members_released", job_id=bundle_id, members=len(held_parts))
