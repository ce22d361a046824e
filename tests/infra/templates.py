"""What the templates of infra/ make, read from the snapshots that `make bicep` holds to them."""

import fnmatch
import functools
import json
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]
INFRA = PROJECT / "infra"
FILES = sorted(INFRA.rglob("*.bicep"))
SNAPSHOTS = INFRA / "snapshots"
INTERFACES = SNAPSHOTS / "interfaces.json"
#: The sets of parameters, each with every resource that it makes.
SETS = sorted(path.stem for path in SNAPSHOTS.glob("*.bicepparam"))
#: Those of them that make the whole app.
WHOLE = [name for name in SETS if name != "event-subscription"]

type Resource = dict[str, Any]


@functools.cache
def made(name: str) -> list[Resource]:
    """Return the resources that a set of parameters makes."""
    resources: list[Resource] = json.loads((SNAPSHOTS / f"{name}.snapshot.json").read_text())["predictedResources"]
    return resources


def made_of(name: str, kind: str) -> list[Resource]:
    """Return those of one type, which is told in full or by its end, such as `sites/config`."""
    return [each for each in made(name) if each["type"] == kind or each["type"].endswith(f"/{kind}")]


def the(name: str, kind: str) -> Any:
    """Return the only resource of a type."""
    (found,) = made_of(name, kind)
    return found


@functools.cache
def interface(template: str) -> Any:
    """Return the `parameters` of a template, with their defaults, and the names of its `outputs`."""
    return json.loads(INTERFACES.read_text())[template]


@functools.cache
def names() -> Any:
    """Return what containers, queues and tables are called."""
    return json.loads((INFRA / "names.json").read_text())


def left_out(path: Path) -> bool:
    """Return whether .funcignore leaves the path, relative to the project, out of the package."""
    patterns = [line for line in (PROJECT / ".funcignore").read_text().split() if not line.startswith("#")]
    names = {*path.parts, str(path), *map(str, path.parents[:-1])}
    return any(fnmatch.fnmatch(name, pattern.rstrip("/")) for pattern in patterns for name in names)
