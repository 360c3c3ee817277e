from __future__ import annotations

from quickthaw.snapshot import Residency, SnapshotStore, Tier
from quickthaw.snapshot.plan import plan


def test_the_plan_takes_each_component_from_its_fastest_tier_in_load_order(
    store: SnapshotStore, digests: dict[str, str]
) -> None:
    manifest = store.open(digests["flux"]).manifest
    names = [part.name for part in manifest.components]
    assert names == ["text_encoder", "text_encoder_2", "transformer", "vae"]
    tiers = [{Tier.DISK}, {Tier.DISK, Tier.PINNED}, {Tier.VRAM, Tier.DISK}, set()]
    residency = {
        part.digest: Residency(frozenset(places), part.data_bytes, 0)
        for part, places in zip(manifest.components, tiers, strict=True)
    }
    found = plan(manifest, residency)
    assert [step.source for step in found.steps] == [
        Tier.DISK,
        Tier.PINNED,
        Tier.VRAM,
        Tier.REMOTE,
    ]
    transformer = manifest.component("transformer").data_bytes
    assert found.missing_bytes == manifest.weight_bytes - transformer
    assert found.bytes_from(Tier.VRAM) == transformer


def test_a_component_nobody_has_heard_of_is_remote(
    store: SnapshotStore, digests: dict[str, str]
) -> None:
    found = plan(store.open(digests["sd"]).manifest, {})
    assert {step.source for step in found.steps} == {Tier.REMOTE}
