"""JSONL in: every line of a drop becomes a Request, or findings that say what to change. Pure, and flat in memory.

The rules are the service's own ("Error codes" in Azure's how-to for batch), applied before anything is uploaded: the
service takes minutes to report the same, and does not name every line.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from batch_fn.validation.custom_ids import CustomIds
from batch_fn.validation.fast_path import LineTemplates, Match
from batch_fn.validation.findings import TOO_MANY_DEPLOYMENTS, TOO_MANY_FINDINGS, Code, Finding
from batch_fn.validation.line_rules import LINE_RULES, MISSING, LineCheck, is_allowed, kind_of, literal_paths
from batch_fn.validation.lines import Line, LineBlock, blocks
from batch_fn.validation.requests import Request, RequestRun, Rules, body_characters, deployment_of
from batch_fn.validation.strict_json import SHOWN, NotJsonError, parse, parse_if_flawless, shown

_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def check(chunks: Iterable[bytes], rules: Rules) -> Iterator[Request | Finding]:
    """Yield a Request for each line of the drop without a problem, and for each other line one Finding per problem.

    They come in the order of the lines, as these are read. Only what `chunks` raises is raised. A drop without a line
    gives the finding empty_file. A drop in UTF-16 gives one finding. After `rules.max_findings` findings the next one
    is too_many_findings, and reading stops.
    """
    for found in validate_blocks(chunks, rules):
        if isinstance(found, RequestRun):
            yield from found.each()
        else:
            yield found


def validate_blocks(chunks: Iterable[bytes], rules: Rules) -> Iterator[RequestRun | Request | Finding]:
    """Yield what `check` does, with most requests that follow one another as one RequestRun. This is faster."""
    drop = _Drop(rules)
    for block in blocks(chunks, rules.max_line_bytes):
        if not drop.count and _is_utf16(block.chunk[block.begin : block.begin + 2]):
            yield Finding(drop.next_line, Code.INVALID_JSON_LINE, "The file is UTF-16. Save it as UTF-8.")
            return
        yield from drop.check(block)
        if drop.is_full:
            return
    if not drop.count:
        yield Finding(1, Code.EMPTY_FILE, "The file has no request. Write one JSON object per line.")


def _too_many_findings(line: int, limit: int) -> Finding:
    message = (
        f"The file has more than {limit:,} findings, and the rest of it was not checked. "
        "Fix the listed findings, or raise the setting MAX_FINDINGS."
    )
    return Finding(line, TOO_MANY_FINDINGS, message)


type _Problems = list[tuple[str, str]]  # code and message of each problem of one line, in the order of discovery


def _is_utf16(start: bytes) -> bool:
    """Return whether a drop whose first line is `start` is UTF-16: by its mark, or the zero of an ASCII character."""
    return start.startswith(_UTF16_MARKS) or b"\0" in start[:2]


class _Drop:
    """The lines of a drop so far: what the next line is compared with."""

    def __init__(self, rules: Rules) -> None:
        self.count = self.findings = 0
        self.is_full = False
        """It has more findings than are listed; the rest is not checked."""
        self.next_line = 1
        self._rules = rules
        self._line_check = LineCheck(LINE_RULES, rules)
        self._custom_ids = CustomIds(rules.max_requests)
        self._templates = LineTemplates(literal_paths(LINE_RULES))
        self._url: tuple[str, int] | None = None  # the first valid one, and its line
        self._deployment: tuple[str, int] | None = None  # likewise
        self._deployments: set[str] = set()  # of a mixed drop, at most as many as it may have
        self._too_many_deployments = False

    def check(self, block: LineBlock) -> Iterator[RequestRun | Request | Finding]:
        """Yield the requests and findings of the lines.

        The first line past the limit of requests has a finding for that; later ones may have no finding at all.
        """
        longest = self._rules.max_line_bytes
        too_long = bool(block.too_long) or block.end - block.begin > longest + 1  # it is a single line then
        rest: LineBlock | None = block
        while rest is not None:
            run = None if too_long else self._templates.run(rest)
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
                        if self.is_full:
                            return
            rest = rest.after(some)

    def _is_accepted(self, run: Match) -> bool:
        """Return whether no line of a run has a problem; if so, count them.

        The rules for one line hold: each line matches a template of an accepted line, which also has its url and
        deployment. What depends on other lines is checked here.
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
            self._templates.learn(line.raw, custom_id, characters, result.url, result.deployment, filled=filled)
            yield result
        else:
            for finding in result:
                self.findings += 1
                if self.findings > self._rules.max_findings:
                    self.is_full = True
                    yield _too_many_findings(finding.line, self._rules.max_findings)
                    return
                yield finding

    def _check_carefully(self, line: Line) -> Request | list[Finding]:
        """Return the line's Request, or its findings. A run of lines that match a template gives the same, faster."""
        rules = self._rules
        problems: _Problems = []
        if self.count > rules.max_requests:
            self._check_count(problems)
        request = _object(line, rules.max_line_bytes, problems)
        if request is None:
            return _findings(line.number, problems, None)
        custom_id = _custom_id(request, problems)
        problems += [(Code.INVALID_REQUEST, each) for each in self._line_check.problems(request)]
        body, url = request.get("body"), request.get("url")
        url = url if is_allowed(url, rules) else None
        deployment, filled = None, False
        if isinstance(body, dict):
            deployment, filled = deployment_of(body.get("model"), rules.deployment)
        self._compare(line.number, custom_id, url, deployment, problems)
        if rules.mixed and deployment is not None and deployment not in self._deployments:
            deployment = self._one_more(deployment, problems)
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

    def _one_more(self, deployment: str, problems: _Problems) -> str | None:
        """Return a deployment that no line had before, None if that is one too many; the first such is a problem.

        Runs need no such check: the deployment of a template is that of an accepted line.
        """
        limit = self._rules.max_deployments
        if len(self._deployments) < limit:
            self._deployments.add(deployment)
            return deployment
        if not self._too_many_deployments:
            self._too_many_deployments = True
            message = (
                f'body.model "{shown(deployment)}" is deployment {limit + 1:,} of the file, '
                f"and {limit:,} is the limit. "
                "Split the file, or raise the setting MAX_DEPLOYMENTS."
            )
            problems.append((TOO_MANY_DEPLOYMENTS, message))
        return None


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
    """Return a custom_id fit for a finding: short, and without lone surrogates, which JSON encoders refuse."""
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
    message = f"The line is {kind_of(value)}, not a JSON object. Write one request object per line."
    problems.append((Code.INVALID_JSON_LINE, message))
    return None


def _custom_id(request: dict[str, Any], problems: _Problems) -> str | None:
    custom_id = request.get("custom_id", MISSING)
    if isinstance(custom_id, str) and custom_id:
        return custom_id
    lacks = "is empty" if custom_id == "" else f"is {kind_of(custom_id)}"
    problems.append((Code.INVALID_REQUEST, f"custom_id {lacks}. Set it to a string that no other line has."))
    return None
