"""Cold start: the import of the app, and the worker from its start to the end of a first invocation, beside bare ones.

The bare app has one function, bound to a blob as ours is, and asks whether the blob is there. The first invocation is
the same for both: an event for a blob that is not there any more.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
import uuid
from functools import partial
from pathlib import Path
from typing import Any

from bench.azure import Azure, azure
from bench.measuring import Rounds, Sizes, interleaved
from bench.results import Result, Row, at_most
from devkit.host.worker_process import WorkerProcess, failure

PROJECT = Path(__file__).parents[1]
BARE = "import azure.functions, azurefunctions.extensions.bindings.blob"
BARE_APP = """
import azure.functions as func
import azurefunctions.extensions.bindings.blob as blob

app = func.FunctionApp()


@app.function_name("drop")
@app.blob_trigger(arg_name="client", path="batch-input/{name}", connection="BatchStorage")
def drop(client: blob.BlobClient) -> None:
    client.exists()
"""


READ_CLOCK = "import time; begin = time.perf_counter(); {}; print(time.perf_counter() - begin)"


def run(sizes: Sizes, folder: Path) -> Result:
    """Measure."""
    rounds = sizes.of(15, 5)
    (folder / "function_app.py").write_text(BARE_APP)
    with azure() as here:
        _provide(here)
        ways = {"ours": partial(_import, "import function_app"), "bare": partial(_import, BARE)}
        interleaved(1, ways)  # Python writes its byte code
        imports = interleaved(rounds, ways)
        ways = {"ours": partial(_first_invocation, PROJECT, folder), "bare": partial(_first_invocation, folder, folder)}
        interleaved(1, ways)
        workers = interleaved(rounds, ways)
    return Result(
        rows=[
            _row("import function_app", "azure.functions and the blob binding", imports),
            _row("worker start to the end of a first invocation", "a bare app", workers),
        ]
    )


def _row(figure: str, other: str, measured: Rounds) -> Row:
    ratio = measured.ratio("ours", to="bare")
    return at_most(
        figure,
        ratio,
        1.3,
        ours=f"{measured.median('ours') * 1000:.0f} ms",
        compared=f"{other}: {measured.median('bare') * 1000:.0f} ms",
        ratio=f"{ratio:.2f}",
    )


def _provide(here: Azure) -> None:
    """Give the processes that are started from here the app's settings."""
    here.app()
    settings = {
        "BatchStorage": here.azurite.connection_string,
        "AZURE_OPENAI_ENDPOINT": here.service.url,
        "AZURE_OPENAI_API_KEY": here.service.api_key,
    }
    os.environ.update(settings)


def _import(statement: str) -> float:
    """Return the seconds that an import takes in a new interpreter, the interpreter's own start left out."""
    command = [sys.executable, "-c", READ_CLOCK.format(statement)]
    ended = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True)  # noqa: S603
    return float(ended.stdout)


def _first_invocation(app: Path, folder: Path) -> float:
    return asyncio.run(_invoke_once(app, str(folder / "worker.log")))


async def _invoke_once(app: Path, log: str) -> float:
    """Start a worker, have it index the app, and send it an event, as the host does. Return the seconds it took."""
    worker = WorkerProcess(app, log)
    begin = time.perf_counter()
    await worker.launch()
    try:
        await worker.index()
        drop = next(each["function_id"] for each in worker.functions if each["name"] == "drop")
        response = await worker.invoke(_event(drop))
        seconds = time.perf_counter() - begin
    finally:
        await worker.stop()
    assert not failure(response), failure(response)  # noqa: S101
    return seconds


def _event(function_id: str) -> dict[str, Any]:
    reference = {"Connection": "BatchStorage", "ContainerName": "batch-input", "BlobName": "gone.jsonl"}
    binding = {
        "version": "1.0",
        "source": "AzureStorageBlobs",
        "content_type": "application/json",
        "content": json.dumps(reference),
    }
    return {
        "invocation_id": str(uuid.uuid4()),
        "function_id": function_id,
        "input_data": [["client", {"model_binding_data": binding}]],
        "trigger_metadata": {},
    }
