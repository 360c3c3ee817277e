"""A real worker with packed tiny models, and the scheduler's end of its stream."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.pack import pack
from quickthaw.v1 import fleet_pb2, types_pb2
from support.fake_scheduler import Session
from support.tiny_models import tiny_flux, tiny_sd, tiny_sdxl
from support.workers import RunningWorker

SUCCEEDED = types_pb2.REQUEST_STATE_SUCCEEDED
FAILED = types_pb2.REQUEST_STATE_FAILED
CANCELLED = types_pb2.REQUEST_STATE_CANCELLED
VRAM, PINNED, DISK = types_pb2.TIER_VRAM, types_pb2.TIER_PINNED, types_pb2.TIER_DISK
PROMPT = "a red circle above a blue square"


@dataclass(frozen=True)
class Packed:
    """Snapshots of tiny pipelines in one folder, by name."""

    folder: Path
    digests: dict[str, str]

    def components(self, name: str) -> dict[str, str]:
        manifest = SnapshotStore(self.folder).open(self.digests[name]).manifest
        return {part.name: part.digest for part in manifest.components}

    def weight_bytes(self, name: str) -> int:
        return SnapshotStore(self.folder).open(self.digests[name]).manifest.weight_bytes


@dataclass
class Studio:
    """A worker with the local snapshots, and the scheduler's end of its stream."""

    session: Session
    worker: RunningWorker
    packed: Packed
    data_dir: Path
    count: int = 0

    def assign(
        self, model: str, evict: tuple[str, ...] = (), attempt_id: str = "", **given: object
    ) -> str:
        return self.ask(model, given, evict=evict, attempt_id=attempt_id)

    def ask(
        self,
        model: str,
        given: Mapping[str, object],
        *,
        evict: tuple[str, ...] = (),
        attempt_id: str = "",
    ) -> str:
        """`assign`, with the request's input as one mapping."""
        self.count += 1
        attempt_id = attempt_id or f"{model}-{self.count}"
        words = {"prompt": PROMPT, "num_inference_steps": 2, "seed": 7, **given}
        words = {name: value for name, value in words.items() if value is not None}
        self.session.assign(
            attempt_id,
            family=model.partition("-")[0],
            model=f"test/{model}",
            snapshot_digest=self.packed.digests.get(model, model),
            snapshot_uri=str(self.packed.folder),
            input_json=json.dumps(words),
            evict_digests=evict,
        )
        return attempt_id

    async def draw(self, model: str, **given: object) -> fleet_pb2.AttemptFinished:
        return await self.drawn(self.ask(model, given))

    async def drawn(self, attempt_id: str) -> fleet_pb2.AttemptFinished:
        end = await self.session.finished(attempt_id)
        assert end.outcome == SUCCEEDED, end.failure
        return end

    async def fail(self, model: str, **given: object) -> types_pb2.Failure:
        end = await self.session.finished(self.ask(model, given))
        assert end.outcome == FAILED
        return end.failure

    def file(self, artifact: types_pb2.Artifact) -> bytes:
        return (self.data_dir / "blobs" / artifact.uri).read_bytes()

    def pixels(self, artifact: types_pb2.Artifact) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(self.file(artifact))).convert("RGB"), dtype=int)

    def resident(self, tier: int) -> set[str]:
        """What the scheduler has been told, put together from the deltas."""
        known: set[str] = set()
        for message in self.session.seen("residency"):
            known |= {line.digest for line in message.residency.added if line.tier == tier}
            known -= {line.digest for line in message.residency.removed if line.tier == tier}
        return known


def pack_all_kinds(folder: Path) -> Packed:
    """Every family, a fine-tune that shares parts with its base, and an unrelated model."""
    store = SnapshotStore(folder)
    base, tuned = tiny_sd(seed=0), tiny_sd(seed=1)
    # A fine-tune: another UNet beside the same text encoder and VAE.
    tuned.register_modules(text_encoder=base.text_encoder, vae=base.vae)
    pipelines = {
        "sd": base,
        "sd-tuned": tuned,
        "sd-other": tiny_sd(seed=2),
        "sdxl": tiny_sdxl(),
        "flux": tiny_flux(),
    }
    return Packed(folder, {name: pack(each, store) for name, each in pipelines.items()})
