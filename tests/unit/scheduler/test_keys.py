"""Keys: what proves a caller, and what does not."""

from __future__ import annotations

import dataclasses

import pytest

from quickthaw.scheduler.keys import KeyRecord, KeyRing, Scope, check_tenant, new_key
from quickthaw.wire import errors

NOW_MS = 1_000_000


class Keys:
    """A store of keys that counts its reads."""

    def __init__(self, *records: KeyRecord) -> None:
        self.records = {record.key_id: record for record in records}
        self.reads = 0

    async def load(self, key_id: str) -> KeyRecord | None:
        self.reads += 1
        return self.records.get(key_id)


def a_key(*scopes: Scope, expires_ms: int = 0) -> tuple[KeyRecord, str]:
    return new_key(
        tenant="acme", scopes=frozenset(scopes), label="", now_ms=1, expires_ms=expires_ms
    )


async def test_a_secret_proves_its_tenant_and_scopes_with_one_read() -> None:
    record, secret = a_key(Scope.CALL)
    keys = Keys(record)
    ring = KeyRing(keys.load, cached_max=16)
    for _ in range(3):
        caller = await ring.authenticate(f"Key {secret}", NOW_MS)
    assert (caller.tenant, caller.key_id) == ("acme", record.key_id)
    assert caller.may(Scope.CALL)
    assert not caller.may(Scope.ADMIN)
    assert keys.reads == 1


async def test_only_the_hash_of_a_secret_is_kept() -> None:
    record, secret = a_key(Scope.CALL)
    _, _, proof = secret.split("_", 2)  # the proof may hold underscores of its own
    assert proof not in repr(record)
    assert len(record.secret_sha256) == 64


async def test_an_admin_may_do_everything() -> None:
    record, secret = a_key(Scope.ADMIN)
    caller = await KeyRing(Keys(record).load, cached_max=16).authenticate(f"Key {secret}", NOW_MS)
    assert all(caller.may(scope) for scope in Scope)


@pytest.mark.parametrize(
    ("authorization", "words"),
    [
        (None, "no key"),
        ("Bearer abc", "must read 'Key qt_...'"),
        ("Key nonsense", "not valid"),
        ("Key qt_000000000000_" + "a" * 43, "not valid"),
        ("Key " + "x" * 100_000, "not valid"),
    ],
)
async def test_what_is_no_key_is_refused(authorization: str | None, words: str) -> None:
    ring = KeyRing(Keys().load, cached_max=16)
    with pytest.raises(errors.Unauthenticated, match=words):
        await ring.authenticate(authorization, NOW_MS)


async def test_a_known_id_with_another_secret_is_refused() -> None:
    record, secret = a_key(Scope.CALL)
    ring = KeyRing(Keys(record).load, cached_max=16)
    other = secret[:-1] + ("A" if secret[-1] != "A" else "B")
    with pytest.raises(errors.Unauthenticated, match="not valid"):
        await ring.authenticate(f"Key {other}", NOW_MS)


async def test_an_expired_key_is_refused_from_its_moment_on() -> None:
    record, secret = a_key(Scope.CALL, expires_ms=NOW_MS)
    ring = KeyRing(Keys(record).load, cached_max=16)
    await ring.authenticate(f"Key {secret}", NOW_MS - 1)
    with pytest.raises(errors.Unauthenticated, match="expired"):
        await ring.authenticate(f"Key {secret}", NOW_MS)


async def test_a_revocation_takes_effect_at_once() -> None:
    record, secret = a_key(Scope.CALL)
    ring = KeyRing(Keys(record).load, cached_max=16)
    await ring.authenticate(f"Key {secret}", NOW_MS)
    ring.put(dataclasses.replace(record, revoked_unix_ms=NOW_MS))
    with pytest.raises(errors.Unauthenticated, match="revoked"):
        await ring.authenticate(f"Key {secret}", NOW_MS)


async def test_guessing_neither_fills_the_memory_nor_reads_the_store_twice() -> None:
    keys = Keys()
    ring = KeyRing(keys.load, cached_max=16)
    for number in range(100):
        guess = f"Key qt_{number:012}_{'a' * 43}"
        for _ in range(2):
            with pytest.raises(errors.Unauthenticated):
                await ring.authenticate(guess, NOW_MS)
    assert keys.reads == 100
    assert len(ring._cached) == 16


@pytest.mark.parametrize("tenant", ["", "A", "a b", "x" * 65, "a/b", "ä"])
def test_a_tenant_with_a_bad_name_is_refused(tenant: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        check_tenant(tenant)
    assert caught.value.violations[0].field == "tenant"
