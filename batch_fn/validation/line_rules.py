"""The rules for the content of one request line, as a table: each names what it reads, and is given nothing else.

This is why a rule holds for every line, whichever path checks it. A template of the fast path (fast_path.py) matches
only lines with the keys and the kinds of values of a line that was accepted, and with the same JSON text at each path
in `literal_paths`. A rule reads kinds, or values at those paths, so it answers the same for all lines of a template.
"""

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

from batch_fn.validation.requests import LONGEST_MODEL, PLACEHOLDER, Rules, deployment_of
from batch_fn.validation.strict_json import shown

type Path = tuple[str, ...]
"""The keys that lead to a value. A value in an array has no path of its own: a rule reads the whole array."""

METHOD: Path = ("method",)
URL: Path = ("url",)
BODY: Path = ("body",)
MODEL: Path = ("body", "model")
MESSAGES: Path = ("body", "messages")
INPUT: Path = ("body", "input")
STREAM: Path = ("body", "stream")
DATA_SOURCES: Path = ("body", "data_sources")

MISSING = msgspec.UNSET
"""The value at a path whose last key is not there."""


class Kind(StrEnum):
    """What a template keeps of every value, in words that follow "is"."""

    MISSING = "missing"
    NULL = "null"
    TRUE = "true"
    FALSE = "false"
    NUMBER = "a number"
    STRING = "a string"
    EMPTY_ARRAY = "an empty array"
    ARRAY = "an array"
    OBJECT = "an object"


class LineRule(NamedTuple):
    """One rule. It applies where every path has a parent: a rule on body.model does not apply to a line without a body.

    A path in `values` costs speed where lines differ there: a template matches only lines with the same text. A rule on
    custom_id, which differs on every line, belongs into check.py, which compares the custom_id of each line.
    """

    problem: Callable[..., str | None]
    """Return what is wrong and what to change; None if nothing is wrong.

    The arguments are the Rules, then the value at each path of `values`, then the kind at each path of `kinds`.
    """
    values: tuple[Path, ...] = ()
    kinds: tuple[Path, ...] = ()


def literal_paths(table: tuple[LineRule, ...]) -> frozenset[Path]:
    """Return the paths at which a template must keep the JSON text, so that the rules in `table` hold for its lines."""
    return frozenset(path for rule in table for path in rule.values)


class LineCheck:
    """The rules of a table, prepared for the lines of one drop.

    What the rules read is looked up once for each line. A line in which they read the same as in the last line without
    a problem has none either: that is most lines.
    """

    def __init__(self, table: tuple[LineRule, ...], rules: Rules) -> None:
        values = {path for rule in table for path in rule.values}
        kinds = {path for rule in table for path in rule.kinds}
        self._paths = sorted(values | kinds, key=lambda path: path[:-1])
        parents = dict.fromkeys(path[:-1] for path in self._paths)
        self._parents = [(parent, [path[-1] for path in self._paths if path[:-1] == parent]) for parent in parents]
        self._values, self._kinds = [*map(self._paths.index, values)], [*map(self._paths.index, kinds)]
        self._table, self._rules = table, rules
        self._good: object = None

    def problems(self, request: dict[str, Any]) -> list[str]:
        """Return what each rule finds wrong with a request, in the order of the table."""
        found: list[Any] = []
        for parent, keys in self._parents:
            holder = value_at(request, parent) if parent else request
            if type(holder) is dict:
                get = holder.get
                found += [get(key, MISSING) for key in keys]
            else:
                found += [_NO_PARENT] * len(keys)
        # A type and whether a value is empty or false tell more than a kind.
        values = [found[index] for index in self._values]
        read = (values, [*map(type, found)], [not found[index] for index in self._kinds])
        if read == self._good:
            return []
        problems = [*self._all_problems(dict(zip(self._paths, found, strict=True)))]
        if not problems and not any(isinstance(value, list | dict) for value in values):  # [1] equals [True]
            self._good = read
        return problems

    def _all_problems(self, found: dict[Path, Any]) -> Iterator[str]:
        for rule in self._table:
            if any(found[path] is _NO_PARENT for path in (*rule.values, *rule.kinds)):
                continue
            values = (found[path] for path in rule.values)
            kinds = (kind_of(found[path]) for path in rule.kinds)
            problem = rule.problem(self._rules, *values, *kinds)
            if problem is not None:
                yield problem


