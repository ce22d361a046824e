"""The bicep files of infra/, parsed."""

import fnmatch
import functools
import json
from pathlib import Path
from typing import Any

from pycep import BicepParser

PROJECT = Path(__file__).parents[2]
INFRA = PROJECT / "infra"
FILES = sorted(INFRA.rglob("*.bicep"))


@functools.cache
def template(path: Path) -> Any:
    """Return a parsed bicep file: its `parameters`, `variables`, `resources`, `modules` and `outputs`."""
    return BicepParser().parse(text=path.read_text())


def module(name: str) -> Any:
    """Return a parsed file of infra/modules."""
    return template(INFRA / "modules" / f"{name}.bicep")


@functools.cache
def names() -> Any:
    """Return what containers, queues and tables are called."""
    return json.loads((INFRA / "names.json").read_text())


def left_out(path: Path) -> bool:
    """Return whether .funcignore leaves the path, relative to the project, out of the package."""
    patterns = [line for line in (PROJECT / ".funcignore").read_text().split() if not line.startswith("#")]
    names = {*path.parts, str(path), *map(str, path.parents[:-1])}
    return any(fnmatch.fnmatch(name, pattern.rstrip("/")) for pattern in patterns for name in names)
