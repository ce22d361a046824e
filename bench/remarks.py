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

_IN_PLACE = (
    "In blob mode nearly all the time is intake's: beside the download, which takes 0.15 s of our processor time, "
    "checking takes 0.5 s, and the two overlap less than reading ahead should let them: probably for want of cores, "
    "with the emulator busy on one of two, and for Python's lock. The copy to the archive takes 4 ms: it is not that."
)

_MEMORY = (
    "32 MB of it are there after a first small job: the SDKs. The rest is what is held by the line, of a batch about "
    "155 bytes each on where answers lie, and three chunks of 1 or 2 MiB for each blob that is read or written."
)
_CALLS = (
    "Blobs are read and written in pieces of 1 or 2 MiB, to hold less, and each call costs about a millisecond of our "
    "processor time: with pieces of 4 MiB the same run came to {}, at 20 MB more."
)

REMARKS: dict[str, str] = {
    **dict.fromkeys(
        (
            "peak memory, 20 MB",
            "peak memory, 200 MB",
            "peak memory, 1000 MB",
            "peak memory, 200 MB, every line bad",
            "peak memory, 1000 MB in a single line",
        ),
        _MEMORY,
    ),
    "collection, 195 MB of results": _CALLS.format("1.5"),
    "drop to submitted, 198 MB, SUBMIT_MODE=upload": _CALLS.format("1.7"),
    "drop to submitted, 198 MB, SUBMIT_MODE=blob": _IN_PLACE,
} | {
    f"validating 198 MB, 100,000 lines, {kind}, beside {name}": _VALIDATION + _ACCENTED * (kind == "accented")
    for kind, names in _BESIDE.items()
    for name in names
}
