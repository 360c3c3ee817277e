"""Compiled blocks, really compiled: the same pictures, the right weights, and never a failure."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from quickthaw.snapshot import Loader, SnapshotStore, Tier
from quickthaw.snapshot.compiled import BuildPlace, Usage
from quickthaw.snapshot.compiled.bound import BoundCode
from quickthaw.snapshot.pack import pack
from quickthaw.worker.compiling import CompiledMetrics, CompiledMode, CompiledRuns
from support.fake_scheduler import FakeScheduler
from support.loras import lora
from support.other_models import make, tiny_sd3
from support.snapshots import a_loader, draw, fine_tune
from support.studio import Packed, Studio
from support.tiny_models import tiny_sd

# diffusers' Euler scheduler hands torch tensors to NumPy in a way that NumPy 2 deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.timeout(300),  # the compiler takes half a minute, more on a busy machine
]
PICTURE_ERROR = 1e-4
"""Of pictures in 0..1, in float32."""
CALLS = 8
"""The tiny UNet's four transformer blocks, in two steps."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass
class Counts:
    calls: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    builds: list[str] = field(default_factory=list)

    def metrics(self) -> CompiledMetrics:
        return CompiledMetrics(self._call, self._refuse, self.builds.append)

    def _call(self, how: str, count: int) -> None:
        self.calls[how] = self.calls.get(how, 0) + count

    def _refuse(self) -> None:
        self.refused += 1


@contextmanager
def compiled_runs(
    packed: Packed, cache: Path, mode: CompiledMode = CompiledMode.USE
) -> Iterator[tuple[CompiledRuns, Counts]]:
    counts = Counts()
    place = BuildPlace(cache, cache.with_name(f"{cache.name}.key"), "cpu", 1)
    runs = CompiledRuns(mode, place, torch.device("cpu"), packed.folder, counts.metrics())
    try:
        yield runs, counts
    finally:
        runs.close()


def drawn(runs: CompiledRuns, loader: Loader, digest: str) -> tuple[torch.Tensor, Usage]:
    with loader.load(digest) as loaded, torch.inference_mode():
        with runs.running(loaded) as usage, loaded.adapted():
            picture = draw(loaded.pipeline)
        return picture.clone(), usage


def plainly(loader: Loader, digest: str) -> torch.Tensor:
    with loader.load(digest) as loaded, torch.inference_mode(), loaded.adapted():
        return draw(loaded.pipeline)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    folder = tmp_path_factory.mktemp("compiled-models")
    store = SnapshotStore(folder / "store")
    base = pack(tiny_sd(0), store)
    file = lora(folder / "lora.safetensors", tiny_sd(0), ("unet",), seed=1)
    tuned = fine_tune(1)
    generator = torch.Generator().manual_seed(1)
    for weight in tuned.unet.parameters():
        # Norms too, which training starts from the same numbers everywhere.
        weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    digests = {
        "sd": base,
        "sd-tuned": pack(tuned, store),
        "sd-half": pack(tiny_sd(0).to(torch.bfloat16), store),
        "sd-lora": pack(file, store, base=base),
    }
    return Packed(store.root, digests)


