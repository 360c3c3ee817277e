from __future__ import annotations

import pytest

from quickthaw.gateway.settings import Limits, parse_settings
from quickthaw.wire.errors import SettingsInvalid
from quickthaw.wire.process import Address


def test_a_command_line_sets_addresses_and_limits() -> None:
    settings = parse_settings(
        [
            *("--scheduler", "h:1", "--http", ":0", "--public-url", "https://gpu.example/q/"),
            *("--body-bytes-max", "1000", "--stall-seconds", "1.5", "--log-json"),
        ]
    )
    assert settings.scheduler == Address("h", 1)
    assert settings.public_url == "https://gpu.example/q"
    assert settings.limits.body_bytes_max == 1000
    assert settings.limits.stall_seconds == 1.5
    assert settings.limits.drain_seconds == Limits().drain_seconds
    assert settings.log_json


@pytest.mark.parametrize(
    "arguments",
    [
        ["--http", "nowhere"],
        ["--public-url", "gpu.example"],
        ["--public-url", "ftp://gpu.example"],
        ["--public-url", "http://gpu.example/?a=b"],
        ["--body-bytes-max", "0"],
        ["--run-seconds-max", "-1"],
        ["--webhook-seconds", "241"],
    ],
)
def test_settings_that_cannot_work_refuse_to_start(arguments: list[str]) -> None:
    with pytest.raises(SettingsInvalid):
        parse_settings(["--scheduler", "h:1", *arguments])
