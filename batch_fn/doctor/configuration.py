"""The settings: each parsed, those that contradict each other, and names that the app does not know."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import fields

from batch_fn.core.checkup import Check, State
from batch_fn.settings import DAY, SettingError, Settings

KNOWN_PREFIXES = ("AZURE_OPENAI_", "BatchStorage")
SHORT_SETTLE_SECONDS = 60
SHORT_CLAIM_SECONDS = 120
LONG_TICK_SECONDS = 55


def check_settings(environment: Mapping[str, str]) -> Iterator[Check]:
    """Yield a check of the settings as a whole, and one for each that looks wrong."""
    try:
        settings = Settings.read(environment)
    except SettingError as error:
        yield Check("settings", State.WRONG, str(error), "Set it, and restart the app.")
        return
    found = [*_unknown(environment), *_contradictions(settings)]
    yield Check("settings", State.OK, "Every setting can be read.")
    yield from found


def names() -> dict[str, str]:
    """Return the name of each setting, by its lower-case form."""
    known = [str(each.metadata["name"]) for each in fields(Settings)]
    return {name.lower(): name for name in known}


def _unknown(environment: Mapping[str, str]) -> Iterator[Check]:
    """Yield a check for each variable that looks like a setting, and is none: a typing error."""
    known = names()
    for name in sorted(environment):
        if name.lower() in known:
            if name != known[name.lower()]:
                sentence = f"The setting is spelled {name}, and the app reads {known[name.lower()]}."
                yield Check(f"settings: {name}", State.WARNING, sentence, f"Rename it to {known[name.lower()]}.")
            continue
        near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.85)
        if near or (name.startswith("AZURE_OPENAI_") and name not in _OF_OTHERS):
            cure = f"Did you mean {known[near[0]]}?" if near else "Remove it, or correct its name (docs/settings.md)."
            yield Check(f"settings: {name}", State.WARNING, f"The app has no setting {name}.", cure)


_OF_OTHERS = frozenset({"AZURE_OPENAI_AD_TOKEN"})  # read by the openai package itself


def _contradictions(settings: Settings) -> Iterator[Check]:
    """Yield a check for each combination that works, but weakens a promise or is not what was meant."""
    if settings.settle_seconds < SHORT_SETTLE_SECONDS:
        yield Check(
            "settings: SETTLE_SECONDS",
            State.WARNING,
            f"A lost create is believed lost after {settings.settle_seconds} seconds: the service may list it later.",
            "Set SETTLE_SECONDS to 300, or lines may be paid for twice.",
        )
    if settings.claim_seconds < SHORT_CLAIM_SECONDS:
        yield Check(
            "settings: CLAIM_SECONDS",
            State.WARNING,
            f"A part may be taken over after {settings.claim_seconds} seconds: an upload of 200 MB takes longer.",
            "Set CLAIM_SECONDS to 900.",
        )
    if settings.tick_seconds > LONG_TICK_SECONDS and settings.tick_schedule == "0 * * * * *":
        yield Check(
            "settings: TICK_SECONDS",
            State.WARNING,
            f"A tick may take {settings.tick_seconds} seconds, and the next one is due after 60.",
            "Set TICK_SECONDS to 45.",
        )
    if (
        settings.openai_api_version != "v1"
        and settings.openai_api_version < "2025-03-01"
        and settings.file_expiry_seconds
    ):
        yield Check(
            "settings: FILE_EXPIRY_SECONDS",
            State.WARNING,
            f"API version {settings.openai_api_version} ignores the expiry of files: the resource holds 500 of them.",
            "Set AZURE_OPENAI_API_VERSION to v1.",
        )
    if 0 < settings.file_expiry_seconds < 2 * DAY:
        yield Check(
            "settings: FILE_EXPIRY_SECONDS",
            State.WARNING,
            "Files may expire before their batch ends.",
            "Set it to 1209600.",
        )
