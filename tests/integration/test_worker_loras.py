"""A request's own LoRAs on a worker: brought while it loads, on for its run, gone after it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.pack import pack
from quickthaw.v1 import fleet_pb2, types_pb2
from quickthaw.worker.adapters import Adapters
from support.loras import lora
from support.studio import FAILED, SUCCEEDED, VRAM, Packed, Studio
from support.tiny_models import tiny_sd, tiny_sdxl

# diffusers' Euler scheduler hands torch tensors to NumPy in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    both = ("unet", "text_encoder")
    return {
        "one": lora(folder / "one.safetensors", tiny_sd(0), both, seed=1),
        "two": lora(folder / "two.safetensors", tiny_sd(0), ("unet",), seed=2, naming="kohya"),
        "xl": lora(folder / "xl.safetensors", tiny_sdxl(0), ("unet",), seed=3),
    }


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, files: dict[str, Path]) -> Packed:
    """A base, and the first LoRA over it as a model."""
    folder = tmp_path_factory.mktemp("packed")
    store = SnapshotStore(folder)
    base = pack(tiny_sd(0), store)
    digests = {"sd": base, "sd-one": pack(files["one"], store, base=base)}
    return Packed(folder, digests)


def kept(studio: Studio, path: Path, name: str = "") -> str:
    """Leaves a file where a gateway leaves it."""
    key = (name or path.stem).ljust(43, "x")
    target = studio.data_dir / "blobs" / "loras" / key
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(path.read_bytes())
    return f"blob:loras/{key}"


def picture(end: fleet_pb2.AttemptFinished) -> str:
    return end.artifacts[0].sha256


def told(end: fleet_pb2.AttemptFinished) -> list[types_pb2.ComponentLoad]:
    return [part for part in end.load.components if part.name.startswith("loras[")]


async def test_a_request_draws_as_the_packed_lora_does_and_the_next_as_the_base(
    studio: Studio, files: dict[str, Path]
) -> None:
    base = await studio.draw("sd")
    wanted = await studio.draw("sd-one")
    drawn = await studio.draw("sd", loras=[{"path": kept(studio, files["one"])}])
    assert picture(drawn) == picture(wanted)
    assert picture(await studio.draw("sd")) == picture(base) != picture(drawn)


async def test_the_receipt_tells_each_lora_and_that_the_second_use_moved_nothing(
    studio: Studio, files: dict[str, Path]
) -> None:
    one, two = kept(studio, files["one"]), kept(studio, files["two"])
    first = await studio.draw("sd", loras=[{"path": one}, {"path": two, "scale": 0.5}])
    assert [part.name for part in told(first)] == ["loras[0]", "loras[1]"]
    assert {part.source for part in told(first)} == {types_pb2.TIER_REMOTE}
    assert all(part.size_bytes and part.read_seconds > 0 for part in told(first))
    again = await studio.draw("sd", loras=[{"path": one}, {"path": two, "scale": 0.5}])
    assert {part.source for part in told(again)} == {VRAM}
    assert [part.digest for part in told(again)] == [part.digest for part in told(first)]
    assert picture(again) == picture(first)


async def test_order_counts_for_the_receipt_and_scale_for_the_picture(
    studio: Studio, files: dict[str, Path]
) -> None:
    one, two = kept(studio, files["one"]), kept(studio, files["two"])
    base = picture(await studio.draw("sd"))
    off = await studio.draw("sd", loras=[{"path": one, "scale": 0}, {"path": two, "scale": 0}])
    assert picture(off) == base
    half = await studio.draw("sd", loras=[{"path": one, "scale": 0.5}])
    full = await studio.draw("sd", loras=[{"path": one}])
    assert len({base, picture(half), picture(full)}) == 3


async def test_a_packed_lora_is_found_by_its_snapshot(studio: Studio) -> None:
    wanted = await studio.draw("sd-one")
    path = f"snapshot:{studio.packed.digests['sd-one']}@{studio.packed.folder}"
    drawn = await studio.draw("sd", loras=[{"path": path}])
    assert picture(drawn) == picture(wanted)
    (line,) = told(drawn)
    assert line.digest == studio.packed.digests["sd-one"]
    over = await studio.draw("sd-one", loras=[{"path": path, "scale": 0.5}])
    assert picture(over) != picture(wanted), "both act"


async def test_requests_with_different_loras_at_once_do_not_mix(
    studio: Studio, files: dict[str, Path]
) -> None:
    asked: dict[str, Any] = {
        "none": None,
        "one": [{"path": kept(studio, files["one"])}],
        "two": [{"path": kept(studio, files["two"])}],
    }
    alone = {name: picture(await studio.draw("sd", loras=each)) for name, each in asked.items()}
    assert len(set(alone.values())) == 3
    attempts = {studio.assign("sd", loras=asked[name]): name for _ in range(3) for name in asked}
    ends = await asyncio.gather(*(studio.session.finished(attempt) for attempt in attempts))
    for name, end in zip(attempts.values(), ends, strict=True):
        assert end.outcome == SUCCEEDED
        assert picture(end) == alone[name]


def out_of_memory_times(times: int) -> Callable[..., Any]:
    """A GPU whose memory somebody else has taken: not to be had on a machine without one."""
    left, then = [times], Adapters.bring

    def bring(*args: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return then(*args)

    return bring


async def test_for_a_lora_that_finds_no_memory_idle_models_go(
    studio: Studio, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loras = [{"path": kept(studio, files["two"])}]
    wanted = await studio.draw("sd", loras=loras)
    await studio.draw("sd-one")
    monkeypatch.setattr(Adapters, "bring", out_of_memory_times(1))
    assert picture(await studio.draw("sd", loras=loras)) == picture(wanted)
    assert studio.resident(VRAM) == set(studio.packed.components("sd").values())


async def test_without_memory_for_a_lora_its_request_fails_alone_and_may_be_tried_again(
    studio: Studio, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Adapters, "bring", out_of_memory_times(2))
    loras = [{"path": kept(studio, files["two"])}]
    failure = await studio.fail("sd", loras=loras)
    assert (failure.reason, failure.retryable) == ("RESOURCE_EXHAUSTED", True)
    assert "loading LoRAs for" in failure.message
    await studio.draw("sd", loras=loras)


# ---- what is wrong with one ----------------------------------------------------------------------


async def refused(studio: Studio, path: str) -> types_pb2.Failure:
    before = picture(await studio.draw("sd"))
    good = {"path": kept(studio, Path(__file__), "good")} if not path else {"path": path}
    end = await studio.session.finished(studio.assign("sd", loras=[good]))
    assert end.outcome == FAILED
    assert end.metered_ms == 0, "it fails before the meter opens"
    assert picture(await studio.draw("sd")) == before
    assert [each.field for each in end.failure.violations] == ["input.loras[0].path"]
    return end.failure


async def test_a_lora_of_another_model_is_refused_by_place(
    studio: Studio, files: dict[str, Path]
) -> None:
    failure = await refused(studio, kept(studio, files["xl"]))
    assert "does not fit the base" in failure.message


async def test_what_is_no_lora_is_refused_and_never_unpickled(
    studio: Studio, tmp_path: Path
) -> None:
    pickle = tmp_path / "pickle"
    pickle.write_bytes(b"\x80\x04" + b"cposix\nsystem\n(S'false'\ntR." * 10)
    assert "pickle" in (await refused(studio, kept(studio, pickle))).message
    plain = tmp_path / "plain"
    save_file({"weight": torch.ones(4, 4)}, plain)
    await refused(studio, kept(studio, plain))
    bomb = tmp_path / "bomb"
    bomb.write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    assert "limit" in (await refused(studio, kept(studio, bomb))).message


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("https://example.org/x.safetensors", "through a gateway"),
        ("blob:loras/" + "z" * 43, "not kept any more"),
        ("blob:inputs/../../secret", "neither a file"),
        ("/etc/passwd", "neither a file"),
        ("data:application/octet-stream;base64,????", "base64"),
        ("snapshot:" + "0" * 64 + "@/nowhere", "not on this worker"),
    ],
)
async def test_a_worker_fetches_nothing_and_reads_no_path(
    path: str, why: str, studio: Studio
) -> None:
    assert why in (await refused(studio, path)).message


async def test_a_base_is_no_lora(studio: Studio) -> None:
    path = f"snapshot:{studio.packed.digests['sd']}@{studio.packed.folder}"
    assert "no LoRA" in (await refused(studio, path)).message


async def test_a_small_file_may_be_inside_the_input(studio: Studio, files: dict[str, Path]) -> None:
    data = base64.b64encode(files["two"].read_bytes()).decode()
    inline = f"data:application/octet-stream;base64,{data}"
    stored = await studio.draw("sd", loras=[{"path": kept(studio, files["two"])}])
    assert picture(await studio.draw("sd", loras=[{"path": inline}])) == picture(stored)


async def test_more_than_the_schema_allows_and_scales_beyond_it_are_refused(
    studio: Studio,
) -> None:
    many = await studio.fail("sd", loras=[{"path": "x"}] * 9)
    assert "loras" in many.message
    strong = await studio.fail("sd", loras=[{"path": "x", "scale": 4.5}])
    assert "scale" in strong.message
