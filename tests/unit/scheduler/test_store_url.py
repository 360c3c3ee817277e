"""What `--store` may be."""

from __future__ import annotations

import sys

import pytest

from quickthaw.scheduler.store.database import parse_url
from quickthaw.wire.errors import SettingsInvalid


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("no url", "write sqlite:///PATH"),
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
        ("mysql://root@localhost/x", "mysql is not supported"),
    ],
)
def test_a_url_of_nothing_that_can_be_a_store_is_refused(url: str, told: str) -> None:
    with pytest.raises(SettingsInvalid, match=f"--store.*{told}"):
        parse_url(url)


def test_a_missing_driver_is_named_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(SettingsInvalid, match=r"pip install 'quickthaw\[postgres\]'"):
        parse_url("postgresql://me@localhost/quickthaw")
