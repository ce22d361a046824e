"""Why an aim was missed, by figure: shown in RESULTS.md beside what it was missed by."""

REMARKS: dict[str, str] = {}
