"""Every setting may change at any time: work that was begun with the old value comes to its end with the new one."""

import dataclasses
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest

from batch_fn.core.jobs import PartState
from batch_fn.settings import DAY, PLACE_SETTINGS, Settings
from tests.model.machine import NAMES, Pipeline, PipelineOnBlobs
from tests.model.test_regressions_service import (
    BOTH_MODES,
    _create_is_lost,
    _give_up,
    _messages,
    _pipeline,
    _status,
    _time_goes_on,
)
from tests.model.world import ON_BLOBS, SETTINGS, Answer, End

OTHERS: dict[str, Any] = {
    "storage_client_id": "another",
    "openai_endpoint": "https://another.example",
    "openai_api_key": "another",
    "openai_api_version": "2024-10-21",
    "trigger_source": "LogsAndContainerScan",
    "tick_schedule": "0 */5 * * * *",
    "tick_seconds": 1,
    "allowed_urls": frozenset({"/responses"}),
    "max_line_bytes": 10,
    "empty_drop_seconds": 0,
    "max_drop_bytes": 1,
    "max_drop_requests": 1,
    "max_findings": 1,
    "openai_resource_id": "/subscriptions/another",
    "resource_manager": "https://management.example",
    "doctor_seconds": 0,
    "max_deployments": 1,
    "mixed_files": "reject",
    "max_part_bytes": 16 * 1024 * 1024,
    "max_part_requests": 1,
    "submit_mode": "blob",
    "bundle_seconds": 0,
    "bundle_bytes": 0,
    "max_attempts": 1,
    "file_expiry_seconds": 0,
    "delete_service_files": True,
    "claim_seconds": 1,
    "settle_seconds": 600,
    "environment_wait_seconds": 1,
    "token_limits": MappingProxyType({"gpt": 30}),
    "patience_seconds": 0,
    "resend_seconds": 1,
    "trouble_seconds": 1,
    "quota_backoff_seconds": 1,
    "prices": MappingProxyType({"gpt": (1.0, 2.0)}),
    "telemetry": "otlp",
}
"""Another value for each setting that may change."""

FIELDS = {field.name for field in dataclasses.fields(Settings)}


def test_the_table_has_another_value_for_every_setting_that_may_change() -> None:
    assert FIELDS >= PLACE_SETTINGS
    assert OTHERS.keys() <= FIELDS - PLACE_SETTINGS
    if missing := FIELDS - PLACE_SETTINGS - OTHERS.keys():
        pytest.fail(f"what if {missing} changes while there is work?")
    for name, value in OTHERS.items():
        if name != "delete_service_files":  # without it files are left, as they should be
            assert getattr(SETTINGS, name) != value, name


def _dropped(pipeline: Pipeline) -> None:
    for name, kind in zip(NAMES, ["two parts", "one line", "one line"], strict=True):
        pipeline.a_user_drops_a_file(name=name, kind=kind)
    for name in NAMES:
        pipeline.the_event_of_a_drop_comes(name=name, luck=None)


def _sent(pipeline: Pipeline) -> None:
    _dropped(pipeline)
    pipeline.all_goes_on_for_a_while(seconds=20, ends=None, luck=None)
    assert {part.state for part in pipeline.world.parts()} == {PartState.OPEN, PartState.BUNDLED}


def _ended(pipeline: Pipeline) -> None:
    _sent(pipeline)
    for batch in pipeline.world.open_batches():
        pipeline.world.run_line(batch, Answer.TRIPPED)
        pipeline.world.end(batch, End.COMPLETED)
    pipeline.the_timer_ticks(luck=None)


def _again(pipeline: Pipeline) -> None:
    _ended(pipeline)
    pipeline.all_goes_on_for_a_while(seconds=0, ends=None, luck=None)
    assert {part.attempt for part in pipeline.world.parts()} == {1, 2}


@BOTH_MODES
@pytest.mark.parametrize("stage", [_dropped, _sent, _ended, _again])
@pytest.mark.parametrize("name", OTHERS)
def test_a_setting_changes_while_there_is_work(
    name: str, stage: Callable[[Pipeline], None], mode: type[Pipeline]
) -> None:
    with _pipeline(mode) as pipeline:
        stage(pipeline)
        value = OTHERS[name]
        if name == "submit_mode" and mode is PipelineOnBlobs:
            value = "upload"
        pipeline.world.settings = dataclasses.replace(pipeline.world.settings, **{name: value})
        for _ in range(8):
            pipeline.all_goes_on_for_a_while(seconds=101, ends=End.COMPLETED, luck=None)


@pytest.mark.parametrize("made", [True, False])
@pytest.mark.parametrize(
    ("before", "after"), [(SETTINGS, ON_BLOBS), (ON_BLOBS, SETTINGS)], ids=["to blob", "to upload"]
)
def test_the_mode_changes_while_a_create_is_looked_for(before: Settings, after: Settings, made: bool) -> None:
    """It is looked for by what it was sent with; what is created after that is sent in the new way."""
    with _pipeline(Pipeline if before is SETTINGS else PipelineOnBlobs) as pipeline:
        _create_is_lost(pipeline, made=made)
        pipeline.world.settings = after
        _time_goes_on(pipeline, 3_600)
        (batch,) = pipeline.world.batches.values()
        assert bool(batch.input_blob) is ((before if made else after).submit_mode == "blob")


def test_the_resource_changes_while_a_create_is_looked_for() -> None:
    """The new one cannot tell whether the old one made a batch: its lines are not sent to it."""
    with _pipeline() as pipeline:
        pipeline.world.settings = dataclasses.replace(SETTINGS, openai_endpoint="https://one.example")
        _create_is_lost(pipeline, made=True)
        _give_up(pipeline)
        pipeline.world.settings = dataclasses.replace(SETTINGS, openai_endpoint="https://another.example")
        _time_goes_on(pipeline, 8 * DAY, step=6 * 3_600)
        assert len(pipeline.world.batches) == 1
        assert _status(pipeline) == "failed"
        assert "AZURE_OPENAI_ENDPOINT" in _messages(pipeline.world)[0]
