"""`python -m bench [--quick] [--only NAME]`: measure, print one table, and write it with the conditions to a file."""

import argparse
import multiprocessing
import shutil
import sys
import tempfile
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from bench.conditions import conditions
from bench.figures import FIGURES, measure
from bench.measuring import Sizes
from bench.remarks import REMARKS
from bench.results import Result, Row, document, table

PROJECT = Path(__file__).parents[1]
SCRATCH = PROJECT / ".bench"
RESULTS = PROJECT / "bench" / "RESULTS.md"


def _measured(name: str, sizes: Sizes) -> Result:
    """Return what a figure came to; a row that says so, if it failed: the others are to be measured all the same."""
    _say(f"{time.strftime('%H:%M:%S')}  {name} ...")
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=SCRATCH))
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            result = pool.submit(measure, name, sizes, folder).result()
    except Exception as error:  # noqa: BLE001 - whatever it was, it is said in the table
        traceback.print_exc()
        return Result(rows=[Row(figure=name, ours=f"not measured: {type(error).__name__}", met=False)])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _say(table(result.rows) + "\n")
    return result


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds, to see that it works")
    parser.add_argument("--only", action="append", choices=FIGURES, help="this figure; may be given again")
    asked = parser.parse_args()
    SCRATCH.mkdir(exist_ok=True)
    whole = not asked.quick and not asked.only
    begun = conditions(quick=asked.quick)
    start = time.monotonic()
    results = [_measured(name, Sizes(asked.quick)) for name in asked.only or FIGURES]
    begun.append(f"took {(time.monotonic() - start) / 60:.0f} minutes")
    # A run of a part, or of small sizes, does not take the place of a whole one.
    target = RESULTS if whole else SCRATCH / "RESULTS.md"
    target.write_text(document(results, begun, REMARKS))
    _say(table([row for result in results for row in result.rows]))
    _say("\n" + "\n".join(begun) + f"\nWritten to {target.relative_to(PROJECT)}.")


if __name__ == "__main__":
    main()
