"""The walls between the packages of batch_fn: which may import which, and which SDK each may import."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
LONGEST_FILE = 350  # lines

#: What each package, and each module beside the packages, may import of batch_fn. All may import `runtime`.
MAY_IMPORT = {
    "validation": set[str](),
    "runtime": set[str](),
    "core": {"validation"},
    "settings": {"core"},
    "storage": {"core", "validation", "settings"},
    "azure_openai": {"core", "settings"},
    "app": {"storage", "azure_openai", "settings"},
    "doctor": {"core", "storage", "azure_openai", "app", "settings", "validation"},
    "steps": {"core", "validation", "storage", "app", "settings"},
    "queries": {"core", "validation", "storage", "app", "settings"},
    "api": {"core", "storage", "app", "settings", "queries", "steps", "doctor"},
    "cli": {"core", "validation", "storage", "app", "settings", "queries", "steps", "doctor"},
    "__main__": {"cli"},
}
PURE = {"validation", "core", "settings"}

#: The SDKs and the network: each with the packages that may import it. `app` makes the clients.
SDKS = {
    "azure.storage": {"storage", "app"},
    "azure.data": {"storage", "app"},
    "azure.core": {"storage", "api", "cli", "azure_openai"},  # the last three name its errors
    "azure.identity": {"app", "azure_openai"},
    "azure.functions": {"api"},
    "openai": {"azure_openai"},
    "httpx2": {"azure_openai"},
    "opentelemetry": {"runtime"},
}
IMPURE = {
    "tempfile",
    "socket",
    "subprocess",
    "threading",
    "concurrent",
    "shutil",
    "time",
    "logging",
    "random",
    "secrets",
}


def modules() -> dict[str, Path]:
    """Every module of batch_fn, by its name without `batch_fn.`."""
    found = {}
    for path in sorted((PROJECT / "batch_fn").rglob("*.py")):
        name = ".".join(path.relative_to(PROJECT / "batch_fn").with_suffix("").parts)
        found[name] = path
    return found


MODULES = modules()
CODE = [name for name in MODULES if not name.endswith("__init__")]


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports: at its top, in a function, or for its types only."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=names):
                yield from (each.name for each in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                for each in names:
                    whole = f"{module}.{each.name}"
                    yield whole if whole.removeprefix("batch_fn.") in MODULES else module
            case ast.ImportFrom():
                raise AssertionError(f"{path.name}: imports are absolute here")


def ours(name: str) -> set[str]:
    return {each.removeprefix("batch_fn.") for each in imported(MODULES[name]) if each.startswith("batch_fn.")}


def room(module: str) -> str:
    return module.partition(".")[0]


@pytest.mark.parametrize("name", CODE)
def test_a_module_imports_only_what_its_package_may(name: str) -> None:
    allowed = MAY_IMPORT[room(name)] | {room(name), "runtime"}
    assert {each for each in ours(name) if room(each) not in allowed} == set()


@pytest.mark.parametrize("name", CODE)
def test_an_sdk_is_imported_only_where_it_belongs(name: str) -> None:
    for each in imported(MODULES[name]):
        for sdk, rooms in SDKS.items():
            if each == sdk or each.startswith(f"{sdk}."):
                assert room(name) in rooms, f"batch_fn.{name} imports {each}"
        assert each.partition(".")[0] not in {"azure", "azurefunctions"} or any(each.startswith(sdk) for sdk in SDKS)


@pytest.mark.parametrize("name", [each for each in CODE if room(each) in PURE])
def test_a_pure_module_imports_nothing_that_waits_or_writes(name: str) -> None:
    assert {each for each in imported(MODULES[name]) if each.partition(".")[0] in IMPURE} == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    sorter = graphlib.TopologicalSorter({name: ours(name) for name in CODE})
    sorter.prepare()  # raises CycleError, which names them


def test_only_the_entry_points_import_steps() -> None:
    assert {room(name) for name in CODE if any(room(each) == "steps" for each in ours(name))} == {"steps", "api", "cli"}


def test_only_the_entry_points_import_the_doctor() -> None:
    assert {room(name) for name in CODE if any(room(each) == "doctor" for each in ours(name))} == {
        "doctor",
        "api",
        "cli",
    }


@pytest.mark.parametrize("name", CODE)
def test_no_file_is_too_long_to_be_read_at_once(name: str) -> None:
    assert len(MODULES[name].read_text().splitlines()) <= LONGEST_FILE


def test_every_package_says_what_it_is_for() -> None:
    for name, path in MODULES.items():
        assert ast.get_docstring(ast.parse(path.read_text())), name


def test_only_validation_limits_the_bytes_of_a_line() -> None:
    """What was accepted once is read whatever its length: MAX_LINE_BYTES may be lowered at any time."""
    limited = {name for name, path in modules().items() if "max_line_bytes" in path.read_text()}
    assert {name for name in limited if not name.startswith("validation.")} == {"settings", "steps.intake"}
