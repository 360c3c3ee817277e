"""`python -m quickthaw.cli.packer`: one process, one line on stdout when it looks for work."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from quickthaw.cli.packer.isolation import Wall
from quickthaw.cli.packer.serving import serve
from quickthaw.cli.packer.settings import parse_settings
from quickthaw.wire.errors import QuickthawError
from quickthaw.wire.process import configure_logs


def main() -> int:
    try:
        settings = parse_settings(sys.argv[1:])
        configure_logs(settings.log_level)
        asyncio.run(serve(settings, _say_ready))
    except QuickthawError as error:
        print(f"quickthaw-packer: {error.message}", file=sys.stderr)
        return 1
    return 0


def _say_ready(walls: Sequence[Wall]) -> None:
    print(f"quickthaw-packer ready walls={','.join(walls) or 'none'}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
