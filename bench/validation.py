"""Validating a drop, all checks on, beside libraries that only parse the same file. One core, processor time."""

import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from batch_fn.settings import Settings
from batch_fn.storage.blob_streams import CHUNK_BYTES
from batch_fn.validation.check import validate_blocks
from batch_fn.validation.findings import Finding
from batch_fn.validation.requests import Rules
from bench.data import ACCENTED, ESCAPED, PLAIN, write_drop
from bench.measuring import MB, Rounds, Sizes, cpu_took, interleaved
from bench.results import Result, Row, at_least

YARDSTICKS = Path(__file__).parents[1] / ".bench" / "packages"

HOW = {
    "pysimdjson": "one Parser, parse(line) for each line, and nothing taken out of the document",
    "msgspec": "one Decoder, decode(line) for each line",
    "orjson": "loads(line) for each line",
    "pyarrow": "json.read_json, use_threads=False, blocks of 4 MiB",
    "polars": "read_ndjson, POLARS_MAX_THREADS=1",
    "duckdb": "create table as select from read_json, in memory, threads = 1",
}
"""What each yardstick does with the file. Lines are those of Python's own binary file."""


def run(sizes: Sizes, folder: Path) -> Result:
    """Measure."""
    _one_core()
    size = sizes.of(200 * MB, 20 * MB)
    rows: list[Row] = []
    details = [f"- Validation: {name} is {how}." for name, how in HOW.items()]
    for kind in (PLAIN, ESCAPED, ACCENTED):
        path = folder / f"{kind}.jsonl"
        count = write_drop(path, size, kind)
        ways = _ways(path) if kind == PLAIN else {name: _ways(path)[name] for name in ("ours", "pysimdjson", "msgspec")}
        for name, way in ways.items():  # once before it counts; and each has seen every line
            seen = way()
            assert seen == count, f"{name} saw {seen} of {count} lines"  # noqa: S101
        measured = interleaved(sizes.of(5, 3), {name: partial(cpu_took, way) for name, way in ways.items()})
        rows += _rows(measured, kind, path.stat().st_size, count)
        path.unlink()
    return Result(rows=rows, details=[*details, ""])


def _one_core() -> None:
    """Keep this process on one core, and let the libraries make no threads of their own."""
    os.environ["POLARS_MAX_THREADS"] = "1"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    sys.path.append(str(YARDSTICKS))


def _rows(measured: Rounds, kind: str, size: int, count: int) -> Iterator[Row]:
    ours = f"{size / MB / measured.median('ours'):.0f} MB/s, {measured.median('ours'):.2f} s"
    for name in measured.seconds:
        if name == "ours":
            continue
        speed = measured.ratio(name, to="ours")
        figure = f"validating {size / MB:.0f} MB, {count:,} lines, {kind}, beside {name}"
        compared = f"{name}: {size / MB / measured.median(name):.0f} MB/s"
        limit = 0.85 if name == "pysimdjson" else 1.0
        yield at_least(figure, speed, limit, ours=ours, compared=compared, ratio=f"{speed:.2f} of its speed")


def _ways(path: Path) -> dict[str, Callable[[], int]]:
    return {
        "ours": partial(_ours, path),
        "pysimdjson": partial(_pysimdjson, path),
        "msgspec": partial(_msgspec, path),
        "orjson": partial(_orjson, path),
        "pyarrow": partial(_pyarrow, path),
        "polars": partial(_polars, path),
        "duckdb": partial(_duckdb, path),
    }


def _ours(path: Path) -> int:
    """Check as intake does, with the settings' own defaults."""
    settings = Settings()
    rules = Rules(
        allowed_urls=settings.allowed_urls,
        max_line_bytes=settings.max_line_bytes,
        max_requests=settings.max_drop_requests,
        mixed=settings.mixed_files == "split",
    )
    count = 0
    with path.open("rb") as file:
        for each in validate_blocks(iter(partial(file.read, CHUNK_BYTES), b""), rules):
            count += 0 if isinstance(each, Finding) else each.requests
    return count


def _pysimdjson(path: Path) -> int:
    import simdjson  # type: ignore[import-not-found]

    parser = simdjson.Parser()
    return _each_line(path, parser.parse)


def _msgspec(path: Path) -> int:
    import msgspec

    return _each_line(path, msgspec.json.Decoder().decode)


def _orjson(path: Path) -> int:
    import orjson  # type: ignore[import-not-found, unused-ignore]

    return _each_line(path, orjson.loads)


def _each_line(path: Path, parse: Callable[[bytes], Any]) -> int:
    count = 0
    with path.open("rb") as file:
        for line in file:
            parse(line)
            count += 1
    return count


def _pyarrow(path: Path) -> int:
    from pyarrow import json  # type: ignore[import-not-found]

    options = json.ReadOptions(use_threads=False, block_size=CHUNK_BYTES)
    return int(json.read_json(path, read_options=options).num_rows)


def _polars(path: Path) -> int:
    import polars  # type: ignore[import-not-found]

    return int(polars.read_ndjson(path).height)


def _duckdb(path: Path) -> int:
    import duckdb  # type: ignore[import-not-found]

    with duckdb.connect(":memory:", config={"threads": 1}) as database:
        query = "CREATE TABLE lines AS SELECT * FROM read_json(?, format = 'newline_delimited')"
        database.execute(query, [str(path)])
        return int(database.execute("SELECT count(*) FROM lines").fetchone()[0])
