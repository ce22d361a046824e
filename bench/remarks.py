"""Why an aim was missed, by figure: shown in RESULTS.md beside what it was missed by."""

_VALIDATION = (
    "Of some 3.6 µs that a plain line takes, 1.0 go into reading and cutting it, 0.5 into msgspec's look at its "
    "strings, 1.0 into the pattern of its shape, 0.3 into its custom_id, and the rest into the steps of Python between "
    "them: that is more than the 1.3 µs in which pysimdjson parses a line, and than the 2.1 of msgspec and orjson. "
    "A pattern that goes over a whole chunk, without cutting lines, was tried apart: 2.7 µs, not enough either."
)
_ACCENTED = (
    " Of a line with characters outside ASCII, decoding takes another 2.3 µs: msgspec's skipping leaves out UTF-8."
)

_BESIDE = {"plain": ("pysimdjson", "msgspec", "orjson", "pyarrow", "duckdb"), "escaped": ("pysimdjson", "msgspec")}
_BESIDE["accented"] = _BESIDE["escaped"]

REMARKS: dict[str, str] = {
    f"validating 198 MB, 100,000 lines, {kind}, beside {name}": _VALIDATION + _ACCENTED * (kind == "accented")
    for kind, names in _BESIDE.items()
    for name in names
}
