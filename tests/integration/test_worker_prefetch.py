"""A real worker that is asked to bring models nearer ahead of need."""

from __future__ import annotations

import pytest

from quickthaw.snapshot import SnapshotStore
from quickthaw.v1 import fleet_pb2
from support.platform import until
from support.studio import DISK, PINNED, VRAM, Packed, Studio

# diffusers' Euler scheduler hands torch tensors to NumPy in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


async def bring_in(studio: Studio, model: str) -> None:
    """When the worker is ready: into the worker's own store, as a model that was drawn once is."""
    await studio.worker.ready.wait()
    ours = SnapshotStore(studio.data_dir / "snapshots")
    ours.import_(studio.packed.folder, studio.packed.digests[model])


def prefetch(studio: Studio, model: str, tier: int) -> set[str]:
    parts = studio.packed.components(model)
    studio.session.send(
        prefetch=fleet_pb2.Prefetch(
            model=f"test/{model}",
            family="sd",
            snapshot_digest=studio.packed.digests[model],
            snapshot_uri=str(studio.packed.folder),
            digests=parts.values(),
            tier=tier,  # type: ignore[arg-type]  # an enum's number
        )
    )
    return set(parts.values())


async def test_a_model_that_was_prefetched_to_vram_starts_from_there(studio: Studio) -> None:
    await bring_in(studio, "sd")
    parts = prefetch(studio, "sd", VRAM)
    await until(lambda: parts <= studio.resident(VRAM), "the prefetch")
    end = await studio.draw("sd")
    assert {part.source for part in end.load.components} == {VRAM}


async def test_a_model_that_was_prefetched_to_pinned_memory_starts_from_there(
    studio: Studio,
) -> None:
    await bring_in(studio, "sd")
    parts = prefetch(studio, "sd", PINNED)
    await until(lambda: parts <= studio.resident(PINNED), "the prefetch")
    end = await studio.draw("sd")
    assert {part.source for part in end.load.components} == {PINNED}


async def test_what_comes_of_a_prefetch_can_be_unloaded_again(studio: Studio) -> None:
    await bring_in(studio, "sd")
    parts = prefetch(studio, "sd", VRAM)
    await until(lambda: parts <= studio.resident(VRAM), "the prefetch")
    studio.session.send(unload=fleet_pb2.Unload(digests=parts, tier=VRAM))
    await until(lambda: not parts & studio.resident(VRAM), "the prefetch")
    assert parts <= studio.resident(PINNED)


async def test_a_snapshot_that_is_not_here_is_not_copied_for_a_hint(studio: Studio) -> None:
    await studio.worker.ready.wait()
    prefetch(studio, "sd-other", VRAM)
    await until(
        lambda: studio.worker.metric("prefetches_total", outcome="given_up") == 1, "the prefetch"
    )
    assert not studio.resident(DISK) & set(studio.packed.components("sd-other").values())


def _room_for_one(packed: Packed) -> tuple[str, ...]:
    """VRAM for the larger of two unrelated models and its working memory, and no more."""
    store = SnapshotStore(packed.folder)
    working = store.open(packed.digests["sdxl"]).manifest.working_set_bytes
    weights = max(packed.weight_bytes(name) for name in ("sd", "sdxl"))
    return ("--vram-bytes", str(weights + working + 100_000))


@pytest.mark.parametrize("studio", [_room_for_one], indirect=True)
async def test_a_prefetch_pushes_nothing_out_and_goes_first_itself(studio: Studio) -> None:
    await bring_in(studio, "sd")
    await studio.draw("sdxl")
    prefetch(studio, "sd", VRAM)
    end = await studio.draw("sdxl")
    assert {part.source for part in end.load.components} == {VRAM}
    # Whatever of the other came meanwhile is no obstacle either.
    await studio.draw("sd")
    await studio.draw("sdxl")
