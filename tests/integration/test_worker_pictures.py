"""Prompt to picture: real tiny pipelines, real snapshots, a real stream, a real blob store."""

from __future__ import annotations

import hashlib
import io
import json
import resource
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from quickthaw.snapshot import Loader, SnapshotStore
from quickthaw.snapshot.pack import pack
from quickthaw.v1 import fleet_pb2, types_pb2
from quickthaw.worker import drawing
from support.fake_scheduler import FakeScheduler, Session
from support.tiny_models import tiny_flux, tiny_sd, tiny_sdxl
from support.workers import RunningWorker, a_worker

SUCCEEDED = types_pb2.REQUEST_STATE_SUCCEEDED
FAILED = types_pb2.REQUEST_STATE_FAILED
CANCELLED = types_pb2.REQUEST_STATE_CANCELLED
VRAM, PINNED, DISK = types_pb2.TIER_VRAM, types_pb2.TIER_PINNED, types_pb2.TIER_DISK
PROMPT = "a red circle above a blue square"

# diffusers' Euler scheduler hands torch tensors to NumPy in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


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


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    folder = tmp_path_factory.mktemp("packed")
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
        self.count += 1
        attempt_id = attempt_id or f"{model}-{self.count}"
        words = {"prompt": PROMPT, "num_inference_steps": 2, "seed": 7, **given}
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
        end = await self.session.finished(self.assign(model, **given))  # type: ignore[arg-type]  # see assign
        assert end.outcome == SUCCEEDED, end.failure
        return end

    async def fail(self, model: str, **given: object) -> types_pb2.Failure:
        end = await self.session.finished(self.assign(model, **given))  # type: ignore[arg-type]  # see assign
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


@pytest.fixture
async def scheduler() -> AsyncIterator[FakeScheduler]:
    async with FakeScheduler() as scheduler:
        yield scheduler


@pytest.fixture
async def studio(
    scheduler: FakeScheduler, packed: Packed, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Studio]:
    flags = getattr(request, "param", ())
    if callable(flags):
        flags = flags(packed)
    async with a_worker(scheduler, tmp_path, "--pinned-bytes", "64MiB", *flags) as worker:
        session = await scheduler.attached()
        session.welcome()
        yield Studio(session, worker, packed, tmp_path)


@pytest.mark.parametrize("model", ["sd", "sdxl", "flux"])
async def test_a_prompt_becomes_a_picture_in_the_blob_store(studio: Studio, model: str) -> None:
    end = await studio.draw(model, num_images=2)
    assert [a.uri for a in end.artifacts] == [
        f"artifacts/{end.request_id}/0.png",
        f"artifacts/{end.request_id}/1.png",
    ]
    for artifact in end.artifacts:
        content = studio.file(artifact)
        assert hashlib.sha256(content).hexdigest() == artifact.sha256
        assert len(content) == artifact.size_bytes
        assert artifact.content_type == "image/png"
        assert Image.open(io.BytesIO(content)).size == (artifact.width, artifact.height) == (32, 32)
    assert end.seed == 7
    assert json.loads(end.output_json)["seed"] == 7
    assert end.metered_ms > 0
    assert end.load.total_seconds > 0
    assert 0 < end.load.first_step_seconds < end.metered_ms / 1000 + 0.01
    assert end.start_tier == DISK
    assert [m.event.progress.step for m in studio.session.seen("progress")] == [1, 2]
    running = studio.session.seen("running")[0].running
    assert running.start_tier == DISK
    assert {part.name for part in running.load.components} == set(studio.packed.components(model))


async def test_the_second_request_starts_from_vram_and_moves_nothing(studio: Studio) -> None:
    cold = await studio.draw("sd")
    warm = await studio.draw("sd")
    assert warm.start_tier == VRAM
    assert {part.source for part in warm.load.components} == {VRAM}
    assert warm.load.bytes_seconds == 0
    assert [a.sha256 for a in warm.artifacts] == [a.sha256 for a in cold.artifacts]
    assert studio.worker.metric("cold_starts_total") == 1
    assert studio.worker.metric("load_seconds_count", tier="disk") == 1
    assert studio.worker.metric("load_seconds_count", tier="vram") == 1


@pytest.mark.parametrize("model", ["sd", "sdxl", "flux"])
async def test_the_same_seed_draws_the_same_bytes_and_another_seed_another_picture(
    studio: Studio, model: str
) -> None:
    first = await studio.draw(model, seed=3)
    again = await studio.draw(model, seed=3)
    other = await studio.draw(model, seed=4)
    assert first.artifacts[0].sha256 == again.artifacts[0].sha256
    assert first.artifacts[0].sha256 != other.artifacts[0].sha256


