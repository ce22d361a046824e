"""What is fetched is what the job has now."""

from pathlib import Path
from typing import Any

from batch_fn.app import App
from batch_fn.cli.transfer import save
from batch_fn.settings import Settings
from devkit.azurite import Azurite
from devkit.stack import provision
from tests.conftest import JOB_ID


def detail(settings: Settings, *kinds: str) -> dict[str, Any]:
    """A job that has results of these kinds."""
    containers = {"output": settings.output_container, "errors": settings.errors_container}
    places = {kind: f"{containers.get(kind, settings.errors_container)}/x/{kind}.jsonl" for kind in kinds}
    return {
        "job_id": JOB_ID,
        "input": {"name": "x.jsonl"},
        "outputs": {kind: places.get(kind) for kind in ("output", "errors", "unmatched")},
    }


def test_errors_that_a_retry_has_left_none_of_are_not_kept(
    azurite: Azurite, settings: Settings, tmp_path: Path
) -> None:
    provision(azurite.connection_string, settings)
    app = App(settings)
    before = detail(settings, "output", "errors", "unmatched")
    for place in before["outputs"].values():
        container, _, name = place.partition("/")
        app.blobs.write(container, name, [b"{}\n"])
    app.blobs.write_report(f"x/{JOB_ID}", {})
    saved = save(app, before, tmp_path)
    assert [file.name.split(".", 1)[1] for file in saved] == [
        "output.jsonl",
        "errors.jsonl",
        "unmatched.jsonl",
        "report.json",
    ]
    again = save(app, detail(settings, "output"), tmp_path)
    assert (
        {*tmp_path.rglob("*.json*")}
        == {*again}
        == {file for file in saved if "output" in str(file) or "report" in str(file)}
    )
