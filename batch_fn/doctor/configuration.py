"""The settings: each parsed, those that contradict each other, and names that the app does not know."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import date

from batch_fn.core.checkup import Check, State
from batch_fn.settings import SettingError, Settings, parse_setting

SHORT_SETTLE_SECONDS = 60
SHORT_CLAIM_SECONDS = 120
MINUTE_SCHEDULE = "0 * * * * *"
LONG_TICK_SECONDS = 55
FIRST_WITH_EXPIRY = date(2025, 3, 1)
"""Source: reference, section Files: older versions ignore `expires_after`."""

OF_OTHERS = frozenset({"AZURE_OPENAI_AD_TOKEN"})
"""What looks like a setting of the app, and is read by somebody else; these with the templates' parameters."""

OF_TEMPLATES = ("AZURE_OPENAI_ACCOUNT_NAME", "AZURE_OPENAI_DEPLOYMENT_NAME")
OF_TRIGGERS = frozenset({"batchstorage__credential", "batchstorage__accountname"})
"""Parts of the connection BatchStorage that the Functions host reads."""


def check_settings(environment: Mapping[str, str]) -> Iterator[Check]:
    """Yield a check of the settings as a whole, and one for each that looks wrong."""
    wrong = dict(_unreadable(environment))
    for name, sentence in wrong.items():
        yield Check(f"settings: {name}", State.WRONG, sentence, "Correct it, and restart the app: it cannot start.")
    try:
        settings = Settings.read({name: value for name, value in environment.items() if name not in wrong})
    except SettingError as error:
        yield Check("settings", State.WRONG, str(error), "Correct it, and restart the app: it cannot start.")
        settings = None
    if settings is not None and not wrong:
        yield Check("settings", State.OK, "Every setting can be read.")
    yield from _unknown(environment)
    if settings is not None:
        yield from _contradictions(settings)


def names() -> dict[str, str]:
    """Return the name of each setting, by its lower-case form."""
    known = [str(each.metadata["name"]) for each in fields(Settings)]
    return {name.lower(): name for name in known}


def _unreadable(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield name and fault of each setting whose value it does not take."""
    for each in fields(Settings):
        name, given = each.metadata["name"], environment.get(each.metadata["name"], "").strip()
        if given:
            try:
                parse_setting(name, each.metadata["parse"], given)
            except SettingError as error:
                yield name, str(error)


def _unknown(environment: Mapping[str, str]) -> Iterator[Check]:
    """Yield a check for each variable that looks like a setting, and is none: a typing error."""
    known = names()
    for name in sorted(environment):
        lower = name.lower()
        if lower in known:
            if name != known[lower]:
                sentence = f"The app reads {known[lower]}, and this is spelled {name}."
                yield Check(f"settings: {name}", State.WARNING, sentence, f"Rename it to {known[lower]}.")
            continue
        if lower in OF_TRIGGERS or name in OF_OTHERS or name in OF_TEMPLATES:
            continue
        near = difflib.get_close_matches(lower, known, n=1, cutoff=0.85)
        if near or name.startswith("AZURE_OPENAI_") or lower.startswith("batchstorage"):
            cure = f"Did you mean {known[near[0]]}?" if near else "Remove it, or correct its name (docs/settings.md)."
            yield Check(f"settings: {name}", State.WARNING, f"The app has no setting {name}.", cure)


def _contradictions(settings: Settings) -> Iterator[Check]:
    """Yield a check for each value that works, but weakens a promise or is not what was meant."""
    for name, saw, cure in _weak(settings):
        yield Check(f"settings: {name}", State.WARNING, saw, cure)


def _weak(settings: Settings) -> Iterator[tuple[str, str, str]]:
    if settings.settle_seconds < SHORT_SETTLE_SECONDS:
        saw = f"A create without an answer counts as lost after {settings.settle_seconds} seconds, which is soon."
        yield "SETTLE_SECONDS", saw, "Set SETTLE_SECONDS to 300, or lines may be paid for twice."
    if settings.claim_seconds < SHORT_CLAIM_SECONDS:
        saw = f"A part may be taken over after {settings.claim_seconds} seconds, and an upload of 200 MB takes longer."
        yield "CLAIM_SECONDS", saw, "Set CLAIM_SECONDS to 900."
    if settings.tick_schedule == MINUTE_SCHEDULE and settings.tick_seconds > LONG_TICK_SECONDS:
        saw = f"A tick may take {settings.tick_seconds} seconds, and the next one is due after 60."
        yield "TICK_SECONDS", saw, "Set TICK_SECONDS to 45."
    if settings.file_expiry_seconds and not _has_expiry(settings.openai_api_version):
        saw = (
            f"API version {settings.openai_api_version} ignores the expiry of files, so the resource holds 500 of them."
        )
        yield "AZURE_OPENAI_API_VERSION", saw, "Set AZURE_OPENAI_API_VERSION to v1."
    if settings.submit_mode == "upload" and settings.max_part_bytes > 200_000_000:
        saw = f"A part may have {settings.max_part_bytes:,} bytes, and the service takes uploads of 200 MB."
        yield "MAX_PART_BYTES", saw, "Set MAX_PART_BYTES to 0, or SUBMIT_MODE to blob."
    if settings.openai_api_key and settings.openai_endpoint.startswith("http://") and not _is_local(settings):
        saw = "The key goes over the network in plain text."
        yield "AZURE_OPENAI_ENDPOINT", saw, "Let the address begin with https://."
    if settings.storage and any((settings.storage_blob_uri, settings.storage_queue_uri, settings.storage_table_uri)):
        saw = "A connection string and service addresses are set, and the app uses the connection string."
        yield "BatchStorage", saw, "Remove one of the two."


def _has_expiry(version: str) -> bool:
    try:
        return version == "v1" or date.fromisoformat(version[:10]) >= FIRST_WITH_EXPIRY
    except ValueError:
        return True  # not a version that is known here


def _is_local(settings: Settings) -> bool:
    return settings.openai_endpoint.startswith(("http://127.0.0.1", "http://localhost"))