@pytest.fixture(scope="module")
def built(packed: Packed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that a run has filled: the first finds nothing, the next all of it."""
    torch.set_num_threads(1)
    cache = tmp_path_factory.mktemp("cache") / "compiled"
    with (
        a_loader(SnapshotStore(packed.folder)) as loader,
        compiled_runs(packed, cache, CompiledMode.BUILD) as (runs, counts),
    ):
        wanted = plainly(loader, packed.digests["sd"])
        first, usage = drawn(runs, loader, packed.digests["sd"])
        assert torch.equal(first, wanted), "nothing is compiled yet"
        assert str(usage) == ""
        assert len(usage.missing) == 1, "its blocks are alike"
        assert runs.wait(250)
        assert counts.builds == ["made"]
        again, usage = drawn(runs, loader, packed.digests["sd"])
        assert str(usage) == f"{CALLS} of {CALLS} block calls"
        assert 0 < (again - wanted).abs().max() < PICTURE_ERROR
        assert counts.calls == {"compiled": CALLS, "eager": CALLS, "failed": 0}
    assert not [path for path in cache.iterdir() if path.name.startswith("work")]
    return cache


@pytest.fixture
def loader(packed: Packed) -> Iterator[Loader]:
    with a_loader(SnapshotStore(packed.folder)) as loader:
        yield loader


@pytest.fixture
def cache(built: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(built, tmp_path / "compiled")
    shutil.copy(built.with_name("compiled.key"), tmp_path / "compiled.key")
    (tmp_path / "compiled").chmod(0o700)
    return tmp_path / "compiled"


def test_a_second_process_finds_what_the_first_has_compiled(
    packed: Packed, built: Path, loader: Loader
) -> None:
    with compiled_runs(packed, built) as (runs, _):
        picture, usage = drawn(runs, loader, packed.digests["sd"])
    assert usage.compiled_calls == CALLS
    assert (picture - plainly(loader, packed.digests["sd"])).abs().max() < PICTURE_ERROR


def test_a_fine_tune_in_the_same_module_is_drawn_with_its_own_weights(
    packed: Packed, built: Path, loader: Loader
) -> None:
    names = ("sd", "sd-tuned")
    wanted = {name: plainly(loader, packed.digests[name]) for name in names}
    assert not torch.equal(wanted["sd"], wanted["sd-tuned"])
    with compiled_runs(packed, built) as (runs, _):
        for name in (*names, *names):
            picture, usage = drawn(runs, loader, packed.digests[name])
            assert usage.compiled_calls == CALLS
            assert (picture - wanted[name]).abs().max() < PICTURE_ERROR, name
            # What is there goes, so that the next takes its module and perhaps its memory.
            for part in loader.open(packed.digests[name]).manifest.components:
                loader.evict(part.digest, Tier.VRAM)


def test_weights_that_came_back_elsewhere_are_found_and_the_old_memory_is_free(
    packed: Packed, built: Path, loader: Loader
) -> None:
    digest = packed.digests["sd"]
    unet = loader.open(digest).manifest.component("unet")
    tuned = loader.open(packed.digests["sd-tuned"]).manifest.component("unet")
    wanted = plainly(loader, digest)
    addresses: set[int] = set()
    with compiled_runs(packed, built) as (runs, _):
        for _turn in range(3):
            with loader.load(digest) as loaded, torch.inference_mode():
                weight = loaded.pipeline.unet.conv_in.weight
                holders = uses(weight)
                with runs.running(loaded) as usage:
                    picture = draw(loaded.pipeline)
                assert uses(weight) == holders, "nothing of the run holds on to the memory"
                addresses.add(weight.data_ptr())
                for tensor in loaded.pipeline.unet.parameters():
                    # Whoever still read this place afterwards would draw nothing.
                    tensor.data.fill_(torch.nan)
                del weight
            assert usage.compiled_calls == CALLS
            assert (picture - wanted).abs().max() < PICTURE_ERROR
            for tier in (Tier.VRAM, Tier.PINNED):
                loader.evict(unet.digest, tier)
            # Takes the place that was freed, so that the model must come back elsewhere.
            loader.promote(tuned.digest, Tier.VRAM)
    assert len(addresses) > 1


def uses(tensor: torch.Tensor) -> int:
    """How many tensors share its memory."""
    return torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)


def test_a_block_with_weights_of_few_numbers_that_leaves_an_answer_out_is_compiled(
    tmp_path: Path,
) -> None:
    store = SnapshotStore(tmp_path / "store")
    pipeline = tiny_sd3(0)
    settings = {**pipeline.transformer.config, "num_layers": 1, "dual_attention_layers": ()}
    # Its norms have eight weights, which a compiler may take for constants; for lack of a next
    # block, it answers with no text.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline.transformer = type(pipeline.transformer).from_config(settings).eval()
    packed = Packed(store.root, {"sd3": pack(pipeline, store)})
    with (
        a_loader(store) as loader,
        compiled_runs(packed, tmp_path / "compiled", CompiledMode.BUILD) as (runs, counts),
        loader.load(packed.digests["sd3"]) as loaded,
        torch.inference_mode(),
    ):
        with runs.running(loaded) as usage:
            wanted = make(loaded.pipeline)
        assert (usage.compiled_calls, len(usage.missing)) == (0, 1)
        assert runs.wait(250)
        assert counts.builds == ["made"]
        with runs.running(loaded) as usage:
            made = make(loaded.pipeline)
    assert (usage.compiled_calls, usage.eager_calls) == (2, 0)
    assert 0 < (made - wanted).abs().max() < 1e-4 * wanted.abs().max()


def drawn_at(loader: Loader, digest: str, size: tuple[int, int], runs: CompiledRuns | None) -> Any:
    with loader.load(digest) as loaded, torch.inference_mode():
        with runs.running(loaded) if runs else nullcontext() as usage:
            loaded.pipeline.set_progress_bar_config(disable=True)
            found = loaded.pipeline(
                "a red circle",
                height=size[0],
                width=size[1],
                num_images_per_prompt=2,
                num_inference_steps=1,
                generator=torch.Generator().manual_seed(0),
                output_type="pt",
            ).images
        return found.clone(), usage


def test_one_code_serves_every_size(packed: Packed, built: Path, loader: Loader) -> None:
    digest = packed.digests["sd"]
    assert len(list(built.rglob("*.so"))) == 1
    with compiled_runs(packed, built) as (runs, _):
        for size in ((48, 48), (32, 80), (64, 32)):
            picture, usage = drawn_at(loader, digest, size, runs)
            assert (usage.compiled_calls, usage.missing) == (CALLS // 2, [])
            wanted, _ = drawn_at(loader, digest, size, None)
            assert picture.shape == wanted.shape == (2, 3, *size)
            assert (picture - wanted).abs().max() < PICTURE_ERROR


def test_code_that_fails_is_not_run_again(
    packed: Packed, built: Path, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: BoundCode, tensors: object) -> None:
        raise RuntimeError("this code fails")

    monkeypatch.setattr(BoundCode, "__call__", fail)
    with compiled_runs(packed, built) as (runs, _):
        for failed in (CALLS // 2, 0):
            picture, usage = drawn(runs, loader, packed.digests["sd"])
            assert torch.equal(picture, plainly(loader, packed.digests["sd"]))
            assert (usage.failed_calls, usage.eager_calls, usage.missing) == (failed, CALLS, [])
        _, usage = drawn_at(loader, packed.digests["sd"], (32, 64), runs)
        assert (usage.failed_calls, usage.missing) == (0, []), "nor at another size"


def test_forms_of_calls_are_not_remembered_without_end(
    packed: Packed, built: Path, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quickthaw.snapshot.compiled.blocks.CALLS_MAX", 0)
    with compiled_runs(packed, built) as (runs, _):
        for size in ((32, 32), (32, 64), (32, 32)):
            _, usage = drawn_at(loader, packed.digests["sd"], size, runs)
            assert usage.compiled_calls == CALLS // 2, "what was forgotten is found again"


def test_what_code_was_not_made_for_runs_as_it_is(
    packed: Packed, built: Path, loader: Loader
) -> None:
    with compiled_runs(packed, built) as (runs, counts):
        picture, usage = drawn_at(loader, packed.digests["sd-half"], (32, 32), runs)
        assert (usage.compiled_calls, usage.eager_calls) == (0, CALLS // 2)
        assert torch.equal(picture, drawn_at(loader, packed.digests["sd-half"], (32, 32), None)[0])
        assert counts.refused == 0


def test_damaged_code_is_passed_over_and_counted(
    packed: Packed, cache: Path, loader: Loader, caplog: pytest.LogCaptureFixture
) -> None:
    (code,) = cache.rglob("*.so")
    code.write_bytes(code.read_bytes()[:-1] + b"x")
    with compiled_runs(packed, cache) as (runs, counts):
        picture, usage = drawn(runs, loader, packed.digests["sd"])
    assert torch.equal(picture, plainly(loader, packed.digests["sd"]))
    assert (usage.compiled_calls, counts.refused) == (0, 1)
    assert "not what was signed" in caplog.text


def test_code_that_cannot_be_linked_is_passed_over(
    packed: Packed, cache: Path, loader: Loader, caplog: pytest.LogCaptureFixture
) -> None:
    (code,) = cache.rglob("*.so")
    with compiled_runs(packed, cache) as (runs, _):
        runs.cache.add(code.stem, b"no shared object", "tensor", {})
        picture, usage = drawn(runs, loader, packed.digests["sd"])
    assert torch.equal(picture, plainly(loader, packed.digests["sd"]))
    assert usage.compiled_calls == 0
    assert "cannot be used" in caplog.text


def test_blocks_under_an_adapter_run_as_they_are(
    packed: Packed, built: Path, loader: Loader
) -> None:
    wanted = plainly(loader, packed.digests["sd-lora"])
    with compiled_runs(packed, built) as (runs, _):
        base, usage = drawn(runs, loader, packed.digests["sd"])
        assert usage.compiled_calls == CALLS
        adapted, usage = drawn(runs, loader, packed.digests["sd-lora"])
        assert usage.compiled_calls < CALLS
        assert (adapted - wanted).abs().max() < PICTURE_ERROR
        assert not torch.allclose(adapted, base, atol=PICTURE_ERROR)
        again, usage = drawn(runs, loader, packed.digests["sd"])
        assert usage.compiled_calls == CALLS
        assert torch.equal(again, base)


def use_the_cache(packed: Packed) -> tuple[str, ...]:
    return ("--torch-threads", "1", "--snapshot-store", str(packed.folder))


async def test_the_receipt_says_how_much_ran_compiled(
    packed: Packed, built: Path, scheduler: FakeScheduler, tmp_path: Path
) -> None:
    from support.workers import a_worker

    flags = ("--compiled", "use", "--compiled-cache", str(built))
    async with a_worker(scheduler, tmp_path, *use_the_cache(packed), *flags) as worker:
        session = await scheduler.attached()
        session.welcome()
        studio = Studio(session, worker, packed, tmp_path)
        end = await studio.draw("sd")
        assert end.load.compiled == f"{CALLS} of {CALLS} block calls"
        assert worker.metric("compiled_block_calls_total", how="compiled") == CALLS
        end = await studio.draw("sd-half")
        assert end.load.compiled == ""


@pytest.fixture
def open_cache(cache: Path) -> Path:
    cache.chmod(0o777)
    return cache


async def test_a_cache_that_is_not_ours_alone_costs_no_request(
    packed: Packed, open_cache: Path, scheduler: FakeScheduler, tmp_path: Path
) -> None:
    from support.workers import a_worker

    flags = ("--compiled", "use", "--compiled-cache", str(open_cache))
    async with a_worker(scheduler, tmp_path / "w", *use_the_cache(packed), *flags) as worker:
        session = await scheduler.attached()
        session.welcome()
        end = await Studio(session, worker, packed, tmp_path / "w").draw("sd")
        assert end.load.compiled == ""
