"""`make drop FILE=my.jsonl`: the command line's `drop`, with the settings of the stack that `make run` keeps up."""

import os
import sys
from pathlib import Path

from batch_fn.cli.commands import main
from devkit.run_file import NotRunningError, find

OUT = Path(__file__).parents[1] / "out"


if __name__ == "__main__":
    try:
        os.environ |= find().environment
    except NotRunningError as error:
        sys.exit(str(error))
    sys.exit(main(["drop", "--out", os.path.relpath(OUT), *sys.argv[1:]]))
