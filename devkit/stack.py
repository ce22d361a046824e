"""Everything that batch_fn needs of Azure, on this machine: Azurite, the Azure OpenAI emulator and a Functions host.

with Stack() as stack:
    path = stack.user.drop("monday.jsonl", content)
    report = stack.user.wait(path)
"""

import contextlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from azure.core.exceptions import ResourceExistsError
from azure.data.tables import TableServiceClient
from azure.storage.blob import BlobServiceClient
from azure.storage.queue import QueueServiceClient

from batch_fn.settings import Settings
from devkit.azure_openai.process import AzureOpenAI
from devkit.azurite import Azurite
from devkit.host.process import FunctionsHost
from devkit.user import User

PROJECT = Path(__file__).parents[1]

FAST = {
    "TICK_SCHEDULE": "* * * * * *",
    "BUNDLE_SECONDS": "0",
    "PYTHON_THREADPOOL_THREAD_COUNT": "8",
}
"""Where the devkit differs from production: it asks each second, since the emulator's day is short."""

IMPATIENT = {"max_poll_seconds": 0.5}
"""An option of the host, where somebody looks on: it looks into an idle queue this often."""


def shown(file: Path) -> Path:
    """Return the path as a user in the project's folder would write it."""
    return file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file


class Stack:
    """The three of them, started together and ended together.

    `settings` are the app's (and override the devkit's own), `service` are options of the emulator, `host` of the host.
    `data` and `storage_ports` are Azurite's.
    """

    def __init__(
        self,
        settings: Mapping[str, str] | None = None,
        *,
        service: Mapping[str, object] | None = None,
        host: Mapping[str, str | float | bool] | None = None,
        data: Path | None = None,
        storage_ports: Sequence[int] = (0, 0, 0),
    ) -> None:
        self.azurite = Azurite(data, storage_ports)
        self.service = AzureOpenAI(**(service or {}))  # type: ignore[arg-type]
        self._given = dict(settings or {})
        self._host_options = {"events": True, **(host or {})}
        self._running = contextlib.ExitStack()

    def start(self) -> None:
        """Start all three, and return when the host runs the app."""
        with ThreadPoolExecutor() as pool:
            for started in [pool.submit(self._running.enter_context, each) for each in (self.azurite, self.service)]:
                started.result()
        self.service.options(storage=self.azurite.connection_string)
        self.environment = self._environment()
        self.settings = Settings.read(os.environ | self.environment)
        provision(self.azurite.connection_string, self.settings)
        self.user = User(self.azurite.connection_string, self.settings)
        self.host = FunctionsHost(PROJECT, self.environment, **self._host_options)
        self._running.enter_context(self.host)

    def stop(self) -> None:
        """End all three, the host first."""
        self._running.close()

    def _environment(self) -> dict[str, str]:
        return {
            "AzureWebJobsStorage": self.azurite.connection_string,
            "BatchStorage": self.azurite.connection_string,
            "AZURE_OPENAI_ENDPOINT": self.service.url,
            "AZURE_OPENAI_API_KEY": self.service.api_key,
            **self.service.management,
            **FAST,
            **self._given,
        }

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def provision(connection_string: str, settings: Settings) -> None:
    """Make the containers, queues and tables that the settings name, as a deployment does."""
    blobs = BlobServiceClient.from_connection_string(connection_string)
    queues = QueueServiceClient.from_connection_string(connection_string)
    tables = TableServiceClient.from_connection_string(connection_string)
    for container in settings.containers:
        with contextlib.suppress(ResourceExistsError):
            blobs.create_container(container)
    for queue in settings.queues:
        with contextlib.suppress(ResourceExistsError):
            queues.create_queue(queue)
    for table in settings.tables:
        tables.create_table_if_not_exists(table)
