"""Every setting: its default, what it takes, and the sentence for what it does not take."""

from dataclasses import fields
from typing import Any

import pytest

from batch_fn.settings import DAY, SettingError, Settings
from devkit.azurite import ACCOUNT_KEY

GIVEN = {"BatchStorage": "UseDevelopmentStorage=true", "AZURE_OPENAI_ENDPOINT": "https://mine.openai.azure.com"}
IDENTITY = {
    "BatchStorage__blobServiceUri": "https://mine.blob.core.windows.net",
    "BatchStorage__queueServiceUri": "https://mine.queue.core.windows.net",
    "BatchStorage__tableServiceUri": "https://mine.table.core.windows.net",
}
NAMES = {each.metadata["name"]: each.name for each in fields(Settings)}


def read(**changes: str) -> Settings:
    return Settings.read(GIVEN | changes)


def value(name: str, text: str) -> Any:
    """What the setting of that name holds, given as `text`."""
    return getattr(read(**{name: text}), NAMES[name])


def complaint(environment: dict[str, str]) -> str:
    with pytest.raises(SettingError) as caught:
        Settings.read(environment)
    return str(caught.value)


# Defaults


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("AZURE_OPENAI_API_KEY", None),
        ("AZURE_OPENAI_API_VERSION", "v1"),
        ("INPUT_CONTAINER", "batch-input"),
        ("OUTPUT_CONTAINER", "batch-output"),
        ("ERRORS_CONTAINER", "batch-errors"),
        ("REPORTS_CONTAINER", "batch-reports"),
        ("ARCHIVE_CONTAINER", "batch-archive"),
        ("WORK_CONTAINER", "batch-work"),
        ("DROP_QUEUE", "batch-drop"),
        ("SUBMIT_QUEUE", "batch-submit"),
        ("COLLECT_QUEUE", "batch-collect"),
        ("COMPLETED_QUEUE", "batch-completed"),
        ("JOBS_TABLE", "BatchJobs"),
        ("WORK_TABLE", "BatchWork"),
        ("DEPLOYMENTS_TABLE", "BatchDeployments"),
        ("DROP_SOURCE", "EventGrid"),
        ("TICK_SCHEDULE", "0 * * * * *"),
        ("TICK_SECONDS", 45),
        ("MIXED_FILES", "split"),
        ("SUBMIT_MODE", "upload"),
        ("BUNDLE_SECONDS", 30),
        ("BUNDLE_BYTES", 1_000_000),
        ("MAX_PART_BYTES", 0),
        ("MAX_PART_REQUESTS", 100_000),
        ("MAX_ATTEMPTS", 3),
        ("FILE_EXPIRY_SECONDS", 14 * DAY),
        ("DELETE_SERVICE_FILES", True),
        ("TOKEN_LIMITS", {}),
        ("PRICES", {}),
    ],
)
def test_what_holds_where_nothing_is_set(name: str, default: object) -> None:
    assert getattr(read(), NAMES[name]) == default


@pytest.mark.parametrize("name", sorted(NAMES.keys() - GIVEN.keys()))
def test_a_setting_that_is_empty_or_blank_is_not_set(name: str) -> None:
    assert read(**{name: ""}) == read()
    assert read(**{name: " \t"}) == read()


def test_the_environment_of_the_process_is_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {**GIVEN, "MAX_ATTEMPTS": "5"}.items():
        monkeypatch.setenv(name, text)
    assert Settings.read().max_attempts == 5


