"""What a caller is told when a picture cannot be drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from quickthaw.snapshot import Loader, SnapshotStore
from quickthaw.snapshot.pack import pack
from quickthaw.worker import drawing
from support.full_disk import no_file_grows_beyond
from support.studio import (
    FAILED,
    PROMPT,
    VRAM,
    Studio,
)
from support.tiny_models import tiny_sd

# diffusers' Euler scheduler hands torch tensors to NumPy in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


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
        "s3", family="sd", snapshot_digest="0" * 64, snapshot_uri="ftp://host/x", input_json="{}"
    )
    end = await studio.session.finished("s3")
    assert end.failure.reason == "SETTINGS_INVALID"
    assert "known are s3" in end.failure.message
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


async def test_a_full_blob_store_fails_the_request_by_name_and_leaves_nothing(
    studio: Studio,
) -> None:
    await studio.draw("sd")
    with no_file_grows_beyond(1000):
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
