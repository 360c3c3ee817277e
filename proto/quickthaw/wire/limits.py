"""Sizes that both ends of a call must agree on. All are enforced by the receiving end."""

MESSAGE_BYTES_MAX = 8 * 1024 * 1024
"""One gRPC message, either way. Artifacts travel in chunks well below this."""

METADATA_BYTES_MAX = 16 * 1024
"""All metadata of one call."""

INPUT_BYTES_MAX = 1024 * 1024
"""The JSON text of one request's input, before defaults are filled in."""

PREVIEW_BYTES_MAX = 256 * 1024
"""One encoded preview picture."""

ARTIFACT_CHUNK_BYTES = 256 * 1024
"""One chunk of `ReadArtifact`."""

CONTENTS_BYTES_MAX = 4 * 1024 * 1024
"""All files that travel with the end of their request; larger ones are read afterwards."""

FRAME_MESSAGES_MAX = 256
"""Messages in one frame of a worker's stream, and calls in one of `RunMany`."""

IDEMPOTENCY_KEY_CHARS_MAX = 128

CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_metadata_size", METADATA_BYTES_MAX),
    # A half-open connection must be noticed well before a lease runs out.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A proxy that the environment names for the web would be given every key in plain text.
    ("grpc.enable_http_proxy", 0),
]
"""For channels and servers alike."""

SERVER_OPTIONS: list[tuple[str, int]] = [
    *CHANNEL_OPTIONS,
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    # Two servers sharing a port would split the traffic silently; a taken port must be an error.
    ("grpc.so_reuseport", 0),
]
