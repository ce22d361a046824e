"""The parts that are members of a bundle, and what its batch means for them. Pure."""

import msgspec

from batch_fn.core.jobs import Job, Part, PartState


def is_pending_member(bundle: Job, part: Part) -> bool:
    """Return whether a member still waits for what comes of the bundle."""
    return part.state is PartState.BUNDLED and part.bundle == bundle.job_id


def with_bundle_batch(member: Part, bundle_part: Part) -> Part:
    """Return a member's part as if the batch that carried it had been its own."""
    return msgspec.structs.replace(
        member,
        batch_id=bundle_part.batch_id,
        batch_status=bundle_part.batch_status,
        created_at=bundle_part.created_at,
        ended_at=bundle_part.ended_at,
        errors=bundle_part.errors,
        wait=bundle_part.wait,
    )
