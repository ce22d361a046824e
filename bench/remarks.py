"""Why an aim was missed, by figure: shown in RESULTS.md beside what it was missed by."""

_VALIDATION = (
    "Of some 2.9 µs that a plain line takes, 0.4 go into reading and cutting the file, 1.1 into the pattern of the "
    "lines' shape, which looks at each byte, 1.0 into msgspec's look at the strings, which looks at each again, and "
    "0.3 into the custom_ids. pysimdjson parses a line in 1.5 with instructions for many bytes at once, which neither "
    "Python's `re` nor msgspec makes use of: what is left is a scanner of our own in C."
)
_ESCAPED = " Where there are backslashes, the pattern has to look at those before each quote: 1 µs more."
_ACCENTED = " Outside ASCII, UTF-8 has to be decoded, since msgspec does not look at it: 2.4 µs more."

_IN_PLACE = (
    "In blob mode nearly all the time is intake's: it reads the drop in pieces of 2 MiB, at about the pace of the "
    "download alone, and checks them in 0.3 s of processor time, which would fit beside the download if the emulator "
    "of storage did not keep one of the two cores busy. The copy to the archive takes 4 ms: it is not that."
)

_MEMORY = (
    "32 MB of it are there after a first small job: the SDKs, of which openai alone takes 18. The rest is custom_ids, "
    "about 100 bytes a line up to 100,000 lines, and pieces of 2 MiB of each blob that is read or written."
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
    "drop to submitted, 198 MB, SUBMIT_MODE=blob": _IN_PLACE,
    "validating 198 MB, 100,000 lines, plain, beside pysimdjson": _VALIDATION,
    "validating 198 MB, 100,000 lines, escaped, beside pysimdjson": _VALIDATION + _ESCAPED,
    "validating 198 MB, 100,000 lines, escaped, beside msgspec": _VALIDATION + _ESCAPED,
    "validating 198 MB, 100,000 lines, accented, beside pysimdjson": _VALIDATION + _ACCENTED,
}
