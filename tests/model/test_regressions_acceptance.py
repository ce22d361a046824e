"""What acceptance once let through, or laid into parts in a way that a later step could not send."""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batch_fn.settings import Settings
from batch_fn.validation.requests import PLACEHOLDER
from tests.model.fakes import FakeService, FakeWriter
from tests.model.machine import NAMES, Delivery, Pipeline
from tests.model.world import ON_BLOBS, SETTINGS, Answer, End, World

FILLED_IN = "gpt"
"""What the metadata of these drops say."""

type Line = dict[str, object]


def _line(custom_id: str, model: str | None, url: str = "/v1/chat/completions", padding: int = 0) -> Line:
    body: dict[str, object] = {"messages": [{"role": "user", "content": f"Say {custom_id} of #."}]}
    if model is not None:
        body["model"] = model
    if padding:
        body["user"] = "x" * padding
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def _jsonl(lines: list[Line]) -> bytes:
    return b"\n".join(json.dumps(line).encode() for line in lines)


@contextlib.contextmanager
def _pipeline(settings: Settings = SETTINGS) -> Iterator[Pipeline]:
    """Give the pipeline; at the end, every job has to come to its end and no rule may be broken."""
    pipeline = Pipeline()
    pipeline.world = World(settings)
    try:
        yield pipeline
        pipeline.no_rule_is_broken()
    finally:
        pipeline.teardown()


def _dropped(pipeline: Pipeline, content: bytes, metadata: dict[str, str] | None = None) -> None:
    pipeline.world.drop(NAMES[0], content, metadata or {})
    pipeline.the_event_of_a_drop_comes(name=NAMES[0], luck=None)


def _all_is_sent(pipeline: Pipeline) -> None:
    pipeline.time_passes(seconds=101)
    pipeline.the_timer_ticks(luck=None)
    while pipeline._visible():
        pipeline.a_message_comes(pick=0, how=Delivery.ONCE, luck=None)


def _all_ends(pipeline: Pipeline, answer: Answer) -> None:
    """Run every line of every batch with that answer, until no job is left."""
    for _ in range(30):
        for batch in pipeline.world.open_batches():
            while len(batch.answers) < len(batch.custom_ids):
                pipeline.world.run_line(batch, answer)
            pipeline.world.end(batch, End.COMPLETED)
        _all_is_sent(pipeline)
        if not pipeline.world.rows:
            return


models = st.sampled_from([None, "", PLACEHOLDER, FILLED_IN, FILLED_IN, "other", "third"])
urls = st.sampled_from(["/v1/chat/completions", "/v1/chat/completions", "/chat/completions"])


@contextlib.contextmanager
def _watched(sent: list[tuple[str, Line]]) -> Iterator[None]:
    """Note each line that the service is given, with the deployment of its part."""
    create: Callable[..., object] = FakeService.create

    def watched(service: FakeService, part: object) -> object:
        blob, file_id = part.input_blob, part.file_id  # type: ignore[attr-defined]
        content = service._blob(blob) if blob else service._file(file_id)
        sent.extend((part.deployment, json.loads(raw)) for raw in content.splitlines())  # type: ignore[attr-defined]
        return create(service, part)

    with patch.object(FakeService, "create", watched):
        yield


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(models, urls), min_size=1, max_size=14),
    st.sampled_from([SETTINGS, ON_BLOBS, replace(SETTINGS, bundle_seconds=0)]),
    st.none() | st.integers(40, 120),
    st.sampled_from([Answer.ANSWERED, Answer.TRIPPED, Answer.FAILED]),
)
def test_each_line_that_is_sent_has_its_deployment_as_its_model(
    mix: list[tuple[str | None, str]], settings: Settings, token_limit: int | None, answer: Answer
) -> None:
    """Wherever the line without a model stands in its part, on each attempt, split by quota and retried by a user."""
    lines = [_line(f"id{number}", model, url) for number, (model, url) in enumerate(mix)]
    sent: list[tuple[str, Line]] = []
    with _watched(sent), _pipeline(settings) as pipeline:
        pipeline.world.token_limit = token_limit
        _dropped(pipeline, _jsonl(lines), {"deployment": FILLED_IN})
        _all_is_sent(pipeline)
        _all_ends(pipeline, answer)
        if answer is Answer.FAILED and not pipeline.world.rows:
            pipeline.a_user_retries_a_job(pick=0, luck=None)
    assert {line["custom_id"] for _, line in sent} == {line["custom_id"] for line in lines}
    for deployment, line in sent:
        assert line["body"]["model"] == deployment  # type: ignore[index]


LIMIT = 400
"""MAX_LINE_BYTES of these tests."""


