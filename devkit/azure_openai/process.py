"""Starts the emulator as a process of its own, and speaks to its control surface."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from devkit.azure_openai.management import IDENTITY_HEADER, RESOURCE_ID

_ROOT = Path(__file__).parents[2]


class AzureOpenAI:
    """A running emulator, as a context manager; ends with this process at the latest.

    `options` are those of options.py, by name; `storage=azurite.connection_string` lets it read and write blobs there.
    """

    def __init__(self, *, api_key: str = "emulator-key", port: int = 0, **options: object) -> None:
        self.api_key = api_key
        self.url = ""
        self._port = port
        self._options = options
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Return when the emulator listens, and `url` is known."""
        command = [sys.executable, "-m", "devkit.azure_openai", "--with-parent", "--port", str(self._port)]
        command += ["--api-key", self.api_key, "--options", json.dumps(self._options)]
        # In a session of its own: Ctrl-C in a terminal is for whoever started us, and the host still needs the service.
        self._process = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise RuntimeError(f"the emulator did not start, it ended with code {self._process.wait()}")
        self.url = json.loads(line)["url"]

    def stop(self) -> None:
        """End the emulator, and return when it has ended."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._process = None

    @property
    def v1_url(self) -> str:
        """The `base_url` of a v1 client."""
        return f"{self.url}/openai/v1/"

    @property
    def management(self) -> dict[str, str]:
        """Settings and environment with which the app reads deployments, and signs in as a managed identity."""
        return {
            "AZURE_OPENAI_RESOURCE_ID": RESOURCE_ID,
            "AZURE_RESOURCE_MANAGER": self.url,
            "IDENTITY_ENDPOINT": f"{self.url}/msi/token",
            "IDENTITY_HEADER": IDENTITY_HEADER,
        }

    def options(self, **changes: object) -> dict[str, Any]:
        """Set the named options; returns all of them."""
        return self._object("PATCH", "options", changes)

    def hold(self) -> None:
        """Let no batch move on."""
        self._call("POST", "hold")

    def release(self) -> None:
        """Let batches move on."""
        self._call("POST", "release")

    def fault(self, kind: str, **fault: object) -> None:
        """Set a fault: `method`, `path`, `status`, `headers`, `body`, `seconds`, `times`, `after`, `probability`."""
        self._call("POST", "faults", [{"kind": kind, **fault}])

    def clear_faults(self) -> None:
        """Set no faults any more."""
        self._call("DELETE", "faults")

    def state(self) -> dict[str, Any]:
        """`options`, `held`, `service_seconds`, `enqueued_tokens`, `batches`, `files`."""
        return self._object("GET", "state")

    def batches(self) -> list[dict[str, Any]]:
        """Every batch, newest first, without quirks; with `deployment` and enqueued `tokens`."""
        return list(self.state()["batches"])

    def files(self) -> list[dict[str, Any]]:
        """Every file, newest first."""
        return list(self.state()["files"])

    def executions(self) -> list[dict[str, Any]]:
        """For each line that was executed: `custom_id`, `body_sha256`, `count`, `succeeded`."""
        return list(self._call("GET", "executions"))

    def requests(self) -> dict[str, int]:
        """How many requests came, by "METHOD route"."""
        return self._object("GET", "requests")

    def end_batch(self, batch_id: str, status: str, code: str = "internal_error") -> dict[str, Any]:
        """End the batch at once, with what was executed (`completed`: with all); returns it. `code` is for `failed`."""
        return self._object("POST", f"batches/{batch_id}/end", {"status": status, "code": code})

    def reset(self) -> None:
        """Make it as at the start: no files, no batches, no faults, nothing counted, not held, first options."""
        self._call("POST", "reset")

    def _object(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        return dict(self._call(method, path, body))

    def _call(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/control/{path}", data, method=method)  # noqa: S310 - our own URL
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
            return json.loads(response.read())