@pytest.mark.parametrize("model", ["sd", "flux"])
async def test_an_image_of_a_batch_can_be_drawn_again_alone(studio: Studio, model: str) -> None:
    batch = await studio.draw(model, seed=10, num_images=3)
    alone = await studio.draw(model, seed=12)
    difference = studio.pixels(batch.artifacts[2]) - studio.pixels(alone.artifacts[0])
    assert np.abs(difference).max() <= 1
    assert batch.artifacts[0].sha256 != batch.artifacts[2].sha256


async def test_a_request_without_a_seed_reports_the_one_that_draws_it_again(
    studio: Studio,
) -> None:
    drawn = await studio.draw("sd", seed=None)
    other = await studio.draw("sd", seed=None)
    assert drawn.seed != other.seed
    again = await studio.draw("sd", seed=drawn.seed)
    assert again.artifacts[0].sha256 == drawn.artifacts[0].sha256


async def test_size_and_format_are_the_callers(studio: Studio) -> None:
    end = await studio.draw("sd", image_size={"width": 48, "height": 32}, output_format="jpeg")
    (artifact,) = end.artifacts
    picture = Image.open(io.BytesIO(studio.file(artifact)))
    assert (picture.format, picture.size) == ("JPEG", (48, 32))
    assert (artifact.name, artifact.content_type) == ("0.jpeg", "image/jpeg")


@pytest.mark.parametrize("model", ["sd", "sdxl", "flux"])
async def test_previews_come_at_the_first_step_and_then_every_so_many(
    studio: Studio, model: str
) -> None:
    await studio.draw(model, num_inference_steps=5, preview_every=2, num_images=2)
    previews = [message.event.preview for message in studio.session.seen("preview")]
    assert [(p.step, p.image_index) for p in previews] == [
        (step, image) for step in (1, 2, 4) for image in (0, 1)
    ]
    for preview in previews:
        picture = Image.open(io.BytesIO(preview.data))
        assert picture.format == "JPEG"
        assert picture.size == (preview.width, preview.height) == (32, 32)


async def test_no_previews_unless_asked_for(studio: Studio) -> None:
    await studio.draw("sd")
    assert not studio.session.seen("preview")


async def test_a_run_is_cancelled_between_two_steps(studio: Studio) -> None:
    attempt = studio.assign("sd", num_inference_steps=500)
    await studio.session.next("progress", attempt)
    studio.session.cancel(attempt)
    end = await studio.session.finished(attempt)
    assert end.outcome == CANCELLED
    assert end.metered_ms > 0
    assert not end.artifacts
    assert len(studio.session.seen("progress", attempt)) < 500
    assert not (studio.data_dir / "blobs" / "artifacts").exists()
    # The pipeline draws the next request as if nothing had been.
    fresh = await studio.draw("sd")
    again = await studio.draw("sd")
    assert fresh.artifacts[0].sha256 == again.artifacts[0].sha256


async def test_a_picture_survives_a_broken_stream(scheduler: FakeScheduler, studio: Studio) -> None:
    attempt = studio.assign("sd", num_inference_steps=200)
    await studio.session.next("progress", attempt)
    studio.session.hang_up()
    second = await scheduler.attached()
    second.welcome()
    assert [a.attempt_id for a in second.hello.attempts] == [attempt]
    assert {line.digest for line in second.hello.residency if line.tier == VRAM} == set(
        studio.packed.components("sd").values()
    )
    end = await second.finished(attempt)
    assert end.outcome == SUCCEEDED
    assert end.artifacts[0].sha256
    assert len(second.seen("finished", attempt)) == 1


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
    await studio.draw("sd-other", evict=gone)
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


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"prompt": 5}, "input.prompt"),
        ({"image_size": {"width": 33, "height": 32}}, "input.image_size.width"),
        ({"num_images": 99}, "input.num_images"),
        ({"num_inference_steps": 0}, "input.num_inference_steps"),
        ({"colour": "red"}, "input"),
    ],
)
async def test_input_that_does_not_fit_the_schema_names_the_field(
    studio: Studio, given: dict[str, object], field: str
) -> None:
    failure = await studio.fail("sd", **given)
    assert failure.reason == "INVALID_INPUT"
    assert [line.field for line in failure.violations] == [field]


