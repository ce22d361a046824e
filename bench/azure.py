"""Azurite and the Azure OpenAI emulator with the app's steps in this very process, and no host in between."""

import contextlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from azure.storage.blob import BlobClient, BlobServiceClient
from openai import OpenAI

from batch_fn.app import App
from batch_fn.settings import Settings
from devkit.azure_openai.process import AzureOpenAI
from devkit.azurite import Azurite
from devkit.stack import provision


class Azure:
    """Both of them, running; `app()` is ours, `blobs` and `client` are what anybody would use."""

    def __init__(self, azurite: Azurite, service: AzureOpenAI) -> None:
        self.azurite, self.service = azurite, service

    def app(self, settings: Mapping[str, str] | None = None) -> App:
        """Return the app with these settings, and the defaults for all others."""
        environment = {
            "BatchStorage": self.azurite.connection_string,
            "AZURE_OPENAI_ENDPOINT": self.service.url,
            "AZURE_OPENAI_API_KEY": self.service.api_key,
            **(settings or {}),
        }
        app = App(Settings.read(environment))
        provision(self.azurite.connection_string, app.settings)
        return app

    @cached_property
    def blobs(self) -> BlobServiceClient:
        """A client with the SDK's own defaults."""
        return BlobServiceClient.from_connection_string(self.azurite.connection_string)

    @cached_property
    def client(self) -> OpenAI:
        """A client with the SDK's own defaults."""
        return OpenAI(base_url=self.service.v1_url, api_key=self.service.api_key)

    def blob(self, container: str, name: str) -> BlobClient:
        """Return the client for a blob."""
        return self.blobs.get_blob_client(container, name)


@contextlib.contextmanager
def azure(**options: Any) -> Iterator[Azure]:
    """Run both; `options` are the emulator's. Its time stands still: no batch moves on unless it is told to."""
    with Azurite() as azurite, AzureOpenAI(storage=azurite.connection_string, **options) as service:
        service.hold()
        yield Azure(azurite, service)