# Good values


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("INPUT_CONTAINER", " inbox ", "inbox"),
        ("AZURE_OPENAI_API_VERSION", "2024-10-21", "2024-10-21"),
        ("AZURE_OPENAI_API_KEY", " secret ", "secret"),
        ("MAX_ATTEMPTS", "1", 1),
        ("MAX_ATTEMPTS", " 99 ", 99),
        ("MAX_DROP_REQUESTS", "2_000_000", 2_000_000),
        ("SETTLE_SECONDS", "0", 0),
        ("FILE_EXPIRY_SECONDS", "0", 0),
        ("FILE_EXPIRY_SECONDS", "1209600", 14 * DAY),
        ("FILE_EXPIRY_SECONDS", "2592000", 30 * DAY),
        ("DELETE_SERVICE_FILES", "true", True),
        ("DELETE_SERVICE_FILES", "True", True),
        ("DELETE_SERVICE_FILES", "1", True),
        ("DELETE_SERVICE_FILES", "FALSE", False),
        ("DELETE_SERVICE_FILES", "0", False),
        ("ALLOWED_URLS", "/chat/completions", {"/chat/completions"}),
        ("ALLOWED_URLS", " /a , /b ,, /a", {"/a", "/b"}),
        ("DROP_SOURCE", "LogsAndContainerScan", "LogsAndContainerScan"),
        ("MIXED_FILES", "reject", "reject"),
        ("SUBMIT_MODE", "blob", "blob"),
        ("BUNDLE_SECONDS", "0", 0),
        ("BUNDLE_SECONDS", "3600", 3_600),
        ("PRICES", "batch=1.25/5, mini=0/0.3, ", {"batch": (1.25, 5.0), "mini": (0.0, 0.3)}),
        ("TOKEN_LIMITS", "batch=1000", {"batch": 1_000}),
        ("TOKEN_LIMITS", " batch = 1000 , mini=5000000000, ", {"batch": 1_000, "mini": 5_000_000_000}),
    ],
)
def test_what_a_setting_takes(name: str, text: str, expected: object) -> None:
    assert value(name, text) == expected


# Bad values

WHOLE = "a whole number of at least"


@pytest.mark.parametrize(
    ("name", "text", "takes"),
    [
        ("MAX_ATTEMPTS", "three", f"{WHOLE} 1 and at most 99"),
        ("MAX_ATTEMPTS", "0", f"{WHOLE} 1 and at most 99"),
        ("MAX_ATTEMPTS", "100", f"{WHOLE} 1 and at most 99"),
        ("MAX_ATTEMPTS", "2.5", f"{WHOLE} 1 and at most 99"),
        ("MAX_LINE_BYTES", "-1", f"{WHOLE} 1"),
        ("MAX_DROP_BYTES", "1GB", f"{WHOLE} 1"),
        ("SETTLE_SECONDS", "-1", f"{WHOLE} 0"),
        ("FILE_EXPIRY_SECONDS", "2592001", f"{WHOLE} 0 and at most 2592000"),
        ("DELETE_SERVICE_FILES", "yes", "true or false"),
        ("DELETE_SERVICE_FILES", "2", "true or false"),
        ("ALLOWED_URLS", ",", "a comma-separated list"),
        ("DROP_SOURCE", "Polling", "one of EventGrid, LogsAndContainerScan"),
        ("DROP_SOURCE", "eventgrid", "one of EventGrid, LogsAndContainerScan"),
        ("MIXED_FILES", "Split", "one of split, reject"),
        ("SUBMIT_MODE", "url", "one of upload, blob"),
        ("BUNDLE_SECONDS", "3601", f"{WHOLE} 0 and at most 3600"),
        ("TICK_SECONDS", "0", f"{WHOLE} 1"),
        ("PRICES", "a", "a comma-separated list of name=prompt/completion, the prices of a million tokens"),
        ("PRICES", "a=1", "a comma-separated list of name=prompt/completion, the prices of a million tokens"),
        ("PRICES", "=1/2", "a comma-separated list of name=prompt/completion, the prices of a million tokens"),
        ("PRICES", "a=1/-2", "a comma-separated list of name=prompt/completion, the prices of a million tokens"),
        ("PRICES", "a=nan/1", "a comma-separated list of name=prompt/completion, the prices of a million tokens"),
        ("PRICES", "a=1/2/3", "a comma-separated list of name=prompt/completion, the prices of a million tokens"),
        ("TOKEN_LIMITS", "batch", "a comma-separated list of name=tokens"),
        ("TOKEN_LIMITS", "batch=", "a comma-separated list of name=tokens"),
        ("TOKEN_LIMITS", "1000", "a comma-separated list of name=tokens"),
        ("TOKEN_LIMITS", "=1000", "a comma-separated list of name=tokens"),
        ("TOKEN_LIMITS", "batch=0", "a comma-separated list of name=tokens"),
        ("TOKEN_LIMITS", "batch=5B", "a comma-separated list of name=tokens"),
        ("TOKEN_LIMITS", "batch=1 mini=2", "a comma-separated list of name=tokens"),
    ],
)
def test_a_wrong_value_is_answered_with_the_setting_s_name_and_what_it_takes(name: str, text: str, takes: str) -> None:
    assert complaint({**GIVEN, name: text}) == f"The setting {name} is '{text}'; it takes {takes}."