async def test_a_corrupted_snapshot_is_told_as_such_and_is_not_retryable(
    studio: Studio, tmp_path: Path
) -> None:
    store = SnapshotStore(tmp_path / "snapshots")
    store.import_(studio.packed.folder, studio.packed.digests["sd"])
    path = store.component_path(studio.packed.components("sd")["unet"])
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    failure = await studio.fail("sd")
    assert failure.reason == "SNAPSHOT_CORRUPT"
    assert not failure.retryable
    assert "unet" in failure.message
    await studio.draw("sd-other")  # and the worker goes on


async def test_a_snapshot_from_nowhere_is_a_clear_failure(studio: Studio, tmp_path: Path) -> None:
    studio.session.assign(
        "s3", family="sd", snapshot_digest="0" * 64, snapshot_uri="s3://bucket/x", input_json="{}"
    )
    end = await studio.session.finished("s3")
    assert end.failure.reason == "FAILED_PRECONDITION"
    assert "supported are absolute folder paths and file:// URLs" in end.failure.message
    studio.session.assign(
        "gone",
        family="sd",
        snapshot_digest="0" * 64,
        snapshot_uri=str(tmp_path / "gone"),
        input_json="{}",
    )
    end = await studio.session.finished("gone")
    assert end.failure.reason == "NOT_FOUND"
    assert str(tmp_path / "gone") in end.failure.message


async def test_a_catalog_that_names_another_family_is_told(studio: Studio) -> None:
    studio.session.assign(
        "a1",
        family="sdxl",
        snapshot_digest=studio.packed.digests["sd"],
        snapshot_uri=str(studio.packed.folder),
        input_json="{}",
    )
    end = await studio.session.finished("a1")
    assert end.failure.reason == "INVALID_ARGUMENT"
    assert "of the family 'sd', not 'sdxl'" in end.failure.message


@contextmanager
def _no_file_grows_beyond(size_bytes: int) -> Iterator[None]:
    """The operating system refuses longer files, as it refuses all on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_blob_store_fails_the_request_by_name_and_leaves_nothing(
    studio: Studio,
) -> None:
    await studio.draw("sd")
    with _no_file_grows_beyond(1000):
        attempt = studio.assign("sd", num_images=2)
        end = await studio.session.finished(attempt)
    assert (end.outcome, end.failure.reason) == (FAILED, "STORAGE_FULL")
    assert str(studio.data_dir / "blobs") in end.failure.message
    assert end.failure.retryable
    folder = studio.data_dir / "blobs" / "artifacts" / end.request_id
    assert not folder.exists() or not list(folder.iterdir())
    assert end.metered_ms > 0


async def test_weights_that_are_not_finite_fail_the_request(studio: Studio, tmp_path: Path) -> None:
    broken = tiny_sd(seed=3)
    with torch.no_grad():
        broken.vae.decoder.conv_out.bias.fill_(float("nan"))
    folder = tmp_path / "broken"
    digest = pack(broken, folder)
    studio.session.assign(
        "nan",
        family="sd",
        snapshot_digest=digest,
        snapshot_uri=str(folder),
        input_json=json.dumps({"prompt": PROMPT, "num_inference_steps": 1}),
    )
    end = await studio.session.finished("nan")
    assert (end.outcome, end.failure.reason) == (FAILED, "ENGINE_FAILED")
    assert "not finite" in end.failure.message
    assert not end.artifacts


def _out_of_memory_times(times: int, then: Callable[..., Any]) -> Callable[..., Any]:
    """A GPU whose memory somebody else has taken: not to be had on a machine without one."""
    left = [times]

    def call(*args: Any, **kwargs: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return then(*args, **kwargs)

    return call


@pytest.mark.parametrize("where", ["run", "load"])
async def test_out_of_memory_evicts_what_is_idle_and_tries_once_more(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    await studio.draw("sd")
    owner, name = (drawing, "draw") if where == "run" else (Loader, "load")
    monkeypatch.setattr(owner, name, _out_of_memory_times(1, getattr(owner, name)))
    await studio.draw("flux")
    assert studio.resident(VRAM) == set(studio.packed.components("flux").values())
    assert studio.worker.metric("evictions_total", tier="vram") == 3


@pytest.mark.parametrize("where", ["run", "load"])
async def test_out_of_memory_for_good_is_told_with_what_to_do(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    owner, name = (drawing, "draw") if where == "run" else (Loader, "load")
    monkeypatch.setattr(owner, name, _out_of_memory_times(2, getattr(owner, name)))
    failure = await studio.fail("sd")
    assert failure.reason == "RESOURCE_EXHAUSTED"
    assert "ask for a smaller image" in failure.message
    assert failure.retryable
    await studio.draw("sd")
