"""`make drop FILE=my.jsonl`: send a file to the stack of `make run`, and follow it to its results on disk."""

import argparse
import sys
from pathlib import Path

from azure.core.exceptions import AzureError

from batch_fn.app import App
from batch_fn.settings import Settings
from devkit.follow import Follower, Report, findings_table, open_console, save, show_files
from devkit.run_file import NotRunningError, find
from devkit.user import User

OUT = Path(__file__).parents[1] / "out"


def main() -> int:
    """Drop the file that the command line names. Return 0 if every request succeeded, else 1."""
    arguments = _read_arguments()
    try:
        return 0 if _drop(arguments.file, arguments.deployment, arguments.out)["status"] == "succeeded" else 1
    except (NotRunningError, OSError) as error:
        print(error, file=sys.stderr)
    except AzureError as error:
        print(f"The storage of `make run` does not answer: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("Not followed any more; the job goes on.", file=sys.stderr)
    return 1


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make drop", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="a JSONL file, one request on each line")
    parser.add_argument("--deployment", metavar="NAME", help="fills in the model of lines that have none")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="where the results go, out/ if not given")
    return parser.parse_args()


def _drop(file: Path, deployment: str | None, out: Path) -> Report:
    """Drop the file, follow it, bring its results to disk. Return its report."""
    console = open_console()
    settings = Settings.read(find().environment)
    user = User(settings.storage or "", settings)
    with file.open("rb") as content:
        path = user.drop(file.name, content, deployment=deployment)
    console.print(f"Dropped {file} as {settings.input_container}/{file.name}", markup=False, soft_wrap=True)
    follower = Follower(user, App(settings).ledger, console)
    report = follower.follow({path: file.name}, still_there=find)[path]
    if report["findings"]:
        console.print(findings_table(report))
    show_files(console, save(user, settings, path, report, out))
    return report


if __name__ == "__main__":
    sys.exit(main())
