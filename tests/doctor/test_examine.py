"""Everything that the doctor can say is provoked: on Azurite and the emulator, with the app's own clients."""

import base64
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.data.tables import TableServiceClient
from azure.storage.blob import BlobServiceClient
from azure.storage.queue import QueueServiceClient
from openai import OpenAI

from batch_fn.app import App
from batch_fn.core.checkup import Check, State, troubles
from batch_fn.doctor import host
from batch_fn.doctor.examine import examine
from batch_fn.doctor.storage import EVENTS, check_storage
from batch_fn.runtime import clock
from batch_fn.settings import Settings
from devkit.azure_openai.process import AzureOpenAI
from devkit.azurite import Azurite
from devkit.stack import provision
from tests.conftest import a_part

DAY = timedelta(days=1)


class Patient:
    """An app with storage and service of its own names, and the environment that it reads."""

    def __init__(self, azurite: Azurite, service: AzureOpenAI) -> None:
        own = uuid.uuid4().hex[:8]
        kinds = {
            "CONTAINER": ("INPUT", "OUTPUT", "ERRORS", "REPORTS", "ARCHIVE", "WORK"),
            "QUEUE": ("DROP", "SUBMIT", "COLLECT", "COMPLETED", "DOCTOR"),
            "TABLE": ("JOBS", "DEPLOYMENTS", "WORK"),
        }
        self.environment = {f"{each}_{kind}": f"{each.lower()}{own}" for kind, names in kinds.items() for each in names}
        self.environment |= {
            "BatchStorage": azurite.connection_string,
            "AZURE_OPENAI_ENDPOINT": service.url,
            "AZURE_OPENAI_API_KEY": service.api_key,
            **service.management,
        }
        self.blobs = BlobServiceClient.from_connection_string(azurite.connection_string)
        self.queues = QueueServiceClient.from_connection_string(azurite.connection_string)
        self.tables = TableServiceClient.from_connection_string(azurite.connection_string)
        provision(azurite.connection_string, self.settings)
        self.app.tables.record_tick(clock.now())

    @property
    def settings(self) -> Settings:
        return Settings.read(self.environment)

    @property
    def app(self) -> App:
        return App(self.settings, signed_in=True)

    def examined(self, **how: Any) -> dict[str, Check]:
        """Return the checks by their names; nobody runs the app here, so events are not waited for."""
        checks = [*examine(self.app, self.environment, **{"event_seconds": 0, **how})]
        assert len({check.name for check in checks}) == len(checks)
        for check in checks:
            assert bool(check.cure) == (check.state is not State.OK), check
            assert check.saw.endswith("."), check
            assert "AccountKey=" not in check.saw
        return {check.name: check for check in checks}

    def found(self, **how: Any) -> dict[str, Check]:
        """Return the checks that somebody should act upon, but for events and that nobody runs the app."""
        return {check.name: check for check in troubles(self.examined(**how).values()) if check.name != EVENTS}


@pytest.fixture
def patient(azurite: Azurite, service: AzureOpenAI, monkeypatch: pytest.MonkeyPatch) -> Patient:
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    made = Patient(azurite, service)
    for name in ("IDENTITY_ENDPOINT", "IDENTITY_HEADER"):  # azure.identity reads the process's environment
        monkeypatch.setenv(name, made.environment[name])
    return made


def left_behind(patient: Patient) -> list[str]:
    """Return what is in containers, queues and tables, but for the row of the tick."""
    found = [f"{name}/{blob.name}" for name in patient.settings.containers for blob in _blobs(patient, name)]
    for name in patient.settings.queues:
        count = patient.queues.get_queue_client(name).get_queue_properties().approximate_message_count
        found += [name] * (count or 0)
    for name in patient.settings.tables:
        rows = patient.tables.get_table_client(name).list_entities()
        found += [f"{name}/{row['PartitionKey']}" for row in rows if row["PartitionKey"] != "tick"]
    return found


