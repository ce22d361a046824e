"""`make scan`: checkov over infra/. It must find nothing, read every file, and need every skip that stands there."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.infra.templates import FILES, INFRA, PROJECT

SKIP = re.compile(r"checkov:skip=(\w+): \S")
DECLARED = re.compile(r"^resource \w+ '", re.MULTILINE)
#: Functions that checkov's parser does not know yet, each with one that it takes in their place. They make no resource.
STAND_INS = {"fail(": "string("}


def _complaints(scan: dict[str, Any]) -> list[str]:
    """Return what is wrong, a sentence each."""
    results, summary = scan["results"], scan["summary"]
    found = [
        f"{each['check_id']} {each['check_name']}: {each['file_path']} {each['resource']}"
        for each in results["failed_checks"]
    ]
    found += [f"checkov cannot read {path}" for path in results["parsing_errors"]]
    declared = sum(len(DECLARED.findall(path.read_text())) for path in FILES)
    if summary["resource_count"] < declared:
        found.append(f"checkov saw {summary['resource_count']} resources of {declared}: it did not read every file")
    if not summary["passed"]:
        found.append("checkov checked nothing")
    used = {(each["file_path"], each["check_id"]) for each in results["skipped_checks"]}
    for path in FILES:
        for line in path.read_text().splitlines():
            if "checkov:skip" not in line:
                continue
            place, said = "/" + path.relative_to(INFRA).as_posix(), SKIP.search(line)
            if said is None:
                found.append(f"{place}: a skip without its reason: {line.strip()}")
            elif (place, said[1]) not in used:
                found.append(f"{place}: the skip of {said[1]} is not needed")
    return found


def _scan(templates: Path) -> subprocess.CompletedProcess[str]:
    command = [str(PROJECT / ".checkov/bin/checkov"), "-d", str(templates), "--framework", "bicep", "--skip-download"]
    return subprocess.run([*command, "-o", "json"], capture_output=True, text=True, check=False)


def main() -> int:
    """Scan, print what is wrong, and return 1 if anything is."""
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(INFRA, Path(folder) / "infra")
        for path in copy.rglob("*.bicep"):
            text = path.read_text()
            for unknown, known in STAND_INS.items():
                text = text.replace(unknown, known)
            path.write_text(text)
        run = _scan(copy)
    if not run.stdout.startswith("{"):
        sys.stderr.write(f"checkov did not run\n{run.stdout}{run.stderr}")
        return 1
    scan = json.loads(run.stdout)
    complaints = _complaints(scan)
    summary = scan["summary"]
    counts = ", ".join(f"{summary[each]} {each}" for each in ("passed", "failed", "skipped"))
    sys.stdout.write("\n".join([*complaints, f"checkov {summary['checkov_version']}: {counts}"]) + "\n")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