def kind_of(value: object) -> Kind:
    """Return the kind of a JSON value, or of MISSING."""
    if isinstance(value, bool):
        return Kind.TRUE if value else Kind.FALSE
    if isinstance(value, list):
        return Kind.ARRAY if value else Kind.EMPTY_ARRAY
    return _KINDS[type(value)]


_KINDS = {
    str: Kind.STRING,
    dict: Kind.OBJECT,
    int: Kind.NUMBER,
    float: Kind.NUMBER,
    type(None): Kind.NULL,
    type(MISSING): Kind.MISSING,
}
_NO_PARENT = object()


def value_at(request: dict[str, Any], path: Path) -> Any:
    """Return the value at `path`, MISSING if there is none."""
    value: Any = request
    for key in path:
        if type(value) is not dict:
            return MISSING
        value = value.get(key, MISSING)
    return value


def _method(_: Rules, method: object) -> str | None:
    if method == "POST":
        return None
    lacks = "is missing" if method is MISSING else 'is not "POST"'
    return f'method {lacks}. Set it to "POST", the only one that a batch takes.'


def is_allowed(url: object, rules: Rules) -> bool:
    """Return whether lines may have that url."""
    return isinstance(url, str) and url in rules.allowed_urls


def _url(rules: Rules, url: object) -> str | None:
    if is_allowed(url, rules):
        return None
    lacks = f'"{shown(url)}" is not allowed' if isinstance(url, str) else f"is {kind_of(url)}"
    choice = ", ".join(sorted(rules.allowed_urls))
    return f"url {lacks}. Set it to one of {choice} (the setting ALLOWED_URLS)."


def _body(_: Rules, body: Kind) -> str | None:
    if body is Kind.OBJECT:
        return None
    return f"body is {body}. Set it to the JSON object that a single call would send."


def _model(rules: Rules, model: object) -> str | None:
    deployment, _ = deployment_of(model, rules.deployment)
    if deployment is not None:
        return None
    if model is MISSING or model is None or model == "":
        lacks = "is missing or empty"
    elif not isinstance(model, str):
        lacks = f"is {kind_of(model)}, not a string"
    elif model == PLACEHOLDER:
        lacks = f"is still the placeholder {PLACEHOLDER}"
    else:
        lacks = f"has {len(model):,} characters; the name of a deployment has at most {LONGEST_MODEL}"
    cure = "Set it to the name of your global batch deployment, or set the blob's metadata `deployment` to fill it in"
    return f"body.model {lacks}. {cure}."


def _messages(rules: Rules, url: object, messages: Kind) -> str | None:
    if not is_allowed(url, rules) or not str(url).endswith("/chat/completions") or messages is Kind.ARRAY:
        return None
    return f"body.messages is missing, empty or not a list. Set it: {url} needs at least one message."


_NOTHING = (Kind.MISSING, Kind.NULL)


def _input(rules: Rules, url: object, given: Kind) -> str | None:
    if not is_allowed(url, rules) or not str(url).endswith("/responses") or given not in _NOTHING:
        return None
    return f"body.input is missing. Set it: {url} needs an input."


def _stream(_: Rules, stream: Kind) -> str | None:
    return "body.stream is true, and a batch cannot stream. Remove it." if stream is Kind.TRUE else None


def _data_sources(_: Rules, data_sources: Kind) -> str | None:
    if data_sources is Kind.MISSING:
        return None
    return "body.data_sources (On Your Data) is not supported in a batch. Remove it."


LINE_RULES = (
    LineRule(_method, values=(METHOD,)),
    LineRule(_url, values=(URL,)),
    LineRule(_body, kinds=(BODY,)),
    LineRule(_model, values=(MODEL,)),
    LineRule(_messages, values=(URL,), kinds=(MESSAGES,)),
    LineRule(_input, values=(URL,), kinds=(INPUT,)),
    LineRule(_stream, kinds=(STREAM,)),
    LineRule(_data_sources, kinds=(DATA_SOURCES,)),
)
"""Every rule that reads one line alone, in the order in which its findings are listed."""