def _blobs(patient: Patient, container: str) -> Iterator[Any]:
    return iter(patient.blobs.get_container_client(container).list_blobs())


def test_an_app_that_is_well_is_found_well_and_nothing_is_left_behind(patient: Patient, service: AzureOpenAI) -> None:
    checks = patient.examined()
    assert {check.state for name, check in checks.items() if name != EVENTS} == {State.OK}
    for each in (*patient.settings.containers, *patient.settings.queues, *patient.settings.tables):
        assert any(each in name for name in checks)
    assert left_behind(patient) == []
    assert service.files() == []
    assert service.batches() == []


def test_what_only_reads_writes_nothing_anywhere(patient: Patient, service: AzureOpenAI) -> None:
    assert patient.found(changing=False) == {}
    assert left_behind(patient) == []
    assert {request.partition(" ")[0] for request in service.requests()} == {"GET"}


def test_an_event_that_comes_is_seen_and_one_that_does_not_is_told(patient: Patient) -> None:
    missed = patient.examined(event_seconds=0.2)[EVENTS]
    assert (missed.state, "azd hooks run postdeploy" in missed.cure) == (State.WARNING, True)
    patient.environment["DROP_SOURCE"] = "LogsAndContainerScan"
    assert "azd" not in patient.examined(event_seconds=0.2)[EVENTS].cure
    assert left_behind(patient) == []


# Settings


@pytest.mark.parametrize(
    ("name", "value", "about", "words"),
    [
        ("AZURE_OPENAI_ENDPONT", "x", "AZURE_OPENAI_ENDPONT", "Did you mean AZURE_OPENAI_ENDPOINT?"),
        ("MAX_ATTEMPT", "2", "MAX_ATTEMPT", "Did you mean MAX_ATTEMPTS?"),
        ("AZURE_OPENAI_MODEL", "x", "AZURE_OPENAI_MODEL", "docs/settings.md"),
        ("max_attempts", "2", "max_attempts", "Rename it to MAX_ATTEMPTS"),
        ("SETTLE_SECONDS", "1", "SETTLE_SECONDS", "paid for twice"),
        ("CLAIM_SECONDS", "1", "CLAIM_SECONDS", "900"),
        ("TICK_SECONDS", "59", "TICK_SECONDS", "45"),
        ("MAX_PART_BYTES", "900000000", "MAX_PART_BYTES", "blob"),
        ("BatchStorage__blobServiceUri", "https://x", "BatchStorage", "Remove one"),
    ],
)
def test_a_setting_that_is_odd_is_told(patient: Patient, name: str, value: str, about: str, words: str) -> None:
    patient.environment[name] = value
    found = patient.found(changing=False)
    assert found.keys() == {f"settings: {about}"}
    assert words in found[f"settings: {about}"].cure


def test_the_templates_own_settings_are_no_typing_errors(patient: Patient) -> None:
    patient.environment |= {"BatchStorage__credential": "managedidentity", "AZURE_CLIENT_ID": "x"}
    assert patient.found(changing=False) == {}


# Storage


def test_what_is_missing_in_storage_is_named_each_on_its_own(patient: Patient) -> None:
    patient.blobs.delete_container(patient.settings.errors_container)
    patient.queues.delete_queue(patient.settings.submit_queue)
    patient.tables.delete_table(patient.settings.jobs_table)
    for changing in (True, False):
        found = patient.found(changing=changing)
        assert found.keys() == {
            f"storage: container {patient.settings.errors_container}",
            f"storage: queue {patient.settings.submit_queue}",
            f"storage: table {patient.settings.jobs_table}",
        }
        assert {check.state for check in found.values()} == {State.WRONG}
        assert all("does not exist" in check.saw for check in found.values())


def test_without_the_inbox_the_rest_is_looked_at_all_the_same(patient: Patient) -> None:
    patient.blobs.delete_container(patient.settings.input_container)
    checks = patient.examined()
    assert checks[f"storage: container {patient.settings.input_container}"].state is State.WRONG
    assert checks["storage: copy to the archive"].state is State.WRONG
    assert checks[EVENTS].state is State.WRONG
    assert checks["service: access"].state is State.OK
    assert left_behind_rows(patient) == []


