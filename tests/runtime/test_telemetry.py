"""Telemetry: drop, run, look at what a collector was sent; and off is off."""

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from batch_fn.runtime import log, telemetry
from batch_fn.runtime.telemetry import Instruments, step
from devkit.stack import Stack
from tests.conftest import JOB_ID
from tests.end_to_end.stories import jsonl, line


class Collector(ThreadingHTTPServer):
    """Keeps what it is sent over OTLP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Taker)
        self.bodies: list[tuple[str, bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def spans(self) -> list[Any]:
        sent = [ExportTraceServiceRequest.FromString(body) for path, body in [*self.bodies] if path == "/v1/traces"]
        return [span for each in sent for of in each.resource_spans for scope in of.scope_spans for span in scope.spans]

    def metrics(self) -> list[Any]:
        sent = [ExportMetricsServiceRequest.FromString(body) for path, body in [*self.bodies] if path == "/v1/metrics"]
        return [
            metric
            for each in sent
            for of in each.resource_metrics
            for scope in of.scope_metrics
            for metric in scope.metrics
        ]


class Taker(BaseHTTPRequestHandler):
    """Takes everything."""

    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            import gzip

            body = gzip.decompress(body)
        self.server.bodies.append((self.path, body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry.use(Instruments(tracers, MeterProvider([InMemoryMetricReader()])))
    yield exporter
    telemetry.use(None)


def attributes(of: Any) -> dict[str, Any]:
    return {each.key: each.value.string_value for each in of.attributes}


def sums(collector: Collector, name: str) -> dict[str, int]:
    """The counter's last points, by outcome; each instance of the app counts from its start."""
    points = [point for metric in collector.metrics() if metric.name == name for point in metric.sum.data_points]
    return {attributes(point).get("outcome", ""): point.as_int for point in points}


def test_a_job_leaves_a_span_for_each_step_and_its_numbers_at_the_collector(collector: Collector) -> None:
    content = jsonl(line("first", "a secret of mine"), line("second", "[[status 400]] another secret"))
    with Stack({"TELEMETRY": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}, service={"speed": 2000}) as stack:
        report = stack.user.wait(stack.user.drop("monday.jsonl", content))
        key = stack.service.api_key
    assert report["counts"] == {"requests": 2, "succeeded": 1, "failed": 1}
    by_job = [span.name for span in collector.spans() if attributes(span).get("job_id") == report["job_id"]]
    assert {"drop", "submit", "collect"} <= set(by_job)
    assert "tick" in {span.name for span in collector.spans()}
    assert sums(collector, "batch_fn.jobs") == {"partially_succeeded": 1}
    assert sums(collector, "batch_fn.lines") == {"succeeded": 1, "failed": 1}
    gauges = {metric.name for metric in collector.metrics() if metric.HasField("gauge")}
    assert gauges == {
        "batch_fn.batches.open",
        "batch_fn.tokens.waiting",
        "batch_fn.job.oldest",
        "batch_fn.wait.oldest",
        "batch_fn.tick.duration",
        "batch_fn.tick.finished",
    }
    everything = b"".join(body for _, body in collector.bodies)
    assert b"secret" not in everything
    assert key.encode() not in everything


def test_a_step_that_fails_leaves_the_kind_of_its_error_and_not_its_words(spans: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="private"), step("submit", JOB_ID):
        raise ValueError("private")
    (span,) = spans.get_finished_spans()
    assert not span.status.is_ok
    assert span.attributes == {"job_id": JOB_ID, "error.type": "ValueError"}
    assert "private" not in span.to_json()


def test_a_span_has_the_records_of_its_step_by_name_and_id(spans: InMemorySpanExporter) -> None:
    with step("drop"):
        log.info("drop_seen", job_id=JOB_ID, name="hidden.jsonl")
    (span,) = spans.get_finished_spans()
    assert (span.attributes or {})["job_id"] == JOB_ID
    assert [(event.name, event.attributes) for event in span.events] == [("drop_seen", {"job_id": JOB_ID})]


class NoCollector(InMemoryMetricReader):
    """Its sending fails."""

    def force_flush(self, timeout_millis: float = 0) -> bool:  # noqa: ARG002 - it is called with it
        raise TimeoutError("the collector does not answer")


def test_a_collector_that_does_not_answer_fails_no_step(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "batch_fn")
    reader: MetricReader = NoCollector()
    telemetry.use(Instruments(TracerProvider(), MeterProvider([reader])))
    try:
        with step("tick"):
            done = True
    finally:
        telemetry.use(None)
    assert done
    assert json.loads(caplog.records[-1].getMessage())["event"] == "metrics_not_sent"


def test_off_does_nothing() -> None:
    telemetry.start("off")
    with step("tick"):
        assert telemetry._instruments is None
