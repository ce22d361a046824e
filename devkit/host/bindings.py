"""What the functions say of themselves: their triggers and outputs, with the settings they name put in."""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass

from devkit.host.configuration import ConfigurationError
from devkit.host.messages import Json

log = logging.getLogger("host")

TRIGGERS = ("blobTrigger", "queueTrigger", "timerTrigger", "httpTrigger")
OUTPUTS = ("queue", "http")

type Settings = Mapping[str, str]


@dataclass(frozen=True)
class Function:
    """One function of the app. `trigger` and `outputs` are its bindings as JSON, `%SETTING%` resolved."""

    name: str
    worker_id: str  # the worker's name for it
    trigger: Json
    outputs: dict[str, Json]  # by parameter name; "$return" for the return value

    @property
    def full_name(self) -> str:
        """The name that the host uses in queues, locks and receipts."""
        return f"Host.Functions.{self.name}"

    @property
    def connection(self) -> str:
        """The name of the setting with the trigger's storage account."""
        return self.trigger.get("connection") or "AzureWebJobsStorage"


def read_functions(metadata: list[Json], settings: Settings) -> list[Function]:
    """Return the enabled functions that the worker indexed; ConfigurationError for what this host cannot serve."""
    return [
        _read_function(function, settings)
        for function in metadata
        if settings.get(f"AzureWebJobs.{function['name']}.Disabled", "").lower() not in ("true", "1")
    ]


def _read_function(metadata: Json, settings: Settings) -> Function:
    name = metadata["name"]
    triggers, outputs = [], {}
    for raw in metadata["raw_bindings"]:
        binding = resolve(json.loads(raw), settings)
        if binding["type"] in TRIGGERS:
            triggers.append(binding)
        elif binding["type"] in OUTPUTS and binding["direction"].upper() == "OUT":
            outputs[binding["name"]] = binding
        else:
            raise ConfigurationError(
                f"function {name}: this host has no {binding['type']} {binding['direction']} binding"
            )
    if metadata.get("retry_options"):
        log.warning("Function %s has a retry policy, which this host does not keep", name)
    if len(triggers) != 1:
        raise ConfigurationError(f"function {name} has {len(triggers)} triggers instead of one")
    return Function(name, metadata["function_id"], triggers[0], outputs)


def resolve(binding: Json, settings: Settings) -> Json:
    """Return the binding with each `%NAME%` in its strings replaced by the setting of that name."""

    def replaced(match: re.Match[str]) -> str:
        try:
            return settings[match[1]]
        except KeyError:
            raise ConfigurationError(f"the setting {match[1]}, named in a binding as {match[0]}, is missing") from None

    return {
        key: re.sub("%([^%]+)%", replaced, value) if isinstance(value, str) else value for key, value in binding.items()
    }


def connection_string(name: str, settings: Settings) -> str:
    """Return the storage connection string of the setting `name`, or else of `AzureWebJobs<name>`."""
    value = settings.get(name) or settings.get(f"AzureWebJobs{name}")
    if not value:
        raise ConfigurationError(
            f"no storage connection string in the setting {name} (the identity of {name}__... works only in Azure)"
        )
    return value


@dataclass(frozen=True)
class BlobPath:
    """The path of a blob trigger, `container/pattern`; a `{name}` in the pattern is any text, slashes included."""

    container: str
    pattern: re.Pattern[str]

    def parameters(self, blob_name: str) -> dict[str, str] | None:
        """Return the pattern's parameters for a blob, None if the blob does not match."""
        match = self.pattern.fullmatch(blob_name)
        return match.groupdict() if match else None


def read_blob_path(path: str) -> BlobPath:
    """Return the parsed path; a container alone stands for all its blobs."""
    container, _, pattern = path.partition("/")
    literal_or_name = re.split(r"\{(\w+)\}", pattern or "{name}")
    expression = "".join(
        f"(?P<{text}>.+)" if position % 2 else re.escape(text) for position, text in enumerate(literal_or_name)
    )
    return BlobPath(container, re.compile(expression, re.DOTALL))
