"""Making snapshots: a pipeline's parts, one by one, into a store; the manifest last."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from quickthaw.snapshot.adapters.convert import is_lora
from quickthaw.snapshot.adapters.pack import pack_adapter
from quickthaw.snapshot.classes import Role, class_path
from quickthaw.snapshot.delta_pack import DeltaPacker, base_snapshot
from quickthaw.snapshot.describe_pipeline import (
    check_chat_template,
    check_prompt_template,
    module_attention,
    module_config,
    parts_of,
    pipeline_arguments,
    scheduler_config,
)
from quickthaw.snapshot.families import Family, family_named, family_of
from quickthaw.snapshot.fields import JsonValue
from quickthaw.snapshot.finished import Finished
from quickthaw.snapshot.format import FORMAT_VERSION, Problem, invalid
from quickthaw.snapshot.input_defaults import check_defaults
from quickthaw.snapshot.manifest import (
    PROCESSOR_FILES,
    Blob,
    Component,
    Manifest,
    Processor,
    Quantization,
    Scheduler,
)
from quickthaw.snapshot.preview import fit_preview
from quickthaw.snapshot.processor_files import check_processor_file
from quickthaw.snapshot.processors import save_processor
from quickthaw.snapshot.quantize import chosen, in_order_of
from quickthaw.snapshot.quantize import quantize as quantize_weights
from quickthaw.snapshot.quantized import Method
from quickthaw.snapshot.reader import Snapshot
from quickthaw.snapshot.sizes import frame_rule, seconds_max, size_rule, working_set_bytes
from quickthaw.snapshot.skeleton import Skeleton, build, skeleton_key
from quickthaw.snapshot.sources import holds_fp8, open_source
from quickthaw.snapshot.store import SnapshotStore
from quickthaw.snapshot.tensors import collect
from quickthaw.snapshot.writer import StoreWriter
from quickthaw.wire.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class PackProgress:
    """Told after each tensor written."""

    component: str
    packed_bytes: int
    total_bytes: int


OnProgress = Callable[[PackProgress], None]


def pack(
    source: Any,
    destination: SnapshotStore | Path | str,
    *,
    family: str | None = None,
    title: str = "",
    licence: str = "",
    defaults: Mapping[str, JsonValue] | None = None,
    base: Snapshot | Path | str | None = None,
    component: str | None = None,
    dtype: str | None = None,
    quantize: str | None = None,
    only: Collection[str] = (),
    scale: float | None = None,
    on_progress: OnProgress | None = None,
    finished: Finished | None = None,
) -> str:
    """Adds a snapshot of `source` to `destination` and returns its digest.

    `source`: a live diffusers pipeline (left as it is), a diffusers folder, or one safetensors
    file. A file needs `base`, a diffusers folder of the same family with configs and tokenizers;
    it is a whole checkpoint, or replaces one component of the base (`component`, found by its
    tensors where they are named as in diffusers).

    `base` may also be a snapshot: its digest, or a folder that holds it. Components that are the
    same are shared, and those that partly are get stored as what differs (FORMAT.md §8). A LoRA
    file needs such a base; what is packed is the base with the adapter over it, acting as strongly
    as `scale` says. An opened snapshot may be of another store: what is packed then needs its files
    too, and `SnapshotStore.adopt` brings both together.

    `family` only makes sure. `defaults` override
    the family's defaults of the input, for example `{"num_inference_steps": 4}`. `dtype`
    (float16, bfloat16, float32) applies to folders and files, which otherwise keep their own.
    `quantize` (fp8, int8) stores weights in eight bits: of the components that `only` names, by
    name or kind, else of the denoiser and the text encoders; the rule is in `quantize.py`. What a
    source has as F8_E4M3 stays so without being asked for. What an interrupted pack of the same
    has `finished` is not written again.

    Raises `SnapshotInvalid` for pickles, code and anything else a snapshot cannot hold, and
    `StorageFull`; nothing of a failed pack is ever visible, and `gc` removes what it wrote.
    """
    store = destination if isinstance(destination, SnapshotStore) else SnapshotStore(destination)
    below = base if isinstance(base, Snapshot) else base_snapshot(base, store)
    folder = Path(base) if isinstance(base, Path | str) and below is None else None
    if isinstance(source, Path | str) and is_lora(Path(source)):
        if below is None:
            raise InvalidArgument(
                f"{source}: a LoRA lies over a model; give its base, the digest of a snapshot"
            )
        for name, given in (("dtype", dtype), ("quantize", quantize), ("component", component)):
            if given is not None:
                raise InvalidArgument(
                    f"{source}: {name} {given!r:.40} is for a model's weights; a LoRA is stored as "
                    "it is and takes the type of what it lies over"
                )
        return pack_adapter(
            Path(source),
            below,
            store=store,
            scale=1.0 if scale is None else scale,
            title=title,
            licence=licence,
            defaults=defaults,
        )
    if scale is not None:
        raise InvalidArgument("scale is for LoRA files, and the source is none")
    sources: list[Path] = []
    if isinstance(source, Path | str):
        sources = [Path(each) for each in (source, folder) if each is not None]
        pipeline = open_source(Path(source), base=below or folder, dtype=dtype, component=component)
    else:
        pipeline = source
    path = class_path(pipeline, Role.PIPELINE, "pipeline")
    found = family_of(path)
    if family is not None and family_named(family) is not found:
        invalid(Problem.MANIFEST, "family", f"{path} is of family {found.name}, not {family}")
    with store.writing() as writer:
        packer = _Packer(pipeline, found, writer, DeltaPacker(writer, below, finished), on_progress)
        packer.quantize(quantize, only, in_fp8=sources)
        manifest = packer.manifest(title=title, licence=licence, defaults=defaults or {})
        return writer.add_manifest(manifest)


class _Packer:
    def __init__(
        self,
        pipeline: Any,
        family: Family,
        writer: StoreWriter,
        deltas: DeltaPacker,
        on_progress: OnProgress | None,
    ) -> None:
        self._pipeline = pipeline
        self._family = family
        self._writer = writer
        self._deltas = deltas
        self._on_progress = on_progress
        self._modules, self._others = parts_of(pipeline, family)
        check_chat_template(pipeline, family)
        check_prompt_template(pipeline)
        self._collected = {
            name: collect(module, f"component {name}") for name, module in self._modules.items()
        }
        self._quantization: dict[str, Quantization | None] = {}
        self._total_bytes = self._stored_bytes()
        self._packed_bytes = 0

    def quantize(self, method: str | None, only: Collection[str], in_fp8: list[Path]) -> None:
        """Eight bits where asked for, and where a source (files and folders) has them already."""
        methods = chosen(method, only, self._family, self._modules)
        found = any(map(holds_fp8, in_fp8))
        for name, module in self._modules.items():
            if found:
                stored = quantize_weights(module, self._collected[name], Method.FP8_UNSCALED)
                self._collected[name], self._quantization[name] = stored
            if self._quantization.get(name) is None and name in methods:
                stored = quantize_weights(module, self._collected[name], methods[name])
                self._collected[name], self._quantization[name] = stored
        self._total_bytes = self._stored_bytes()

    def _stored_bytes(self) -> int:
        return sum(
            spec.nbytes for name, each in self._collected.items() for spec in each.specs(name)
        )

    def manifest(self, *, title: str, licence: str, defaults: Mapping[str, JsonValue]) -> Manifest:
        size = size_rule(self._pipeline, self._family)
        frames = frame_rule(self._pipeline, self._family)
        schema = self._family.input_schema(
            size,
            defaults,
            frames=frames,
            seconds_max=seconds_max(self._pipeline, self._family),
            learned=self._family.learn(self._pipeline),
        )
        check_defaults(schema)
        schedulers, processors = self._small_parts()
        return Manifest(
            family=self._family.name,
            title=title,
            licence=licence,
            created_by=_created_by(),
            pipeline_class=class_path(self._pipeline, Role.PIPELINE, "pipeline"),
            pipeline_arguments=pipeline_arguments(self._pipeline),
            components=tuple(self._component(name) for name in self._modules),
            schedulers=schedulers,
            processors=processors,
            preview=fit_preview(self._pipeline.vae),
            input_schema=schema,
            working_set_bytes=working_set_bytes(self._pipeline, self._family, size, frames),
        )

    def _component(self, name: str) -> Component:
        module, where = self._modules[name], f"component {name}"
        draft = Component(
            name=name,
            kind=self._family.components[name],
            class_path=class_path(module, Role.MODEL, where),
            config=module_config(module, where),
            attention=module_attention(module),
            dtypes=(),
            digest="",
            header_digest="",
            data_start=0,
            data_bytes=0,
            blocks="",
            aliases=self._collected[name].aliases,
            quantization=self._quantization.get(name),
        )
        built = build(draft)
        collected = in_order_of(built, self._collected[name])
        # What could not be loaded must not be packed.
        Skeleton(skeleton_key(draft), built).check(collected.tensors, collected.aliases, where)
        specs = collected.specs(where)
        written, delta = self._deltas.add(
            name, specs, collected.tensors, lambda count: self._progress(name, count)
        )
        dtypes = tuple(sorted({spec.dtype for spec in specs}))
        return replace(
            draft,
            dtypes=dtypes,
            digest=written.digest,
            header_digest=written.header_digest,
            data_start=written.data_start,
            data_bytes=written.data_bytes,
            blocks=written.blocks,
            delta=delta,
        )

    def _progress(self, name: str, count: int) -> None:
        self._packed_bytes = min(self._packed_bytes + count, self._total_bytes)
        if self._on_progress is not None:
            self._on_progress(PackProgress(name, self._packed_bytes, self._total_bytes))

    def _small_parts(self) -> tuple[tuple[Scheduler, ...], tuple[Processor, ...]]:
        schedulers: list[Scheduler] = []
        processors: list[Processor] = []
        for name, part in self._others.items():
            if hasattr(part, "set_timesteps"):
                path = class_path(part, Role.SCHEDULER, name)
                schedulers.append(Scheduler(name, path, scheduler_config(part, name)))
            else:
                path = class_path(part, Role.PROCESSOR, name)
                processors.append(Processor(name, path, self._files(name, part, path)))
        return tuple(schedulers), tuple(processors)

    def _files(self, name: str, part: Any, kind: str) -> dict[str, Blob]:
        files: dict[str, Blob] = {}
        with tempfile.TemporaryDirectory(prefix="quickthaw-") as folder:
            save_processor(part, folder)
            for path in sorted(Path(folder).iterdir()):
                if path.name in PROCESSOR_FILES:
                    content = path.read_bytes()
                    check_processor_file(path.name, content, f"{name}, {path.name}", kind)
                    files[path.name] = self._writer.add_blob(content)
        return files


def _created_by() -> str:
    libraries = ", ".join(f"{name} {version(name)}" for name in ("diffusers", "transformers"))
    return f"quickthaw snapshot format {FORMAT_VERSION} with {libraries}"
