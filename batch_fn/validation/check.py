"""JSONL in: every line of a drop becomes a Request, or findings that say what to change. Pure, and flat in memory.

The rules are the service's own ("Error codes" in Azure's how-to for batch), applied before anything is uploaded: the
service takes minutes to say the same, and does not name every line.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from batch_fn.validation.custom_ids import CustomIds
from batch_fn.validation.fast_path import LineTemplates, Match
from batch_fn.validation.findings import Code, Finding
from batch_fn.validation.lines import Line, LineBlock, blocks
from batch_fn.validation.requests import Request, RequestRun, Rules, body_characters
from batch_fn.validation.strict_json import SHOWN, NotJsonError, parse, parse_if_flawless, shown

PLACEHOLDER = "REPLACE-WITH-MODEL-DEPLOYMENT-NAME"  # what the documentation's samples have as body.model
LONGEST_MODEL = 256  # characters; a deployment's name has 64 at most, and a row of the ledger takes no more than 32K
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def check(chunks: Iterable[bytes], rules: Rules) -> Iterator[Request | Finding]:
    """Yield a Request for each line of the drop without a problem, and for each other line one Finding per problem.

    In the order of the lines, as they are read. Nothing is raised but what `chunks` raises. A drop without any line
    gives the finding empty_file. A drop in UTF-16 gives one finding, and is not read on.
    """
    for found in validate_blocks(chunks, rules):
        if isinstance(found, RequestRun):
            yield from found.each()
        else:
            yield found


def validate_blocks(chunks: Iterable[bytes], rules: Rules) -> Iterator[RequestRun | Request | Finding]:
    """Yield what `check` does, with the requests that stand together mostly in one: the fastest way through a drop."""
    drop = _Drop(rules)
    for block in blocks(chunks, rules.max_line_bytes):
        if not drop.count and _is_utf16(block.chunk[block.begin : block.begin + 2]):
            yield Finding(drop.next_line, Code.INVALID_JSON_LINE, "The file is UTF-16. Save it as UTF-8.")
            return
        yield from drop.check(block)
    if not drop.count:
        yield Finding(1, Code.EMPTY_FILE, "The file has no request. Write one JSON object per line.")


type _Problems = list[tuple[Code, str]]  # what is wrong with one line, in the order in which it was found


def _is_utf16(start: bytes) -> bool:
    """Return whether a drop whose first line is `start` is UTF-16: by its mark, or the zero of an ASCII character."""
    return start.startswith(_UTF16_MARKS) or b"\0" in start[:2]


class _Drop:
    """The lines of a drop seen so far: what the next one is compared with."""

    def __init__(self, rules: Rules) -> None:
        self.count = 0
        self.next_line = 1
        self._rules = rules
        self._custom_ids = CustomIds(rules.max_requests)
        self._shapes = LineTemplates()
        self._url: tuple[str, int] | None = None  # the first valid one, and its line
        self._deployment: tuple[str, int] | None = None  # likewise

    def check(self, block: LineBlock) -> Iterator[RequestRun | Request | Finding]:
        """Yield the lines' requests and findings.

        Of the lines past the limit of requests the first has a finding for that. The others may have none at all.
        """
        longest = self._rules.max_line_bytes
        too_long = bool(block.too_long) or block.end - block.begin > longest + 1  # it is a single line then
        rest: LineBlock | None = block
        while rest is not None:
            run = None if too_long else self._shapes.run(rest)
            if run is not None and self._is_accepted(run):
                yield _request_run(self.next_line, run)
                some = run.block
                self.next_line += len(run.custom_ids)
            else:
                some = rest.head(1) if run is None else run.block
                for line in some.lines(self.next_line, longest):
                    self.next_line += 1
                    if line is not None:
                        yield from self._check_line(line)
            rest = rest.after(some)

    def _is_accepted(self, run: Match) -> bool:
        """Return whether nothing is wrong with any line of a run, and then count all of them in.

        Where a drop's lines must be alike in url and deployment, they are: shapes are those of accepted lines.
        """
        count = len(run.custom_ids)
        fits = 0 < count <= self._rules.max_requests - self.count
        accepted = fits and self._custom_ids.are_new(run.custom_ids, self.next_line)
        self.count += count if accepted else 0
        return accepted

    def _check_line(self, line: Line) -> Iterator[Request | Finding]:
        self.count += 1
        result = self._check_carefully(line)
        if isinstance(result, Request):
            custom_id, characters, filled = result.custom_id, result.characters, result.filled
            self._shapes.learn(line.raw, custom_id, characters, result.url, result.deployment, filled=filled)
            yield result
        else:
            yield from result

    def _check_carefully(self, line: Line) -> Request | list[Finding]:
        """Return the line's Request, or its findings; what is done with a run of known shape is a shorter way to it."""
        rules = self._rules
        problems: _Problems = []
        if self.count > rules.max_requests:
            self._check_count(problems)
        request = _object(line, rules.max_line_bytes, problems)
        if request is None:
            return _findings(line.number, problems, None)
        custom_id = _custom_id(request, problems)
        _check_method(request, problems)
        url = _url(request, rules.allowed_urls, problems)
        deployment, filled = None, False
        body = _body(request, problems)
        if body is not None:
            deployment, filled = _deployment(body, rules.deployment, problems)
            _check_body(body, url, problems)
        self._compare(line.number, custom_id, url, deployment, problems)
        if problems or self.count > rules.max_requests or custom_id is None or url is None or deployment is None:
            return _findings(line.number, problems, custom_id)
        characters = body_characters(line.raw)
        return Request(line.number, line.offset, line.length, custom_id, url, deployment, characters, filled)

    def _check_count(self, problems: _Problems) -> None:
        limit = self._rules.max_requests
        if self.count == limit + 1:
            message = f"This is request {limit + 1:,} of the file, and {limit:,} is the limit. Split the file."
            problems.append((Code.TOO_MANY_TASKS, message))

    def _compare(
        self, line: int, custom_id: str | None, url: str | None, deployment: str | None, problems: _Problems
    ) -> None:
        if custom_id is not None:
            first = self._custom_ids.first_line(custom_id.encode(errors="surrogatepass"), line)
            if first != line:
                used = f'custom_id "{shown(custom_id)}" was used on line {first}'
                problems.append((Code.DUPLICATE_CUSTOM_ID, f"{used}. Give each line one of its own."))
        if self._rules.mixed:
            return
        if url is not None:
            self._url = self._url or (url, line)
            if url != self._url[0]:
                problems.append((Code.URL_MISMATCH, _mismatch("url", url, *self._url)))
        if deployment is not None:
            self._deployment = self._deployment or (deployment, line)
            if deployment != self._deployment[0]:
                problems.append((Code.MODEL_MISMATCH, _mismatch("body.model", deployment, *self._deployment)))


