"""What a trigger is given of its host."""

from dataclasses import dataclass

from devkit.host.configuration import HostJson, HostOptions
from devkit.host.invocations import Invoke
from devkit.host.storage import Storage


@dataclass(frozen=True)
class HostContext:
    """The host, as its triggers see it. `host_id` is its name in storage, `invoke` runs a function once."""

    host_id: str
    storage: Storage
    host_json: HostJson
    options: HostOptions
    invoke: Invoke
