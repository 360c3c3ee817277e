"""Writing a synthetic model into a snapshot store: random bytes, straight into the files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn

from quickthaw.cli.bench.catalogue import Built, SyntheticModel
from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.classes import Role, class_path
from quickthaw.snapshot.describe_pipeline import module_attention, module_config, scheduler_config
from quickthaw.snapshot.format import TensorSpec
from quickthaw.snapshot.manifest import (
    PROCESSOR_FILES,
    Component,
    Kind,
    Manifest,
    Processor,
    Scheduler,
)
from quickthaw.snapshot.tensors import NAMES, slots
from quickthaw.snapshot.writer import StoreWriter

# Neither library types its constructors.
df: Any = diffusers
tf: Any = transformers

OnBytes = Callable[[int], None]

_FINITE_MASKS: Mapping[int, int] = {
    # Without the exponent's highest bit every float is finite and below 2: no NaN in any picture.
    1: 0xBFBF_BFBF_BFBF_BFBF,
    2: 0xBFFF_BFFF_BFFF_BFFF,
    4: 0xBFFF_FFFF_BFFF_FFFF,
}


def make(
    model: SyntheticModel, width: float, store: SnapshotStore, *, seed: int, on_bytes: OnBytes
) -> str:
    """Adds the model to `store` and returns its digest; `on_bytes` is told of each piece written.

    The same arguments give the same bytes.
    """
    df.utils.logging.set_verbosity_error()
    tf.utils.logging.set_verbosity_error()
    built = model.modules(width)
    random = np.random.Generator(np.random.SFC64(seed))
    with store.writing() as writer:
        components = tuple(
            _component(model, name, kind, module, writer, random, on_bytes)
            for name, (kind, module) in built.items()
        )
        manifest = Manifest(
            family=model.family,
            title=f"{model.title}, synthetic",
            licence="none: random numbers",
            created_by="quickthaw bench",
            pipeline_class=model.pipeline_class,
            pipeline_arguments={},
            components=components,
            schedulers=(_scheduler(model),),
            processors=tuple(_processors(model, built, writer)),
            preview=None,
            # It is loaded, never run: it takes no input.
            input_schema={"type": "object", "additionalProperties": False, "properties": {}},
            working_set_bytes=0,
        )
        return writer.add_manifest(manifest)


def _component(
    model: SyntheticModel,
    name: str,
    kind: Kind,
    module: nn.Module,
    writer: StoreWriter,
    random: np.random.Generator,
    on_bytes: OnBytes,
) -> Component:
    tensors, aliases = _tensors(module)
    dtypes = {key: model.dtype_of(name, tensor) for key, tensor in tensors.items()}
    specs = [
        TensorSpec(key, NAMES[dtypes[key]], tuple(tensor.shape)) for key, tensor in tensors.items()
    ]
    contents = (_content(tensor, dtypes[key], random) for key, tensor in tensors.items())
    draft = Component(
        name=name,
        kind=kind,
        class_path=class_path(module, Role.MODEL, name),
        config=module_config(module, name),
        attention=module_attention(module),
        dtypes=tuple(sorted({spec.dtype for spec in specs})),
        digest="",
        header_digest="",
        data_start=0,
        data_bytes=0,
        blocks="",
        aliases=aliases,
    )
    written = writer.add_component(specs, contents, on_bytes)
    return replace(
        draft,
        digest=written.digest,
        header_digest=written.header_digest,
        data_start=written.data_start,
        data_bytes=written.data_bytes,
        blocks=written.blocks,
    )


def _tensors(module: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Meta tensors in canonical order, tied ones once, and the other names of those."""
    if (tie := getattr(module, "tie_weights", None)) is not None:
        tie()
    tensors: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[int, str] = {}
    for slot in slots(module):
        tensor = slot.holder[slot.key]
        assert tensor is not None
        stored = first.setdefault(id(tensor), slot.name)
        if stored == slot.name:
            tensors[slot.name] = tensor
        else:
            aliases[slot.name] = stored
    return tensors, aliases


def _content(tensor: torch.Tensor, dtype: torch.dtype, random: np.random.Generator) -> memoryview:
    """The bytes of one tensor: random finite numbers, or counted up where they are indices."""
    count = tensor.numel()
    if not dtype.is_floating_point:
        return torch.arange(count).to(dtype).view(torch.uint8).numpy().data
    nbytes = count * dtype.itemsize
    words = random.integers(0, 1 << 64, -(-nbytes // 8), dtype=np.uint64)
    words &= np.uint64(_FINITE_MASKS[dtype.itemsize])
    return words.view(np.uint8)[:nbytes].data


def _scheduler(model: SyntheticModel) -> Scheduler:
    made = getattr(df, model.scheduler)(**model.scheduler_arguments)
    path = class_path(made, Role.SCHEDULER, "scheduler")
    return Scheduler("scheduler", path, scheduler_config(made, "scheduler"))


def _processors(model: SyntheticModel, built: Built, writer: StoreWriter) -> Iterator[Processor]:
    """Small ones: a warm worker has them ready, so they are not what is measured."""
    for number, path in enumerate(model.tokenizers):
        name = "tokenizer" if number == 0 else f"tokenizer_{number + 1}"
        made = _clip_tokenizer() if path.endswith("CLIPTokenizer") else _t5_tokenizer()
        yield _processor(name, path, made, writer)
    if model.image_processor:
        made = tf.CLIPImageProcessor()
        yield _processor("feature_extractor", "transformers.CLIPImageProcessor", made, writer)


def _processor(name: str, path: str, made: Any, writer: StoreWriter) -> Processor:
    with TemporaryDirectory(prefix="quickthaw-") as folder:
        made.save_pretrained(folder)
        files = {
            each.name: writer.add_blob(each.read_bytes())
            for each in sorted(Path(folder).iterdir())
            if each.name in PROCESSOR_FILES
        }
    return Processor(name, path, files)


def _clip_tokenizer() -> Any:
    letters = sorted(ByteLevel.alphabet())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {piece: rank for rank, piece in enumerate(pieces)}
    return tf.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)


def _t5_tokenizer() -> Any:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -6.0)]
    pieces += [(letter, -8.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    return tf.T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=77)
