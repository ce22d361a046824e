"""All that the emulator knows, in one place."""

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from devkit.azure_openai.batches import Batches
from devkit.azure_openai.clock import ServiceClock
from devkit.azure_openai.faults import Faults
from devkit.azure_openai.files import FileStore
from devkit.azure_openai.options import Options
from devkit.azure_openai.quota import Quota


class Service:
    """All that the emulator knows; `folder` is where contents are kept."""

    def __init__(self, options: Options, api_key: str, folder: Path) -> None:
        self._first_options = msgspec.to_builtins(options)
        self.options = options
        self.api_key = api_key
        self.clock = ServiceClock(options.speed)
        self.files = FileStore(folder, options, self.clock)
        self.quota = Quota(options)
        self.batches = Batches(folder, options, self.clock, self.files, self.quota)
        self.faults = Faults(options)
        self.requests: Counter[str] = Counter()

    def change_options(self, changes: dict[str, Any]) -> None:
        """Set the named options."""
        self.options.change(changes)
        self.clock.change(speed=self.options.speed)

    async def reset(self) -> None:
        """Be as at the start: no files, no batches, the options of the start, not held."""
        await self.batches.clear()
        self.files.clear()
        self.faults.clear()
        self.requests.clear()
        self.change_options(self._first_options)
        self.clock.reset()


SERVICE = web.AppKey("service", Service)
