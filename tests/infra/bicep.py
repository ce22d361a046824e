"""`make bicep`: compiles and lints every template, and compares what it makes with the snapshots of infra/snapshots.

A snapshot holds every resource that a set of parameters makes. The tests read the snapshots, so they need no compiler.
`make bicep WRITE=1` writes them anew: look at what changed, and commit it.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.infra.templates import FILES, INTERFACES, PROJECT, SNAPSHOTS

#: No subscription, no tenant: names that Azure would make unique come from these.
NOBODY = "00000000-0000-0000-0000-000000000000"
#: Where each template is deployed, as far as a snapshot must know.
PLACES = {"main": ["--location", "swedencentral"], "event-subscription": ["--resource-group", "the-group"]}
#: Sets of parameters in infra/snapshots/refused, each with what the refusal must name.
REFUSED = {
    "account-without-group": "(azd env set EXISTING_OPENAI_RESOURCE_GROUP <group>) is missing",
    "vault-without-group": "(azd env set KEY_VAULT_RESOURCE_GROUP <group>) is missing",
}


class NoCompilerError(Exception):
    """There is no bicep compiler where one is looked for."""

    def __init__(self, looked_for: str) -> None:
        super().__init__(
            f"{looked_for} is not there, and without a compiler the templates are not checked. Put bicep on the PATH, "
            "or set BICEP to where it is: az brings one (az bicep install), as does the NuGet package "
            "Azure.Bicep.CommandLine.linux-x64."
        )


def find_compiler() -> str:
    """Return the compiler: the setting BICEP, then the PATH."""
    looked_for = os.environ.get("BICEP") or "bicep"
    found = shutil.which(looked_for)
    if found is None:
        raise NoCompilerError(looked_for)
    return str(Path(found).absolute())


def run(compiler: str, *arguments: object) -> tuple[str, list[str]]:
    """Run bicep. Return what it wrote, and what it complains of: a warning is a complaint, an error as well."""
    # Without it the compiler wants the library libicu, and has no use for it.
    environment = os.environ | {"DOTNET_SYSTEM_GLOBALIZATION_INVARIANT": "1", "NO_COLOR": "1"}
    ended = subprocess.run(
        [compiler, *map(str, arguments)], cwd=PROJECT, env=environment, capture_output=True, text=True, check=False
    )
    complaints = [line.replace(f"{PROJECT}/", "") for line in ended.stderr.splitlines() if line.strip()]
    if ended.returncode != 0 and not complaints:
        complaints = [
            f"bicep {' '.join(map(str, arguments))} ended with {ended.returncode}",
            *ended.stdout.splitlines(),
        ]
    return ended.stdout, complaints


def interface(compiled: dict[str, Any]) -> dict[str, Any]:
    """Return what others must know of a template, and no snapshot tells."""
    given = compiled.get("parameters", {})
    return {
        "parameters": {name: each.get("defaultValue") for name, each in given.items()},
        "outputs": sorted(compiled.get("outputs", {})),
        "groups": sorted({each["resourceGroup"] for each in compiled["resources"] if "resourceGroup" in each}),
    }


def build(compiler: str) -> tuple[dict[str, Any], list[str]]:
    """Compile and lint every template. Return the interfaces of those that are deployed, and the complaints."""
    with tempfile.TemporaryDirectory() as folder:
        _, complaints = run(compiler, "build", "--pattern", "infra/**/*.bicep", "--outdir", folder)
        built = {path.stem: json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))}
    _, said = run(compiler, "lint", "--pattern", "infra/**/*.bicep")
    complaints += [line for line in said if line not in complaints]
    return {name: interface(compiled) for name, compiled in built.items()}, complaints


def evaluate(compiler: str, parameters: Path, mode: str) -> tuple[str, list[str]]:
    """Have the compiler work out what a set of parameters makes."""
    template = next(line.split("'")[1] for line in parameters.read_text().splitlines() if line.startswith("using "))
    known = ["--subscription-id", NOBODY, "--tenant-id", NOBODY, "--deployment-name", "snapshot"]
    known += PLACES[Path(template).stem]
    return run(compiler, "snapshot", parameters.relative_to(PROJECT), "--mode", mode, *known)


def compare(compiler: str, parameters: Path, *, write: bool) -> list[str]:
    """Compare the snapshot of a set of parameters with what is made now, or write it."""
    said, complaints = evaluate(compiler, parameters, "overwrite" if write else "validate")
    written = parameters.with_suffix(".snapshot.json")
    if write and not complaints:
        # The compiler writes the outputs in another order each time.
        made = json.loads(written.read_text())
        made["outputs"] = dict(sorted(made["outputs"].items()))
        written.write_text(json.dumps(made, indent=2) + "\n")
    elif complaints:
        complaints = [
            f"{written.relative_to(PROJECT)} is not what the templates make now",
            *complaints,
            *said.splitlines(),
        ]
    return complaints


def refuse(compiler: str, parameters: Path) -> list[str]:
    """See that a set of parameters is refused, and that the refusal names what is wrong."""
    _, refusal = evaluate(compiler, parameters, "overwrite")
    parameters.with_suffix(".snapshot.json").unlink(missing_ok=True)
    if any(REFUSED[parameters.stem] in line for line in refusal):
        return []
    return [f"{parameters.relative_to(PROJECT)}: not refused with '{REFUSED[parameters.stem]}'", *refusal]


def check(compiler: str, *, write: bool) -> list[str]:
    """Return every complaint."""
    interfaces, complaints = build(compiler)
    text = json.dumps(interfaces, indent=2) + "\n"
    if write:
        INTERFACES.write_text(text)
    elif not INTERFACES.is_file() or INTERFACES.read_text() != text:
        complaints.append(f"{INTERFACES.relative_to(PROJECT)} is not what the templates take and give now")
    for parameters in sorted(SNAPSHOTS.glob("*.bicepparam")):
        complaints += compare(compiler, parameters, write=write)
    for name in REFUSED:
        complaints += refuse(compiler, SNAPSHOTS / "refused" / f"{name}.bicepparam")
    return complaints


def main() -> int:
    """Check, print what is wrong, and return 1 if anything is."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--write", action="store_true", help="write the snapshots anew")
    write = arguments.parse_args().write
    try:
        complaints = check(find_compiler(), write=write)
    except NoCompilerError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if complaints:
        sys.stderr.write("\n".join([*complaints, "If the change is meant: make bicep WRITE=1, and commit it."]) + "\n")
        return 1
    sys.stdout.write(f"bicep: {len(FILES)} templates, {len(list(SNAPSHOTS.glob('*.bicepparam')))} snapshots\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