def left_behind_rows(patient: Patient) -> list[str]:
    rows = patient.tables.get_table_client(patient.settings.deployments_table).list_entities()
    return [row["PartitionKey"] for row in rows if row["PartitionKey"] != "tick"]


def test_a_wrong_storage_key_is_told_from_a_missing_role(patient: Patient) -> None:
    key = base64.b64encode(b"wrong").decode()
    parts = dict(each.split("=", 1) for each in patient.environment["BatchStorage"].strip(";").split(";"))
    patient.environment["BatchStorage"] = ";".join(
        f"{name}={value}" for name, value in (parts | {"AccountKey": key}).items()
    )
    checks = patient.examined()
    inbox = checks[f"storage: container {patient.settings.input_container}"]
    assert inbox.state is State.WRONG
    assert "BatchStorage" in inbox.cure
    assert "role" not in inbox.cure
    assert checks["service: access"].state is State.OK


# The service


def test_a_wrong_key_and_a_missing_role_are_told_apart(patient: Patient, service: AzureOpenAI) -> None:
    patient.environment["AZURE_OPENAI_API_KEY"] = "wrong"
    wrong_key = patient.found()["service: access"]
    assert "401" in wrong_key.saw
    assert "AZURE_OPENAI_API_KEY" in wrong_key.cure
    patient.environment["AZURE_OPENAI_API_KEY"] = service.api_key
    body = {"error": {"code": "PermissionDenied", "message": "The principal lacks the required data action."}}
    service.fault("status", path="/batches", status=403, body=body)
    no_role = patient.found()["service: access"]
    assert "PermissionDenied" in no_role.saw
    assert "Cognitive Services OpenAI Contributor" in no_role.cure
    assert "AZURE_OPENAI_API_KEY" not in no_role.cure


def test_a_managed_identity_signs_in_for_real_and_is_named(patient: Patient) -> None:
    del patient.environment["AZURE_OPENAI_API_KEY"]
    checks = patient.examined()
    assert checks["service: access"].state is State.OK
    assert "the managed identity id-emulator" in checks["service: access"].saw
    assert checks["deployment batch"].state is State.OK


