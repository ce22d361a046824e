"""What one small job costs in calls to storage and service, by kind. Polls are left out: many jobs share them."""

from pathlib import Path

from batch_fn.app import App
from batch_fn.core.names import part_key
from batch_fn.steps.collection import collect
from batch_fn.steps.intake import ingest, job_id_of
from batch_fn.steps.polling import tick
from batch_fn.steps.submission import submit
from bench.azure import Azure, azure
from bench.counting import Calls, counted
from bench.data import small_drop
from bench.measuring import Sizes
from bench.results import Result, Row, at_most

TOKEN_LIMIT = 5_000_000
"""Every real deployment has one; keeping books of it costs calls, too."""


def run(sizes: Sizes, folder: Path) -> Result:  # noqa: ARG001 - every figure is asked in the same way
    """Measure."""
    rows: list[Row] = []
    details: list[str] = []
    with azure(token_limit=TOKEN_LIMIT) as here:
        for name, settings in (("alone", {"BUNDLE_SECONDS": "0"}), ("that might have shared a batch", {})):
            app = here.app(settings)
            _steps(here, app, "first.jsonl")  # the deployment, its limit and the clients are known after that
            steps = _steps(here, app, "second.jsonl")
            total = sum(calls.total() for calls in steps.values())
            parts = ", ".join(f"{step} {calls.total()}" for step, calls in steps.items())
            rows.append(at_most(f"calls for one small job {name}", total, 40, ours=f"{total}", compared=parts))
            details += [f"Calls for one small job {name}: {total}.", "", *_listed(steps), ""]
    return Result(rows=rows, details=details)


def _steps(here: Azure, app: App, name: str) -> dict[str, Calls]:
    """Take one job its whole way; return the calls of each step."""
    client = here.blob(app.settings.input_container, name)
    client.upload_blob(small_drop(1), overwrite=True)
    drop = app.blobs.drop(name)
    assert drop is not None  # noqa: S101 - it was just put there
    job_id, steps = job_id_of(drop), {}
    with counted(here.azurite) as steps["intake"]:
        ingest(app, name)
    with counted(here.azurite) as steps["submission"]:
        submit(app, job_id, part_key(1, 1))
    tick(app)
    with counted(here.azurite) as polls:
        tick(app)
    here.service.end_batch(here.service.batches()[0]["id"], "completed")
    with counted(here.azurite) as ending:
        tick(app)
    # What the tick that finds it ended does, but for what a tick does anyway.
    steps["ending"] = Calls(ending - polls)
    with counted(here.azurite) as steps["collection"]:
        collect(app, job_id)
    assert app.tables.finished(job_id) is not None  # noqa: S101
    return steps


def _listed(steps: dict[str, Calls]) -> list[str]:
    lines = ["| step | calls | kind |", "|---|---|---|"]
    for step, calls in steps.items():
        lines += [f"| {step} | {count} | {kind} |" for kind, count in sorted(calls.items())]
    return lines
