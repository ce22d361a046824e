"""`python -m batch_fn`: the command line."""

import sys

from batch_fn.cli import doctor  # noqa: F401 - a command, which registers itself
from batch_fn.cli.commands import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