@pytest.mark.parametrize("seconds", [1, 3_600, 14 * DAY - 1])
def test_an_expiry_that_the_service_would_not_take_is_answered_with_what_it_takes(seconds: int) -> None:
    said = complaint({**GIVEN, "FILE_EXPIRY_SECONDS": str(seconds)})
    assert said == (
        f"The setting FILE_EXPIRY_SECONDS is {seconds}; the service takes 1209600 (14 days) to 2592000 (30 days), "
        "or 0 for no expiry."
    )


# What no single setting can say


def test_storage_is_a_connection_string_or_all_three_uris_of_an_identity() -> None:
    endpoint = {"AZURE_OPENAI_ENDPOINT": GIVEN["AZURE_OPENAI_ENDPOINT"]}
    assert complaint(endpoint).startswith("The setting BatchStorage is missing: set it to a connection string, or set")
    for name in IDENTITY:
        two = {other: uri for other, uri in IDENTITY.items() if other != name}
        assert name in complaint(endpoint | two)
    settings = Settings.read(endpoint | IDENTITY)
    assert settings.storage is None
    assert [settings.storage_blob_uri, settings.storage_queue_uri, settings.storage_table_uri] == [*IDENTITY.values()]
    assert settings.storage_client_id == ""
    assert Settings.read(endpoint | IDENTITY | {"BatchStorage__clientId": "1234"}).storage_client_id == "1234"


@pytest.mark.parametrize("endpoint", ["", "mine.openai.azure.com", "ftp://mine.openai.azure.com"])
def test_an_endpoint_that_is_missing_or_no_url_is_said_at_start(endpoint: str) -> None:
    assert complaint(GIVEN | {"AZURE_OPENAI_ENDPOINT": endpoint}) == (
        "The setting AZURE_OPENAI_ENDPOINT is missing or no URL: set it to https://<resource>.openai.azure.com."
    )


@pytest.mark.parametrize(
    ("given", "most"),
    [
        ({}, 200_000_000),
        ({"SUBMIT_MODE": "upload"}, 200_000_000),
        ({"SUBMIT_MODE": "blob"}, 1_000_000_000),
        ({"MAX_PART_BYTES": "0", "SUBMIT_MODE": "blob"}, 1_000_000_000),
        ({"MAX_PART_BYTES": "50000000"}, 50_000_000),
        ({"MAX_PART_BYTES": "50000000", "SUBMIT_MODE": "blob"}, 50_000_000),
    ],
)
def test_a_part_has_what_the_service_takes_unless_it_is_told_otherwise(given: dict[str, str], most: int) -> None:
    assert read(**given).part_bytes == most


def test_a_line_has_to_fit_into_a_part() -> None:
    assert read(MAX_LINE_BYTES="1000", MAX_PART_BYTES="1000").part_bytes == 1_000
    assert read(MAX_LINE_BYTES="200000000").part_bytes == 200_000_000
    assert "MAX_LINE_BYTES is larger" in complaint(GIVEN | {"MAX_LINE_BYTES": "200000001"})
    said = complaint({**GIVEN, "MAX_LINE_BYTES": "1001", "MAX_PART_BYTES": "1000"})
    assert said == "The setting MAX_LINE_BYTES is larger than MAX_PART_BYTES: no part could hold such a line."


# Secrets, and what there is to provision


def test_no_secret_is_shown() -> None:
    settings = read(BatchStorage=f"AccountName=a;AccountKey={ACCOUNT_KEY}", AZURE_OPENAI_API_KEY="open-sesame")
    assert ACCOUNT_KEY in str(settings.storage)
    for shown in (repr(settings), str(settings), f"{settings}"):
        assert ACCOUNT_KEY not in shown
        assert "open-sesame" not in shown


def test_a_wrong_secret_is_not_repeated_in_the_error() -> None:
    said = complaint({"BatchStorage": f"AccountKey={ACCOUNT_KEY}", "AZURE_OPENAI_API_KEY": "open-sesame"})
    assert ACCOUNT_KEY not in said
    assert "open-sesame" not in said


@pytest.mark.parametrize("kind", ["container", "queue", "table"])
def test_every_container_queue_and_table_that_has_a_name_is_provisioned(kind: str) -> None:
    settings = read()
    named = {getattr(settings, field) for field in NAMES.values() if field.endswith(f"_{kind}")}
    assert named
    assert set(getattr(settings, f"{kind}s")) == named
