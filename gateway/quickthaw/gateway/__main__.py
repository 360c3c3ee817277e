"""`python -m quickthaw.gateway`: one process, one line on stdout when it listens."""

from __future__ import annotations

import os
import sys

import uvloop

from quickthaw.gateway.server import Listening, serve
from quickthaw.gateway.settings import parse_settings
from quickthaw.wire.errors import QuickthawError
from quickthaw.wire.process import configure_logs, read_sockets_directly


def main() -> int:
    try:
        settings = parse_settings(sys.argv[1:], os.environ)
        configure_logs(settings.log_level, as_json=settings.log_json)
        read_sockets_directly()
        uvloop.run(serve(settings, _say_ready))
    except QuickthawError as error:
        print(f"quickthaw-gateway: {error.message}", file=sys.stderr)
        return 1
    return 0


def _say_ready(listening: Listening) -> None:
    metrics = listening.metrics_url or "-"
    print(f"quickthaw-gateway ready http={listening.public_url} metrics={metrics}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
