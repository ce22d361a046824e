"""What a figure comes to: rows of the one table, and details below it. Pure."""

import msgspec


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table, its cells as they are shown."""

    figure: str
    ours: str
    compared: str = "-"
    """With what, and what that came to."""
    ratio: str = "-"
    aim: str = "-"
    met: bool | None = None
    """None: there is no aim, it is for information."""
    short: str = ""
    """By how much the aim was missed."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What one figure came to."""

    rows: list[Row]
    details: list[str] = []
    """Lines of Markdown that stand below the table."""


_HEAD = ["figure", "ours", "compared with (same run)", "ratio", "aim", "met"]


def at_most(figure: str, value: float, limit: float, **cells: str) -> Row:
    """Return the row of a figure that is to be at most `limit`, which `cells` describes."""
    short = "" if value <= limit else f"{value:.3g} is {_over(value - limit, limit)} over {limit:g}"
    return Row(figure=figure, met=value <= limit, short=short, aim=cells.pop("aim", f"<= {limit:g}"), **cells)


def at_least(figure: str, value: float, limit: float, **cells: str) -> Row:
    """Return the row of a figure that is to be at least `limit`."""
    short = "" if value >= limit else f"{value:.3g} is {_over(limit - value, limit)} under {limit:g}"
    return Row(figure=figure, met=value >= limit, short=short, aim=cells.pop("aim", f">= {limit:g}"), **cells)


def _over(difference: float, limit: float) -> str:
    return f"{difference / limit:.0%}"


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table that can be read as it stands, too."""
    cells = [_HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEAD))]
    lines = [_line(line, widths) for line in cells]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _cells(row: Row) -> list[str]:
    met = {True: "met", False: "MISSED", None: ""}[row.met]
    return [row.figure, row.ours, row.compared, row.ratio, row.aim, met]


def _line(cells: list[str], widths: list[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"


def document(results: list[Result], conditions: list[str], remarks: dict[str, str]) -> str:
    """Return RESULTS.md: the table, the conditions, what was missed and why, and the details."""
    rows = [row for result in results for row in result.rows]
    parts = [
        "# Benchmark",
        "Written by `make bench`. Medians of interleaved rounds; a ratio is the median of the rounds' own.",
    ]
    parts += [table(rows)]
    parts += ["## Conditions", "\n".join(f"- {line}" for line in conditions)]
    parts += ["## Missed", "\n".join(_missed(rows, remarks)) or "None."]
    details = ["\n".join(result.details) for result in results if result.details]
    if details:
        parts += ["## Details", *details]
    return "\n\n".join(parts) + "\n"


def _missed(rows: list[Row], remarks: dict[str, str]) -> list[str]:
    return [
        f"- **{row.figure}**: {row.short or row.ours}. {remarks.get(row.figure, 'Why: not looked into yet.')}"
        for row in rows
        if row.met is False
    ]
