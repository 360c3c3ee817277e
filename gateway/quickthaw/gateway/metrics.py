"""What the gateway counts. Labels are words from fixed sets, never what callers send."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from quickthaw.wire.errors import BY_REASON

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class GatewayMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "quickthaw_gateway_requests_total",
            "HTTP requests answered, by surface and status; 499: the caller left first.",
            ["surface", "status"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "quickthaw_gateway_request_seconds",
            "From a request's headers to the last byte of its answer.",
            ["surface"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.first_byte_seconds = Histogram(
            "quickthaw_gateway_first_byte_seconds",
            "From a request's headers to the start of its answer.",
            ["surface"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.open_requests = Gauge(
            "quickthaw_gateway_open_requests",
            "Requests not answered in full yet.",
            ["surface"],
            registry=registry,
        )
        self.open_streams = Gauge(
            "quickthaw_gateway_open_streams", "Event streams open now.", registry=registry
        )
        self.sent_bytes = Counter(
            "quickthaw_gateway_sent_bytes_total",
            "Bytes of answers' bodies.",
            ["surface"],
            registry=registry,
        )
        self.errors = Counter(
            "quickthaw_gateway_errors_total",
            "Answers that tell of an error, by its reason.",
            ["reason"],
            registry=registry,
        )
        self.webhooks = Counter(
            "quickthaw_gateway_webhooks_total",
            "Attempts to deliver a webhook, by dialect and outcome.",
            ["dialect", "outcome"],
            registry=registry,
        )
        self.webhook_seconds = Histogram(
            "quickthaw_gateway_webhook_seconds",
            "One attempt to deliver a webhook, answered or not.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.open_webhooks = Gauge(
            "quickthaw_gateway_open_webhooks", "Webhooks on their way now.", registry=registry
        )
        self.stalled_readers = Counter(
            "quickthaw_gateway_stalled_readers_total",
            "Connections cut because the reader took nothing for too long.",
            registry=registry,
        )
        self.loop_lag_seconds = Histogram(
            "quickthaw_gateway_loop_lag_seconds",
            "How late the event loop runs a timer.",
            buckets=_SECONDS,
            registry=registry,
        )
        # Known from the start: Prometheus sees no increase where a series begins with 1.
        for reason in BY_REASON:
            self.errors.labels(reason)
        for dialect in ("fal", "replicate", "replicate_on_the_way"):
            for outcome in ("delivered", "failed"):
                self.webhooks.labels(dialect, outcome)
