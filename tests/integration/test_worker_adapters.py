"""Fine-tunes on a worker: a LoRA and a delta cost what differs, and leave their base as it was."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.pack import pack
from quickthaw.v1 import fleet_pb2
from support.deltas import tuned_sd
from support.loras import lora
from support.studio import DISK, SUCCEEDED, VRAM, Packed, Studio
from support.tiny_models import tiny_sd

# diffusers' Euler scheduler hands torch tensors to NumPy in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """A base, two LoRAs of it, and a fine-tune of one tensor as a delta and in full."""
    folder = tmp_path_factory.mktemp("fine-tunes")
    store = SnapshotStore(folder / "store")
    base = pack(tiny_sd(0), store)
    digests = {"sd": base}
    for seed, name in enumerate(("sd-lora", "sd-other"), 1):
        path = lora(folder / f"{name}.safetensors", tiny_sd(0), ("unet", "text_encoder"), seed=seed)
        digests[name] = pack(path, store, base=base)
    tuned = tuned_sd("conv_in.weight")
    digests["sd-delta"] = pack(tuned, store, base=base)
    digests["sd-full"] = pack(tuned, store)
    return Packed(store.root, digests)


def picture(end: fleet_pb2.AttemptFinished) -> str:
    return end.artifacts[0].sha256


def sources(end: fleet_pb2.AttemptFinished) -> dict[str, int]:
    return {part.name: part.source for part in end.load.components}


async def test_the_receipt_of_a_lora_says_that_only_its_adapters_were_read(studio: Studio) -> None:
    base = await studio.draw("sd")
    tuned = await studio.draw("sd-lora")
    assert sources(tuned) == {
        "lora_unet": DISK,
        "lora_text_encoder": DISK,
        "text_encoder": VRAM,
        "unet": VRAM,
        "vae": VRAM,
    }
    assert studio.resident(VRAM) == set(studio.packed.components("sd-lora").values())
    assert picture(tuned) != picture(base)


async def test_base_and_loras_take_turns_and_each_draws_its_own_picture(studio: Studio) -> None:
    first = {name: picture(await studio.draw(name)) for name in ("sd", "sd-lora", "sd-other")}
    assert len(set(first.values())) == 3
    for name in ("sd-other", "sd", "sd-lora", "sd", "sd-other"):
        again = await studio.draw(name)
        assert picture(again) == first[name], name
        assert set(sources(again).values()) == {VRAM}


async def test_a_request_says_how_strongly_a_lora_acts(studio: Studio) -> None:
    base = picture(await studio.draw("sd"))
    full = picture(await studio.draw("sd-lora"))
    assert picture(await studio.draw("sd-lora", lora_scale=0)) == base
    assert picture(await studio.draw("sd-lora", lora_scale=0.5)) not in (base, full)
    assert picture(await studio.draw("sd-lora", lora_scale=1)) == full
    failure = await studio.fail("sd", lora_scale=1)
    assert "lora_scale" in failure.message, "the base has no such input"


async def test_requests_for_base_and_loras_at_once_do_not_mix(studio: Studio) -> None:
    alone = {name: picture(await studio.draw(name)) for name in ("sd", "sd-lora", "sd-other")}
    attempts = {studio.assign(name): name for _ in range(3) for name in alone}
    ends = await asyncio.gather(*(studio.session.finished(attempt) for attempt in attempts))
    for name, end in zip(attempts.values(), ends, strict=True):
        assert end.outcome == SUCCEEDED
        assert picture(end) == alone[name]


async def test_a_cancelled_run_of_a_lora_leaves_the_base_as_it_was(studio: Studio) -> None:
    before = picture(await studio.draw("sd"))
    attempt = studio.assign("sd-lora", num_inference_steps=500)
    await studio.session.next("progress", attempt)
    studio.session.cancel(attempt)
    await studio.session.finished(attempt)
    assert picture(await studio.draw("sd")) == before


async def test_a_delta_draws_what_the_full_fine_tune_draws(studio: Studio, tmp_path: Path) -> None:
    await studio.draw("sd")
    delta = await studio.draw("sd-delta")
    assert {part.name: part.copier for part in delta.load.components if part.source == DISK} == {
        "unet": "delta"
    }
    store = SnapshotStore(tmp_path / "snapshots")
    unet = store.open(studio.packed.digests["sd-delta"]).manifest.component("unet")
    assert not store.component_path(unet.digest).exists()
    full = await studio.drawn(studio.assign("sd-full", evict=(unet.digest,)))
    assert picture(delta) == picture(full)
