"""The host as a child process, for tests and the demo.

with FunctionsHost(app_dir, {"AzureWebJobsStorage": azurite.connection_string}, events=True) as host:
    urlopen(f"{host.url}/api/hello?code={host.keys['function']}")
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.request import urlopen

PROJECT = Path(__file__).parents[2]
STOP_SECONDS = 30


class HostError(Exception):
    """The host did not start; the message ends with its log."""


class FunctionsHost:
    """One host with one app. `settings` are added to the environment; `options` are fields of HostOptions.

    `url`, `keys` ("function", "master", "blobs_extension") and `functions` (names) are there after `start`.
    """

    def __init__(self, app_dir: Path, settings: Mapping[str, str], **options: str | float | bool) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="functions-host-")
        self._log = Path(str(options.pop("log", Path(self._folder.name) / "host.log")))
        self._options = {"log": str(self._log), "with_parent": True} | options
        self._app_dir = app_dir
        self._settings = dict(settings)
        self._process: subprocess.Popen[str] | None = None
        self.url = ""
        self.keys: dict[str, str] = {}
        self.functions: list[str] = []

    def start(self) -> None:
        """Return when the host is ready; HostError if it ends instead. It may start again after `stop` or `kill`."""
        command = [sys.executable, "-m", "devkit.host", "--app", str(self._app_dir)]
        for name, value in self._options.items():
            flag = "--" + name.replace("_", "-")
            command += ([flag] if value else []) if isinstance(value, bool) else [flag, str(value)]
        with self._log.open("ab") as log:  # what the host says before it has a log, or instead, is there too
            self._process = subprocess.Popen(
                command,
                cwd=PROJECT,
                env=os.environ | self._settings,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # a group of its own: `kill` reaches the worker, Ctrl-C only us
            )
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            self._leave()
            raise HostError(f"The host ended with code {self._process.returncode}:\n{self.log_text()}")
        ready = json.loads(line)
        self.url, self.keys, self.functions = ready["url"], ready["keys"], ready["functions"]

    def worker_pid(self) -> int:
        """Return the process id of the worker that runs now."""
        url = f"{self.url}/admin/host/status?code={self.keys['master']}"
        with urlopen(url, timeout=10) as response:  # noqa: S310 - the URL is our own
            status = json.load(response)
        return int(status["workerPid"])

    def kill_worker(self) -> None:
        """Kill the worker in mid-run; the host starts another."""
        os.kill(self.worker_pid(), signal.SIGKILL)

    def kill(self) -> None:
        """Kill host and worker at once, as a machine that vanishes: nothing is drained, no lock given back."""
        if self._process and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._leave()

    def stop(self) -> None:
        """Drain and end the host; nothing if it does not run."""
        if self._process and self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        self.kill()

    def log_text(self) -> str:
        """Return the log so far: the host's lines and the app's."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def _leave(self) -> None:
        """Reap the process, which has ended or is about to, and close our ends of its pipes."""
        if self._process:
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe:
                    pipe.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._folder.cleanup()