def _request_run(line: int, run: Match) -> RequestRun:
    block, shape = run.block, run.shape
    length, count = block.end - block.begin - 1, len(run.custom_ids)
    return RequestRun(line, block.offset, length, count, shape.url, shape.deployment, run.characters, shape.filled, run)


def _mismatch(name: str, value: str, first: str, line: int) -> str:
    difference = f'{name} is "{shown(value)}", but line {line} has "{shown(first)}"'
    return f"{difference}. Use one for the whole file, and another file for the other."


def _findings(line: int, problems: _Problems, custom_id: str | None) -> list[Finding]:
    cut = None if custom_id is None else _cut(custom_id)
    return [Finding(line, code, message, cut) for code, message in problems]


def _cut(custom_id: str) -> str:
    """Return a custom_id fit for a finding: short, and without half characters, which no JSON encoder would write."""
    return custom_id[:SHOWN].encode(errors="backslashreplace").decode()


def _object(line: Line, max_line_bytes: int, problems: _Problems) -> dict[str, Any] | None:
    """Return the JSON object that the line holds, None if it holds none."""
    if line.too_long:
        message = (
            f"The line has {line.length:,} bytes, and {max_line_bytes:,} is the limit. "
            "Make the request smaller, or raise the setting MAX_LINE_BYTES."
        )
        problems.append((Code.INVALID_JSON_LINE, message))
        return None
    value: object = parse_if_flawless(line.raw)
    if value is None:
        try:
            parsed = parse(line.raw, line.offset)
        except NotJsonError as error:
            problems.append((Code.INVALID_JSON_LINE, str(error)))
            return None
        problems += [(Code.INVALID_JSON_LINE, message) for message in parsed.problems]
        value = parsed.value
    if isinstance(value, dict):
        return value
    message = f"The line is {_kind(value)}, not a JSON object. Write one request object per line."
    problems.append((Code.INVALID_JSON_LINE, message))
    return None


