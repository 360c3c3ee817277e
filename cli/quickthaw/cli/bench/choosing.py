"""Which model a run measures, how large it is made, and whether this machine has room for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quickthaw.cli.bench.fitting import available_memory_bytes, estimated_seconds, nbytes_max
from quickthaw.cli.bench.options import Options
from quickthaw.cli.bench.rows import From, rows_for
from quickthaw.cli.bench.workspace import free_disk_bytes
from quickthaw.cli.errors import UsageFault
from quickthaw.snapshot import SnapshotStore, locate
from quickthaw.wire.errors import FailedPrecondition, NotFound

Make = Callable[[SnapshotStore, Callable[[int], None]], str]


@dataclass(frozen=True, slots=True)
class Choice:
    """`scale`: the share of the real size, 1 for a model of one's own. `key`: names its folder.

    `store` and `digest` are set where the model is there already, else `make` writes it.
    """

    name: str
    title: str
    key: str
    nbytes: int
    scale: float
    words: tuple[str, ...]
    make: Make
    store: SnapshotStore | None = None
    digest: str | None = None


def choose(options: Options) -> Choice:
    """Raises `UsageFault` for names that do not exist, `FailedPrecondition` where room is short."""
    room = _room(options)
    if options.snapshot is not None:
        return _own(options, room)
    return _synthetic(options, room)


def _room(options: Options) -> dict[str, int]:
    gpu: int | None = None
    if options.device == "cuda":
        import torch

        gpu = int(torch.cuda.mem_get_info()[0])
    return nbytes_max(
        disk_bytes=free_disk_bytes(options.folder),
        memory_bytes=available_memory_bytes(),
        gpu_bytes=gpu,
        forms=_forms(options),
        lanes=len(options.peers) + 3,
        alone=not options.peers,
        pinned=set(options.starts) == {From.PINNED},
    )


def _forms(options: Options) -> int:
    """Copies of the model on disk: our own, and each form that some peer reads."""
    return 1 + len({peer.form for peer in options.peers})


def _synthetic(options: Options, room: dict[str, int]) -> Choice:
    from quickthaw.cli.bench.catalogue import MODELS
    from quickthaw.cli.bench.making import make

    if (model := MODELS.get(options.model)) is None:
        known = ", ".join(MODELS)
        raise UsageFault(f"there is no model {options.model!r}", f"the models are: {known}")
    full = model.nbytes(1.0)
    wanted = full
    if options.scale is not None:
        wanted = round(full * options.scale)
    if options.size_gb is not None:
        wanted = min(wanted, round(options.size_gb * 1e9))
    limit = min(room.values())
    asked = options.scale is not None or options.size_gb is not None
    width = model.width_for(wanted if asked else min(wanted, limit))
    nbytes = model.nbytes(width)
    if nbytes > limit:
        raise _too_large(model.title, nbytes, room)
    scale = 1.0 if width == 1.0 else round(nbytes / full, 4)
    words = [
        f"{model.title} at its real size, {full / 1e9:.2f} GB"
        if scale == 1.0
        else f"{model.title} made narrower: {nbytes / 1e9:.2f} GB of {full / 1e9:.2f}, as many "
        "tensors"
    ]
    if not asked and scale < 1.0:
        tight = min(room, key=lambda name: room[name])
        words.append(f"that is what this machine's {tight} has room for; --scale sets another size")
    seed = options.seed

    def write(store: SnapshotStore, on_bytes: Callable[[int], None]) -> str:
        return make(model, width, store, seed=seed, on_bytes=on_bytes)

    title = model.title if scale == 1.0 else f"{model.title} made narrower"
    key = f"{model.name}-{nbytes}-{seed}"
    return Choice(
        model.name, title, key, nbytes, scale, (*words, _estimate(options, nbytes)), write
    )


def _own(options: Options, room: dict[str, int]) -> Choice:
    assert options.snapshot is not None
    path = Path(options.snapshot)
    if (path / "model_index.json").is_file():
        return _diffusers(options, path, room)
    snapshot = _find(options, path)
    manifest = snapshot.manifest
    if manifest.weight_bytes > min(room.values()):
        raise _too_large(manifest.title or options.snapshot, manifest.weight_bytes, room)
    title = manifest.title or f"{manifest.family} {snapshot.digest[:12]}"
    words = (
        f"{title}, {manifest.weight_bytes / 1e9:.2f} GB",
        _estimate(options, manifest.weight_bytes),
    )
    return Choice(
        "own",
        title,
        snapshot.digest[:16],
        manifest.weight_bytes,
        1.0,
        words,
        _never,
        snapshot.store,
        snapshot.digest,
    )


def _find(options: Options, path: Path) -> Any:
    """A snapshot by the folder it is in, or by its digest (a few digits do) in the default one."""
    if path.is_dir():
        return locate(path, options.digest)
    from quickthaw.client import default_data_dir

    store = SnapshotStore(default_data_dir() / "snapshots")
    found = [digest for digest in store if digest.startswith(str(options.snapshot))]
    if len(found) != 1:
        what = "several snapshots" if found else "no snapshot"
        raise NotFound(
            f"{what} in {store.root} with a digest that starts with {options.snapshot!r}, and no "
            "folder of that name; `quickthaw snapshot list` shows what there is"
        )
    return store.open(found[0])


def _diffusers(options: Options, path: Path, room: dict[str, int]) -> Choice:
    nbytes = sum(file.stat().st_size for file in path.rglob("*.safetensors"))
    if nbytes > min(room.values()):
        raise _too_large(path.name, nbytes, room)

    def write(store: SnapshotStore, on_bytes: Callable[[int], None]) -> str:
        from quickthaw.snapshot.pack import pack

        return pack(path, store, title=path.name)

    words = (f"{path.name}, {nbytes / 1e9:.2f} GB, packed first", _estimate(options, nbytes))
    return Choice("own", path.name, f"own-{path.name}-{nbytes}", nbytes, 1.0, words, write)


def _never(store: SnapshotStore, on_bytes: Callable[[int], None]) -> str:
    raise AssertionError("a snapshot that is there is not made")


def _too_large(title: str, nbytes: int, room: dict[str, int]) -> FailedPrecondition:
    rooms = ", ".join(f"{name} for {size / 1e9:.1f} GB" for name, size in room.items())
    return FailedPrecondition(
        f"{title} takes {nbytes / 1e9:.1f} GB; with these loaders this machine has {rooms}. Choose "
        "a smaller --scale, fewer --peers, or --folder on a larger disk"
    )


def _estimate(options: Options, nbytes: int) -> str:
    seconds = estimated_seconds(
        nbytes,
        forms=_forms(options),
        lanes=len(options.peers) + 3,
        rows=len(rows_for(options.starts, options.peers, options.device)),
        rounds=options.rounds,
    )
    minutes, gigabytes = max(round(seconds / 60), 1), _forms(options) * nbytes / 1e9
    return f"about {minutes} min, and {gigabytes:.1f} GB of disk meanwhile"