def _line_of(custom_id: str, model: str | None, size: int) -> Line:
    """Return a line of exactly so many bytes."""
    short = len(json.dumps(_line(custom_id, model, padding=1)))
    return _line(custom_id, model, padding=size - short + 1)


@pytest.mark.parametrize("missing", range(10))
@pytest.mark.parametrize("bundle_seconds", [0, 20])
def test_a_line_of_the_longest_size_that_is_accepted_is_sent(missing: int, bundle_seconds: int) -> None:
    """A picked line has its number before it, and a line that is filled in has its model on top."""
    models = [FILLED_IN, "other", None, "other"]
    lines = [_line_of(f"id{n}", model, LIMIT - missing) for n, model in enumerate(models)]
    assert {len(json.dumps(line)) for line in lines} == {LIMIT - missing}
    with _pipeline(replace(SETTINGS, max_line_bytes=LIMIT, bundle_seconds=bundle_seconds)) as pipeline:
        _dropped(pipeline, _jsonl(lines), {"deployment": FILLED_IN})
        assert pipeline.world.parts()
        _all_is_sent(pipeline)
        _all_ends(pipeline, Answer.TRIPPED)
        assert all(job.status != "rejected" for job in pipeline.world.history.values())


@pytest.mark.parametrize("steps", range(4))
def test_limits_that_are_lowered_make_no_difference_to_accepted_jobs(steps: int) -> None:
    lines = [_line_of(f"id{n}", [FILLED_IN, "other"][n % 2], LIMIT) for n in range(6)]
    lowered = replace(
        SETTINGS, max_line_bytes=1, max_drop_bytes=1, max_drop_requests=1, max_deployments=1, mixed_files="reject"
    )
    lowered = replace(lowered, allowed_urls=frozenset({"/responses"}))
    with _pipeline() as pipeline:
        _dropped(pipeline, _jsonl(lines))
        changes: list[Callable[[], object]] = [
            lambda: _all_is_sent(pipeline),
            lambda: _all_ends(pipeline, Answer.TRIPPED),
            lambda: pipeline.a_user_retries_a_job(pick=0, luck=None),
        ]
        for change in changes[:steps]:
            change()
        pipeline.world.settings = lowered
        for change in changes[steps:]:
            change()
        assert pipeline.world.begun
    assert {job.status for job in pipeline.world.history.values()} == {"succeeded"}  # retried at last


def test_the_errors_blob_has_every_finding_up_to_the_limit() -> None:
    with _pipeline(replace(SETTINGS, max_findings=50)) as pipeline:
        _dropped(pipeline, b"x\n" * 1_000)
        (job,) = pipeline.world.history.values()
        errors = [json.loads(each) for each in _blob(pipeline, SETTINGS.errors_container).splitlines()]
    assert (job.status, job.finding_count) == ("rejected", 51)
    assert [each["line"] for each in errors] == [*range(1, 52)]
    assert errors[-1]["code"] == "too_many_findings"


def test_a_drop_with_too_many_deployments_is_rejected() -> None:
    lines = [_line(f"id{n}", f"deployment{n % 4}") for n in range(12)]
    with _pipeline(replace(SETTINGS, max_deployments=3)) as pipeline:
        _dropped(pipeline, _jsonl(lines))
        (job,) = pipeline.world.history.values()
        (error,) = [json.loads(each) for each in _blob(pipeline, SETTINGS.errors_container).splitlines()]
    assert (job.status, error["code"], error["line"]) == ("rejected", "too_many_deployments", 4)


def test_as_many_writers_are_open_as_the_drop_has_deployments_whatever_the_number_of_its_parts() -> None:
    lines = [_line(f"id{n}", f"deployment{n % 3}") for n in range(60)]
    is_open = most = 0
    enter, leave = FakeWriter.__enter__, FakeWriter.__exit__

    def entered(writer: FakeWriter) -> FakeWriter:
        nonlocal is_open, most
        is_open += 1
        most = max(most, is_open)
        return enter(writer)

    def left(writer: FakeWriter, *error: object) -> None:
        nonlocal is_open
        is_open -= 1
        leave(writer, *error)  # type: ignore[arg-type]

    with (
        _pipeline() as pipeline,
        patch.object(FakeWriter, "__enter__", entered),
        patch.object(FakeWriter, "__exit__", left),
    ):
        _dropped(pipeline, _jsonl(lines))
        assert len(pipeline.world.parts()) > 10
        assert (is_open, most) == (0, 3)


def _blob(pipeline: Pipeline, container: str) -> bytes:
    (content,) = [blob.content for (each, _), blob in pipeline.world.blobs.items() if each == container]
    return content
