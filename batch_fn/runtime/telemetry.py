"""Spans and metrics with OpenTelemetry, if the setting TELEMETRY is on; otherwise nothing is imported.

The metrics are computed from log records, so that both agree and no step reports a fact twice. A span has the names,
ids and numbers of records, never a line's content.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from batch_fn.runtime import log

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider

FLUSH_MILLISECONDS = 5_000
"""How long a step waits for a collector that does not answer."""

_instruments: "Instruments | None" = None


class Instruments:
    """The spans of steps and the metrics from log records, sent when a step ends.

    An instance may be frozen between two invocations for ever: data that waits for a timer would be lost.
    """

    def __init__(self, tracers: "TracerProvider", meters: "MeterProvider") -> None:
        self._meters = meters
        self._tracer = tracers.get_tracer("batch_fn")
        meter = meters.get_meter("batch_fn")
        self._jobs = meter.create_counter("batch_fn.jobs", "{job}", "finished jobs, by outcome")
        self._lines = meter.create_counter("batch_fn.lines", "{line}", "lines of finished jobs, by outcome")
        self._retries = meter.create_counter("batch_fn.retries", "{line}", "lines that went into a further attempt")
        self._seconds = meter.create_histogram("batch_fn.step.duration", "s", "length of a step")
        gauges = {
            "open_batches": ("batch_fn.batches.open", "{batch}", "batches open at the service"),
            "waiting_tokens": ("batch_fn.tokens.waiting", "{token}", "estimated tokens of waiting parts"),
            "oldest_job_seconds": ("batch_fn.job.oldest", "s", "age of the oldest job that the tick looked at"),
            "oldest_wait_seconds": ("batch_fn.wait.oldest", "s", "longest wait for quota"),
            "seconds": ("batch_fn.tick.duration", "s", "length of the last tick"),
        }
        self._gauges = {fact: meter.create_gauge(*described) for fact, described in gauges.items()}
        self._finished_at = meter.create_gauge("batch_fn.tick.finished", "s", "unix time of the last tick's end")

    @contextlib.contextmanager
    def step(self, name: str, job_id: str | None) -> Iterator[None]:
        """Run the body in a span, and send the span and the metrics at the end."""
        attributes = {"job_id": job_id} if job_id else {}
        begin = time.monotonic()
        try:
            # Error text may contain user data, so the span records only the error type.
            with self._tracer.start_as_current_span(
                name, attributes=attributes, record_exception=False, set_status_on_exception=False
            ) as span:
                try:
                    yield
                except BaseException as error:
                    _mark_failed(span, error)
                    raise
        finally:
            self._seconds.record(time.monotonic() - begin, {"step": name})
            try:
                self._meters.force_flush(FLUSH_MILLISECONDS)
            except Exception as error:  # noqa: BLE001 - the step itself has succeeded
                log.warning("metrics_not_sent", error=error)

    def heard(self, event: str, job_id: str | None, facts: dict[str, Any]) -> None:
        """Add a log record to the current span and to the metrics."""
        from opentelemetry import trace

        span = trace.get_current_span()
        about = {"job_id": job_id, "part": facts.get("part"), "batch": facts.get("batch")}
        if job_id and "job_id" not in (getattr(span, "attributes", None) or {}) and event == "drop_seen":
            span.set_attribute("job_id", job_id)  # not known when the span starts
        span.add_event(event, {name: str(fact) for name, fact in about.items() if fact})
        if event == "job_finished":
            self._jobs.add(1, {"outcome": str(facts["status"])})
            for outcome in ("succeeded", "failed"):
                self._lines.add(facts[outcome], {"outcome": outcome})
        elif event == "part_settled":
            self._retries.add(facts["again"])
        elif event == "tick_done":
            for fact, gauge in self._gauges.items():
                gauge.set(facts[fact])
            self._finished_at.set(time.time())


def start(mode: str) -> None:
    """Send spans and metrics from now on, if `mode` is `otlp`, as the OTEL_ environment variables say."""
    if mode != "otlp":
        return
    import math

    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    resource = Resource.create({"service.name": "batch_fn"})
    seconds = FLUSH_MILLISECONDS / 1000
    tracers = TracerProvider(resource=resource)
    tracers.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(timeout=seconds)))
    # An infinite interval: sent only when a step ends, not by a background thread.
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(timeout=seconds), export_interval_millis=math.inf)
    use(Instruments(tracers, MeterProvider([reader], resource=resource)))


def use(instruments: Instruments | None) -> None:
    """Use these instruments from now on; None: no telemetry."""
    global _instruments
    _instruments = instruments
    log.set_listener(instruments.heard if instruments else None)


def step(name: str, job_id: str | None = None) -> contextlib.AbstractContextManager[None]:
    """Return a context that runs its body in a span, or does nothing if telemetry is off."""
    return _instruments.step(name, job_id) if _instruments else contextlib.nullcontext()


def _mark_failed(span: Any, error: BaseException) -> None:
    from opentelemetry.trace import StatusCode

    span.set_attribute("error.type", type(error).__qualname__)
    span.set_status(StatusCode.ERROR)
