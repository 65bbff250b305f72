"""Traces and metrics by OpenTelemetry, configured by its OTEL_* variables. Imported only if they name a receiver."""

import os
from collections.abc import Awaitable, Mapping
from time import perf_counter
from typing import TypeVar

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.app.responses import Response

Returned = TypeVar("Returned")


class Telemetry:
    """One span and one measurement a request, one span a statement, named by OpenTelemetry's conventions."""

    def __init__(self) -> None:
        resource = Resource.create({SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME") or "strive-functions"})
        self._traces = TracerProvider(resource=resource)
        self._traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._metrics = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())], resource)
        self._tracer = self._traces.get_tracer("strive")
        self._seconds = self._metrics.get_meter("strive").create_histogram(
            "http.server.request.duration", "s", "Duration of requests to the functions."
        )
        self._parents = TraceContextTextMapPropagator()

    async def request(
        self, route: str, method: str, headers: Mapping[bytes, bytes], responding: Awaitable[Response]
    ) -> Response:
        sent = {
            name: headers[name.encode()].decode("latin-1") for name in self._parents.fields if name.encode() in headers
        }
        attributes = {"http.request.method": method, "http.route": route}
        started = perf_counter()
        with self._tracer.start_as_current_span(
            f"{method} {route}", self._parents.extract(sent), SpanKind.SERVER, attributes
        ) as span:
            response = await responding
            span.set_attribute("http.response.status_code", response.status)
            span.set_attribute("strive.request_id", response.request_id.decode())
            if response.code:
                span.set_attribute("error.type", response.code)
            if response.status >= 500:  # noqa: PLR2004 - as the conventions have it, a 4xx is no error of the server
                span.set_status(StatusCode.ERROR)
        self._seconds.record(perf_counter() - started, attributes | {"http.response.status_code": response.status})
        return response

    async def statement(self, operation: str, running: Awaitable[Returned]) -> Returned:
        attributes = {"db.system.name": "postgresql", "db.operation.name": operation}
        with self._tracer.start_as_current_span(operation, kind=SpanKind.CLIENT, attributes=attributes):
            return await running

    def close(self) -> None:
        self._traces.shutdown()
        self._metrics.shutdown()