def _kind(value: object) -> str:
    """Return the JSON name of the value's type, with its article."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"


def _lacks(members: dict[str, Any], name: str) -> str:
    """Return in words why the member `name` is not what it should be."""
    return f"is {_kind(members[name])}" if name in members else "is missing"


def _custom_id(request: dict[str, Any], problems: _Problems) -> str | None:
    custom_id = request.get("custom_id")
    if isinstance(custom_id, str) and custom_id:
        return custom_id
    lacks = "is empty" if custom_id == "" else _lacks(request, "custom_id")
    problems.append((Code.INVALID_REQUEST, f"custom_id {lacks}. Set it to a string that no other line has."))
    return None


def _check_method(request: dict[str, Any], problems: _Problems) -> None:
    if request.get("method") != "POST":
        lacks = 'is not "POST"' if "method" in request else "is missing"
        problems.append((Code.INVALID_REQUEST, f'method {lacks}. Set it to "POST", the only one that a batch takes.'))


def _url(request: dict[str, Any], allowed_urls: frozenset[str], problems: _Problems) -> str | None:
    url = request.get("url")
    if isinstance(url, str) and url in allowed_urls:
        return url
    lacks = f'"{shown(url)}" is not allowed' if isinstance(url, str) else _lacks(request, "url")
    choice = ", ".join(sorted(allowed_urls))
    problems.append((Code.INVALID_REQUEST, f"url {lacks}. Set it to one of {choice} (the setting ALLOWED_URLS)."))
    return None


def _body(request: dict[str, Any], problems: _Problems) -> dict[str, Any] | None:
    body = request.get("body")
    if isinstance(body, dict):
        return body
    lacks = _lacks(request, "body")
    problems.append((Code.INVALID_REQUEST, f"body {lacks}. Set it to the JSON object that a single call would send."))
    return None


def _deployment(body: dict[str, Any], fill_in: str | None, problems: _Problems) -> tuple[str | None, bool]:
    """Return the line's deployment, None if it has none that is valid, and whether it is `fill_in`, from the rules."""
    model = body.get("model")
    if isinstance(model, str) and model and model != PLACEHOLDER and len(model) <= LONGEST_MODEL:
        return model, False
    if model is not None and not isinstance(model, str):
        lacks = f"is {_kind(model)}, not a string"
    elif model and len(model) > LONGEST_MODEL:
        lacks = f"has {len(model):,} characters, which no deployment's name has"
    elif fill_in is not None:
        return fill_in, True
    else:
        lacks = f"is still the placeholder {PLACEHOLDER}" if model else "is missing or empty"
    cure = "Set it to the name of your global batch deployment, or set the blob's metadata `deployment` to fill it in"
    problems.append((Code.INVALID_REQUEST, f"body.model {lacks}. {cure}."))
    return None, False


def _check_body(body: dict[str, Any], url: str | None, problems: _Problems) -> None:
    def invalid(message: str) -> None:
        problems.append((Code.INVALID_REQUEST, message))

    if url is not None:
        if url.endswith("/chat/completions"):
            messages = body.get("messages")
            if not isinstance(messages, list) or not messages:
                invalid(f"body.messages is missing, empty or not a list. Set it: {url} needs at least one message.")
        elif url.endswith("/responses") and body.get("input") is None:
            invalid(f"body.input is missing. Set it: {url} needs an input.")
    if body.get("stream") is True:
        invalid("body.stream is true, and a batch cannot stream. Remove it.")
    if "data_sources" in body:
        invalid("body.data_sources (On Your Data) is not supported in a batch. Remove it.")
