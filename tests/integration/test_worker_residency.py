"""What a worker keeps where: tiers, shared components, eviction, room that is waited for."""

from __future__ import annotations

from pathlib import Path

import pytest

from quickthaw.snapshot import SnapshotStore
from quickthaw.v1 import fleet_pb2
from support.studio import (
    DISK,
    PINNED,
    SUCCEEDED,
    VRAM,
    Packed,
    Studio,
)

# diffusers' Euler scheduler hands torch tensors to NumPy in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


# ---- residency ---------------------------------------------------------------------------------


async def test_residency_is_told_by_tier(studio: Studio) -> None:
    await studio.draw("sd")
    parts = set(studio.packed.components("sd").values())
    assert studio.resident(VRAM) == parts
    assert studio.resident(PINNED) == parts
    assert studio.resident(DISK) >= parts
    weights = studio.packed.weight_bytes("sd")
    assert studio.worker.metric("resident_bytes", tier="vram") == weights


async def test_only_the_snapshot_that_is_needed_is_brought_in(
    studio: Studio, tmp_path: Path
) -> None:
    await studio.draw("sd")
    assert list(SnapshotStore(tmp_path / "snapshots")) == [studio.packed.digests["sd"]]


async def test_models_share_the_components_they_have_in_common(studio: Studio) -> None:
    base = await studio.draw("sd")
    tuned = await studio.draw("sd-tuned")
    sources = {part.name: part.source for part in tuned.load.components}
    assert sources == {"text_encoder": VRAM, "vae": VRAM, "unet": DISK}
    parts = studio.packed.components("sd"), studio.packed.components("sd-tuned")
    assert studio.resident(VRAM) == set(parts[0].values()) | set(parts[1].values())
    assert base.artifacts[0].sha256 != tuned.artifacts[0].sha256


def _room_for_two(packed: Packed) -> tuple[str, ...]:
    """VRAM for two of the three unrelated models, by weights and estimated working memory."""
    store = SnapshotStore(packed.folder)
    working = max(store.open(packed.digests[n]).manifest.working_set_bytes for n in ("sd", "sdxl"))
    weights = sum(packed.weight_bytes(name) for name in ("sd", "sdxl"))
    return ("--vram-bytes", str(weights + working + 100_000))


@pytest.mark.parametrize("studio", [_room_for_two], indirect=True)
async def test_the_least_recently_used_model_makes_room(studio: Studio) -> None:
    await studio.draw("sd")
    await studio.draw("sdxl")
    await studio.draw("sd")
    await studio.draw("flux")  # sdxl was used longest ago
    resident = studio.resident(VRAM)
    assert set(studio.packed.components("flux").values()) <= resident
    assert not set(studio.packed.components("sdxl").values()) <= resident
    assert studio.worker.metric("evictions_total", tier="vram") >= 1
    back = await studio.draw("sdxl")
    assert back.start_tier == PINNED


async def test_what_the_scheduler_says_goes_first(studio: Studio) -> None:
    await studio.draw("sd")
    gone = tuple(studio.packed.components("sd").values())
    await studio.drawn(studio.assign("sd-other", evict=gone))
    assert studio.resident(VRAM) == set(studio.packed.components("sd-other").values())


async def test_what_runs_is_never_evicted(studio: Studio) -> None:
    running = studio.assign("sd", num_inference_steps=500)
    await studio.session.next("progress", running)
    parts = tuple(studio.packed.components("sd").values())
    waiting = studio.assign("sd-other", evict=parts)
    studio.session.send(unload=fleet_pb2.Unload(digests=parts, tier=VRAM))
    await studio.session.next("loading", waiting)
    while not set(studio.packed.components("sd-other").values()) <= studio.resident(VRAM):
        await studio.session.next("residency")
    assert set(parts) <= studio.resident(VRAM)  # loaded beside it, while it ran
    assert not studio.session.seen("finished", running)
    studio.session.cancel(running)
    assert (await studio.session.finished(waiting)).outcome == SUCCEEDED


def _room_for_one(packed: Packed) -> tuple[str, ...]:
    return ("--vram-bytes", str(packed.weight_bytes("sdxl") + 50_000))


@pytest.mark.parametrize("studio", [_room_for_one], indirect=True)
async def test_a_load_waits_for_room_that_a_run_still_uses(studio: Studio) -> None:
    first = studio.assign("sdxl", num_inference_steps=30)
    await studio.session.next("progress", first)
    second = studio.assign("sd")
    assert (await studio.session.finished(first)).outcome == SUCCEEDED
    assert (await studio.session.finished(second)).outcome == SUCCEEDED
    assert studio.resident(VRAM) >= set(studio.packed.components("sd").values())


@pytest.mark.parametrize("studio", [("--vram-bytes", "100KiB")], indirect=True)
async def test_a_model_that_can_never_fit_is_refused_with_the_numbers(studio: Studio) -> None:
    failure = await studio.fail("sd")
    assert failure.reason == "MODEL_CANNOT_FIT"
    assert "102400 bytes of device memory" in failure.message


async def test_unload_frees_what_is_idle(studio: Studio) -> None:
    await studio.draw("sd")
    parts = set(studio.packed.components("sd").values())
    for tier in (VRAM, PINNED):
        studio.session.send(unload=fleet_pb2.Unload(digests=sorted(parts), tier=tier))
    while studio.resident(VRAM) or studio.resident(PINNED):
        await studio.session.next("residency")
    assert studio.resident(DISK) >= parts
    assert (await studio.draw("sd")).start_tier == DISK


# ---- what goes wrong ---------------------------------------------------------------------------


async def test_an_over_long_prompt_is_refused_with_its_length_and_the_limit(
    studio: Studio,
) -> None:
    failure = await studio.fail("sd", prompt="red square " * 40)
    assert failure.reason == "INVALID_INPUT"
    assert [line.field for line in failure.violations] == ["input.prompt"]
    told = failure.violations[0].description
    assert "reads at most 16" in told
    assert int(told.split()[1]) > 16
    negative = await studio.fail("sd", negative_prompt="red square " * 40)
    assert [line.field for line in negative.violations] == ["input.negative_prompt"]


async def test_flux_reads_by_t5_and_says_what_clip_does_not_see(studio: Studio) -> None:
    # One token a word, and T5 adds one mark where CLIP adds two.
    await studio.draw("flux", prompt="circle " * 15)
    (line,) = studio.session.seen("log")
    assert line.event.log.level == "warning"
    assert "first 16" in line.event.log.text
    failure = await studio.fail("flux", prompt="circle " * 40)
    assert failure.reason == "INVALID_INPUT"
    assert "text_encoder_2 reads at most 16" in failure.message