def test_storage_by_identity_says_as_whom(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    # Azurite takes identities over HTTPS only, and checks no role: what a missing role looks like cannot be had here.
    del patient.environment["BatchStorage"]
    for kind in ("blob", "queue", "table"):
        patient.environment[f"BatchStorage__{kind}ServiceUri"] = f"https://127.0.0.1:9/{kind}"
    first = next(check_storage(patient.app, changing=False))
    assert first.saw == "Looking as the managed identity id-emulator."
    monkeypatch.setenv("IDENTITY_HEADER", "wrong")
    first = next(check_storage(patient.app, changing=False))
    assert (first.state, "az login" in first.cure) == (State.WRONG, True)


def test_storage_that_does_not_answer_is_asked_once_for_each_kind(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = dict(each.split("=", 1) for each in patient.environment["BatchStorage"].strip(";").split(";"))
    dead = dict.fromkeys(("BlobEndpoint", "QueueEndpoint", "TableEndpoint"), "http://127.0.0.1:9/x")
    patient.environment["BatchStorage"] = ";".join(f"{name}={value}" for name, value in (parts | dead).items())
    monkeypatch.setattr("time.sleep", lambda _: None)
    checks = [*check_storage(patient.app, changing=False)]
    assert [check.name.partition(" ")[0] + " " + check.name.split()[1] for check in checks] == [
        "storage: identity",
        "storage: container",
        "storage: queue",
        "storage: table",
    ]
    assert all("ServiceRequestError" in check.saw for check in checks[1:])


def test_nobody_who_can_sign_in_is_told(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    del patient.environment["AZURE_OPENAI_API_KEY"]
    monkeypatch.setenv("IDENTITY_HEADER", "wrong")
    monkeypatch.setenv("PATH", "")  # neither az nor azd nor pwsh
    found = patient.found()
    assert "NoCredential" in found["service: access"].saw
    assert "az login" in found["service: access"].cure


def test_a_dead_name_and_a_dead_port_are_told(patient: Patient) -> None:
    patient.environment["AZURE_OPENAI_ENDPOINT"] = "https://nowhere.invalid"
    found = patient.found()
    assert "NameNotResolved" in found["service: name"].saw
    assert not any(name.startswith("service: a") for name in found), "nothing works without a name"
    patient.environment["AZURE_OPENAI_ENDPOINT"] = "http://127.0.0.1:9"
    assert "ConnectError" in patient.found()["service: access"].saw


def test_an_address_without_tls_behind_it_is_told(patient: Patient, service: AzureOpenAI) -> None:
    patient.environment["AZURE_OPENAI_ENDPOINT"] = service.url.replace("http://", "https://")
    assert "TLS" in patient.found()["service: TLS"].saw


def test_a_wrong_address_is_told_by_its_routes(patient: Patient, service: AzureOpenAI) -> None:
    patient.environment["AZURE_OPENAI_ENDPOINT"] = f"{service.url}/nowhere"
    routes = patient.found()["service: routes"]
    assert "404" in routes.saw
    assert "AZURE_OPENAI_ENDPOINT" in routes.cure


def test_a_version_without_batches_is_told_with_the_one_that_has_them(patient: Patient) -> None:
    patient.environment["AZURE_OPENAI_API_VERSION"] = "2024-02-01"
    assert "AZURE_OPENAI_API_VERSION to v1" in patient.found()["service: routes"].cure


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("swedencentral.api.cognitive.microsoft.com", "custom sub-domain"),
        ("mine.cognitiveservices.azure.com", "openai.azure.com"),
    ],
)
def test_an_address_without_a_sub_domain_of_its_own_is_told(address: str, words: str) -> None:
    from batch_fn.doctor.service import sub_domain

    check = sub_domain(address)
    assert check.state is State.WRONG
    assert words in check.cure
    assert sub_domain("mine.openai.azure.com").state is State.OK


def test_an_expiry_that_is_not_honoured_is_told(patient: Patient, service: AzureOpenAI) -> None:
    patient.environment["AZURE_OPENAI_API_VERSION"] = "2024-10-21"
    found = patient.found()
    assert found.keys() == {"settings: AZURE_OPENAI_API_VERSION", "service: files"}
    assert "500 files" in found["service: files"].saw
    patient.environment["AZURE_OPENAI_API_VERSION"] = "v1"
    service.options(honours_expiry=False)
    assert patient.found().keys() == {"service: files"}


def test_a_full_file_store_is_told_before_it_is_full(
    patient: Patient, service: AzureOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batch_fn.doctor.service.FILES_WITHOUT_EXPIRY", 10)
    patient.environment["FILE_EXPIRY_SECONDS"] = "0"
    with OpenAI(base_url=service.v1_url, api_key=service.api_key) as client:
        for number in range(1, 10):
            client.files.create(file=("x.jsonl", b"{}\n"), purpose="batch")
            if number == 8:
                assert "service: file quota" not in patient.found(changing=False)
    assert "9 files" in patient.found(changing=False)["service: file quota"].saw


def test_a_clock_that_is_wrong_is_told_of_whom(patient: Patient, service: AzureOpenAI) -> None:
    service.options(clock_skew=-900)
    found = patient.found()
    assert found.keys() == {"service: clock"}
    assert "behind ours" in found["service: clock"].saw


def test_our_own_wrong_clock_is_seen_on_both(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now", lambda: datetime.now(UTC) + timedelta(minutes=15))
    found = patient.found(changing=False)
    assert {"storage: clock", "service: clock"} <= found.keys()
    assert "behind ours" in found["storage: clock"].saw


# Deployments


def test_a_deployment_that_takes_no_batches_is_wrong_when_a_job_waits_for_it(
    patient: Patient, service: AzureOpenAI
) -> None:
    service.options(deployments=["batch", "chat"], skus={"chat": "Standard"}, models={"chat": "gpt-5.4 2026-03-17"})
    assert "deployment chat" not in patient.examined(changing=False), "it is for others"
    patient.environment["TOKEN_LIMITS"] = "chat=1000"
    assert patient.found(changing=False)["deployment chat"].state is State.WARNING
    with waiting_for(patient, "chat"):
        found = patient.found(changing=False)["deployment chat"]
    assert found.state is State.WRONG
    assert "Standard" in found.saw
    assert "GlobalBatch" in found.cure


@contextmanager
def waiting_for(patient: Patient, deployment: str) -> Iterator[None]:
    """Have a part in hand that waits for a deployment."""
    from batch_fn.storage.rows import to_entity

    table = patient.tables.get_table_client(patient.settings.work_table)
    entity = to_entity(a_part(deployment=deployment))
    table.create_entity(entity)
    yield
    table.delete_entity(entity["PartitionKey"], entity["RowKey"])


def test_a_deployment_that_is_not_there_is_named_with_those_that_are(patient: Patient, service: AzureOpenAI) -> None:
    service.options(deployments=["batch"])
    with waiting_for(patient, "bacth"):
        found = patient.found(changing=False)["deployment bacth"]
    assert (found.state, "It has: batch." in found.saw) == (State.WRONG, True)


def test_a_resource_without_a_batch_deployment_is_told(patient: Patient, service: AzureOpenAI) -> None:
    service.options(deployments=["chat"], skus={"chat": "Standard"})
    assert patient.found(changing=False)["deployments"].state is State.WRONG


def test_a_model_that_retires_is_told_in_time(patient: Patient, service: AzureOpenAI) -> None:
    for days, state in ((29, State.WARNING), (31, State.OK), (-1, State.WRONG)):
        day = (datetime.now(UTC) + days * DAY).isoformat()
        service.options(models={"batch": "gpt-4o 2024-11-20"}, retirements={"gpt-4o 2024-11-20": day})
        check = patient.examined(changing=False)["deployment batch"]
        assert (check.state, "gpt-4o 2024-11-20" in check.saw) == (state, True)


def test_what_azure_resource_manager_does_not_tell_is_unknown(patient: Patient, service: AzureOpenAI) -> None:
    service.options(management=False)
    refused = patient.examined(changing=False)["deployments"]
    assert (refused.state, "AuthorizationFailed" in refused.saw) == (State.UNKNOWN, True)
    del patient.environment["AZURE_OPENAI_RESOURCE_ID"]
    unset = patient.examined(changing=False)["deployments"]
    assert (unset.state, "AZURE_OPENAI_RESOURCE_ID" in unset.cure) == (State.UNKNOWN, True)


# The host


def test_a_tick_that_is_late_or_never_came_is_told(patient: Patient) -> None:
    patient.app.tables.record_tick(clock.now() - timedelta(minutes=11))
    assert patient.found(changing=False)["host: tick"].state is State.WRONG
    patient.tables.get_table_client(patient.settings.deployments_table).delete_entity("tick", "last")
    assert patient.found(changing=False)["host: tick"].state is State.WARNING


def test_messages_that_the_host_gave_up_are_counted(patient: Patient) -> None:
    name = f"{patient.settings.submit_queue}-poison"
    queue = patient.queues.create_queue(name)
    queue.send_message("x")
    assert "1 message" in patient.found(changing=False)[f"host: queue {name}"].saw


def test_too_little_room_is_told(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "NEEDED_DISK", 1 << 60)
    monkeypatch.setattr(host, "NEEDED_MEMORY", 1 << 60)
    found = patient.found(changing=False)
    assert found.keys() == {"host: temporary disk", "host: memory"}
    assert patient.found(changing=False, deployed=False) == {}
