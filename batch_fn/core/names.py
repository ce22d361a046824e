"""Names that are derived from a job: its id, its blob paths, its parts' keys. Pure."""

import hashlib
import re
from datetime import UTC, datetime

FILE_NAME = r"(?P<job_id>\d{8}T\d{6}Z-[0-9a-f]{10})-part-\d{5}-(?P<attempt>\d{2,})\.jsonl"
"""The names of our files at the service (see `Part.file_name`)."""

BLOB_NAME_LIMIT = 1024  # characters. Source: Azure Storage, "Naming and referencing containers, blobs, and metadata"
SEGMENT_LIMIT = 254  # of a name, parted by slashes. Source: the same

DROP_ENDINGS = (".jsonl.gz", ".jsonl")

JOB_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{10}")


def job_id(container: str, name: str, etag: str, last_modified: datetime) -> str:
    """Return the id of the job for one version of a blob.

    It is the same for a repeated event, another for a new version, sorted by time and safe in any key or path.
    """
    version = "\n".join((container, name, etag.strip('"')))
    digest = hashlib.sha256(version.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{last_modified.astimezone(UTC):%Y%m%dT%H%M%SZ}-{digest}"


def dropped_at(job_id: str) -> datetime:
    """Return when the job's drop was made, as its id says."""
    return datetime.strptime(job_id.partition("-")[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


def new_bundle_id(now: datetime, token: str) -> str:
    """Return the id of a bundle, of the form of a job's: `token` is ten random hex digits."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{token}"


def result_path(name: str, job_id: str) -> str:
    """Return the name, without ending, of the job's blobs: `sales/monday.jsonl` gives `sales/monday/<job id>`.

    So does `sales/monday.jsonl.gz`. A name so long that the result would be over Azure's limits is cut; the job id
    keeps it apart from others. Where only `.` or `..` would be left of a name, its ending stays: HTTP clients resolve
    such a folder, to end up elsewhere.
    """
    ending = next((each for each in DROP_ENDINGS if name.lower().endswith(each)), "")
    folder = name[: len(name) - len(ending)]
    if folder.rpartition("/")[2] in {".", ".."}:
        folder = name
    folder = "/".join(folder.split("/")[: SEGMENT_LIMIT - 1])
    room = BLOB_NAME_LIMIT - len(f"/{job_id}.jsonl.gz")
    return f"{folder[:room].rstrip('/')}/{job_id}".lstrip("/")


def part_key(number: int, attempt: int) -> str:
    """Return the name of a part's attempt within its job."""
    return f"part-{number:05d}-{attempt:02d}"


def work_folder(job_id: str, attempts_before: int) -> str:
    """Return where a job's blobs lie in the work container: who still cleans up after a run harms no retry."""
    return f"{job_id}-{attempts_before:02d}" if attempts_before else job_id


def is_job_id(text: str) -> bool:
    """Return whether that may be the id of a job."""
    if not JOB_ID.fullmatch(text):
        return False
    try:
        dropped_at(text)
    except ValueError:
        return False
    return True
