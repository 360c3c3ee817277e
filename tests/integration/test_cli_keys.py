"""`quickthaw keys` against a platform whose answers the test writes."""

from __future__ import annotations

from pathlib import Path

from quickthaw.v1 import billing_pb2
from support.command_line import Quickthaw
from support.fake_platform import FakePlatform

LIMITS = billing_pb2.KeyLimits(requests_per_minute=60, models=["acme/*"])
KEY = billing_pb2.Key(
    key_id="k", tenant="team", scopes=[billing_pb2.SCOPE_CALL], limits=LIMITS, label="[web]"
)


def test_limits_are_given_at_creation_and_listed(
    quickthaw: Quickthaw, platform: FakePlatform
) -> None:
    platform.scripts |= {
        "CreateKey": lambda _: billing_pb2.CreateKeyResponse(key=KEY, secret="qt_k_s"),
        "ListKeys": lambda _: billing_pb2.ListKeysResponse(keys=[KEY]),
    }
    options = ("--requests-per-minute", "60", "--max-price", "0.05", "--model", "acme/*")
    assert quickthaw("keys", "create", "team", *options).out == "qt_k_s\n"
    asked = platform.calls("CreateKey")[0].limits
    assert (asked.requests_per_minute, asked.request_price_nanodollars) == (60, 50_000_000)
    assert list(asked.models) == ["acme/*"]
    assert quickthaw("keys", "--json").json[0]["limits"]["requests_per_minute"] == 60
    assert "[web]" in quickthaw("keys", "list").out


def test_revoked_keys_are_listed_for_who_asks(quickthaw: Quickthaw, platform: FakePlatform) -> None:
    ended = billing_pb2.Key(key_id="gone", tenant="team", revoked_unix_ms=1)
    platform.scripts["ListKeys"] = lambda _: billing_pb2.ListKeysResponse(keys=[KEY, ended])
    assert [key["key_id"] for key in quickthaw("keys", "--json").json] == ["k"]
    assert "gone" not in quickthaw("keys").out
    assert "gone" in quickthaw("keys", "list", "--revoked").out


def test_a_rotated_key_is_printed_or_written_for_its_owner_alone(
    quickthaw: Quickthaw, platform: FakePlatform, tmp_path: Path
) -> None:
    platform.scripts["RotateKey"] = lambda _: billing_pb2.RotateKeyResponse(
        key=KEY, secret="qt_k_new"
    )
    assert quickthaw("keys", "rotate", "qt_k_leaked", "--grace-hours", "0").out == "qt_k_new\n"
    assert platform.calls("RotateKey")[0] == billing_pb2.RotateKeyRequest(key_id="k")
    path = tmp_path / "admin.key"
    path.write_text("old")
    told = quickthaw("keys", "rotate", "k", "--key-file", str(path))
    assert "qt_k_new" not in told.out
    assert path.read_text() == "qt_k_new\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert platform.calls("RotateKey")[1].grace_ms == 24 * 3_600_000
    assert quickthaw("keys", "rotate", "k", "--json").json["secret"] == "qt_k_new"


def test_an_update_keeps_what_it_does_not_name(
    quickthaw: Quickthaw, platform: FakePlatform
) -> None:
    platform.scripts |= {
        "ListKeys": lambda _: billing_pb2.ListKeysResponse(keys=[KEY]),
        "UpdateKey": lambda _: billing_pb2.UpdateKeyResponse(key=KEY),
    }
    assert quickthaw("keys", "update", "k", "--concurrent-requests", "4").status == 0
    asked = platform.calls("UpdateKey")[0]
    assert asked.limits == billing_pb2.KeyLimits(
        requests_per_minute=60, concurrent_requests=4, models=["acme/*"]
    )
    assert not asked.HasField("label")
    assert not asked.HasField("expires_unix_ms")
    assert quickthaw("keys", "update", "k", "--label", "x", "--expires", "never").status == 0
    assert platform.calls("UpdateKey")[1] == billing_pb2.UpdateKeyRequest(
        key_id="k", label="x", expires_unix_ms=0
    )
    both = quickthaw("keys", "update", "k", "--model", "a/b", "--any-model")
    assert both.status == 2
