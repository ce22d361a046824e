"""The lines of an input file, and what is wrong with them.

A file is read line by line; only offsets, and what must be compared between lines, stay in memory.
"""

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from devkit.azure_openai.options import Options
from devkit.azure_openai.scripts import BatchScript, batch_script, slow_seconds

MAX_FINDINGS = 100
"""How many errors a failed batch lists; the real number is not documented."""

BATCH_SKUS = {"GlobalBatch", "DataZoneBatch"}
_BOM = b"\xef\xbb\xbf"
_NO_DEPLOYMENT = "A valid model deployment name couldn't be extracted from the input file."


class Finding(msgspec.Struct, kw_only=True):
    """One of a failed batch's `errors.data`; `line` counts from 1."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class Line(msgspec.Struct):
    """One request of a batch. `body` is its text, untouched."""

    custom_id: str
    method: str
    url: str
    body: msgspec.Raw

    def text(self) -> str:
        """The body as it stands in the file."""
        return bytes(self.body).decode()

    def digest(self) -> str:
        """SHA-256 of the body as compact JSON with sorted keys, so of what it says and not of how it is written."""
        return hashlib.sha256(msgspec.json.encode(msgspec.json.decode(self.body), order="sorted")).hexdigest()


class _Body(msgspec.Struct):
    """What validation looks at in a body."""

    model: str
    stream: bool | None = None
    data_sources: Any = None


_decode_line = msgspec.json.Decoder(Line).decode
_decode_body = msgspec.json.Decoder(_Body).decode


class Inspection:
    """What was seen in an input file: where its lines are, what they are about, and what is wrong with them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.offsets = array("Q")
        self.deployment: str | None = None
        self.characters = 0
        self.slow: dict[int, float] = {}
        self.batch_scripts: list[BatchScript] = []
        self.findings: list[Finding] = []

    @property
    def tokens(self) -> int:
        """The service's own estimate: a token for each four characters of the bodies; source: reference, Create."""
        return self.characters // 4

    def lines(self, indices: Iterable[int]) -> Iterator[tuple[int, Line]]:
        """The lines at `indices`, which count from 0, with their index; the file is open only in the meantime."""
        with self._path.open("rb") as file:
            for index in indices:
                file.seek(self.offsets[index])
                yield index, _decode_line(file.readline())

    def found(self, code: str, message: str, param: str | None = None, line: int | None = None) -> None:
        """Note an error, unless there are enough of them."""
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(code=code, message=message, param=param, line=line))


class _Inspector:
    """Takes lines one after the other; keeps what the next ones are compared with."""

    def __init__(self, inspection: Inspection, endpoint: str) -> None:
        self._seen = inspection
        self._url = endpoint
        self._custom_ids: set[str] = set()

    def take(self, raw: bytes, offset: int, number: int) -> None:
        """Look at line `number`, counted from 1, and note what is wrong with it."""
        self._seen.offsets.append(offset)
        try:
            line = _decode_line(raw)
            body = _decode_body(line.body)
            text = line.text()
        except msgspec.ValidationError as error:
            self._seen.found("invalid_request", f"The line's schema is not valid: {error}.", None, number)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._seen.found("invalid_json_line", f"The line is not valid JSON: {error}.", None, number)
        else:
            self._check(line, body, number)
            self._note(line, text, len(self._seen.offsets) - 1)

    def _check(self, line: Line, body: _Body, number: int) -> None:
        found = self._seen.found
        if line.method != "POST":
            found("invalid_request", f"The method must be POST, is '{line.method}'.", "method", number)
        if body.stream:
            found("invalid_request", "Streaming is not supported in a batch.", "body.stream", number)
        if body.data_sources is not None:
            found("invalid_request", "Your own data is not supported in a batch.", "body.data_sources", number)
        if line.url != self._url:
            found("url_mismatch", f"The URL must be '{self._url}', is '{line.url}'.", "url", number)
        if line.custom_id in self._custom_ids:
            found("duplicate_custom_id", f"An earlier line has custom_id '{line.custom_id}'.", "custom_id", number)
        self._custom_ids.add(line.custom_id)
        self._seen.deployment = self._seen.deployment or body.model
        if body.model != self._seen.deployment:
            message = f"The model must be '{self._seen.deployment}' in every line, is '{body.model}'."
            found("model_mismatch", message, "body.model", number)

    def _note(self, line: Line, text: str, index: int) -> None:
        self._seen.characters += len(text)
        if "[[" not in text:
            return
        if seconds := slow_seconds(text):
            self._seen.slow[index] = seconds
        if script := batch_script(text, line.digest()):
            self._seen.batch_scripts.append(script)


def inspect(path: Path, endpoint: str, options: Options) -> Inspection:
    """Read the whole file and return what was seen; lines of nothing but white space are passed over."""
    inspection = Inspection(path)
    inspector = _Inspector(inspection, endpoint)
    offset = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if number == 1 and raw.startswith(_BOM):
                # Which code comes with this message is not documented. Nothing else in the file is looked at.
                inspection.found("model_not_found", _NO_DEPLOYMENT)
                return inspection
            if raw.strip():
                inspector.take(raw, offset, number)
            offset += len(raw)
    _check_whole(inspection, options)
    return inspection


def _check_whole(inspection: Inspection, options: Options) -> None:
    count, deployment = len(inspection.offsets), inspection.deployment
    if count == 0:
        message = "The input file is empty. Please ensure that the batch contains at least one request."
        inspection.found("empty_file", message)
    if count > options.max_lines:
        # First in the list, where it cannot be crowded out by errors of lines.
        message = f"The file has {count} requests, the maximum is {options.max_lines}."
        inspection.findings.insert(0, Finding(code="too_many_tasks", message=message))
    if deployment is not None and options.deployments is not None and deployment not in options.deployments:
        inspection.found("model_not_found", f"There is no deployment '{deployment}'.", "body.model")
    elif deployment is not None and options.skus.get(deployment, "GlobalBatch") not in BATCH_SKUS:
        inspection.found("model_not_found", f"The deployment '{deployment}' takes no batches.", "body.model")


def first_deployment(path: Path) -> str | None:
    """The deployment that the first line names; None if that cannot be read."""
    with path.open("rb") as file:
        try:
            return _decode_body(_decode_line(file.readline()).body).model
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
