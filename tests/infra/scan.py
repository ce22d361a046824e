"""`make scan`: checkov over infra/. It must find nothing, read every file, and need every skip that stands there."""

import json
import re
import subprocess
import sys
from typing import Any

from tests.infra.templates import FILES, INFRA, PROJECT, template

SKIP = re.compile(r"checkov:skip=(\w+): \S")


def _complaints(scan: dict[str, Any]) -> list[str]:
    """Return what is wrong, a sentence each."""
    results, summary = scan["results"], scan["summary"]
    found = [
        f"{each['check_id']} {each['check_name']}: {each['file_path']} {each['resource']}"
        for each in results["failed_checks"]
    ]
    found += [f"checkov cannot read {path}" for path in results["parsing_errors"]]
    declared = sum(len(template(path).get("resources", {})) for path in FILES)
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


def main() -> int:
    """Scan, print what is wrong, and return 1 if anything is."""
    checkov = PROJECT / ".checkov/bin/checkov"
    command = [str(checkov), "-d", str(INFRA), "--framework", "bicep", "--skip-download", "-o", "json"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
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
