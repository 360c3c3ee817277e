"""SDXL and Flux dev in full size without their weights: real configs, real headers, no bytes.

What a load costs beside moving bytes depends on classes, shapes and counts. So the components here
have the headers that packing would write, and a data section that nobody ever reads or writes:
gigabytes of address space without memory behind it.
"""

from __future__ import annotations

import itertools
import mmap
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel

from quickthaw.snapshot import Component, Manifest, SnapshotStore, Tier
from quickthaw.snapshot.copiers import OpenComponent, Source
from quickthaw.snapshot.families import family_named
from quickthaw.snapshot.fields import JsonValue
from quickthaw.snapshot.format import TensorSpec, encode_header, lay_out
from quickthaw.snapshot.hashes import BLOCK_BYTES, BLOCK_HASH_HEX_CHARS, sha256_hex
from quickthaw.snapshot.input_properties import SizeRule
from quickthaw.snapshot.manifest import PROCESSOR_FILES, Processor, Scheduler
from quickthaw.snapshot.memory import Memory
from quickthaw.snapshot.skeleton import build
from quickthaw.snapshot.tensors import slots
from quickthaw.snapshot.writer import StoreWriter

# transformers does not type its constructors.
tf: Any = transformers

CLIP_WORDS = 49408
T5_WORDS = 32100

_SIZES = SizeRule(default=1024, multiple_of=16, minimum=256, maximum=2048)
MAP_NORESERVE = 0x4000
"""Not in the mmap module."""

Config = Mapping[str, JsonValue]

_CLIP_L: Config = {
    "vocab_size": CLIP_WORDS,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
_CLIP_G: Config = {
    **_CLIP_L,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}
_VAE: Config = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": [*("DownEncoderBlock2D",) * 4],
    "up_block_types": [*("UpDecoderBlock2D",) * 4],
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 1024,
    "scaling_factor": 0.13025,
    "force_upcast": True,
}
_UNET: Config = {
    "sample_size": 128,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [320, 640, 1280],
    "layers_per_block": 2,
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "transformer_layers_per_block": [1, 2, 10],
    "projection_class_embeddings_input_dim": 2816,
}
_FLUX: Config = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "axes_dims_rope": [16, 56, 56],
}
_T5_XXL: Config = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}


@dataclass(frozen=True, slots=True)
class _Model:
    pipeline: str
    dtype: str
    parts: Mapping[str, tuple[str, Config]]
    tokenizers: Mapping[str, str]
    scheduler: str


MODELS: Mapping[str, _Model] = {
    "sdxl": _Model(
        "StableDiffusionXLPipeline",
        "F16",
        {
            "text_encoder": ("transformers.CLIPTextModel", _CLIP_L),
            "text_encoder_2": ("transformers.CLIPTextModelWithProjection", _CLIP_G),
            "unet": ("diffusers.UNet2DConditionModel", _UNET),
            "vae": ("diffusers.AutoencoderKL", _VAE),
        },
        {"tokenizer": "CLIPTokenizer", "tokenizer_2": "CLIPTokenizer"},
        "EulerDiscreteScheduler",
    ),
    "flux": _Model(
        "FluxPipeline",
        "BF16",
        {
            "text_encoder": ("transformers.CLIPTextModel", _CLIP_L),
            "text_encoder_2": ("transformers.T5EncoderModel", _T5_XXL),
            "transformer": ("diffusers.FluxTransformer2DModel", _FLUX),
            "vae": (
                "diffusers.AutoencoderKL",
                {
                    **_VAE,
                    "latent_channels": 16,
                    "scaling_factor": 0.3611,
                    "shift_factor": 0.1159,
                    "use_quant_conv": False,
                    "use_post_quant_conv": False,
                    "force_upcast": False,
                },
            ),
        },
        {"tokenizer": "CLIPTokenizer", "tokenizer_2": "T5Tokenizer"},
        "FlowMatchEulerDiscreteScheduler",
    ),
}


@dataclass(slots=True)
class Bodiless:
    """Snapshots in `store` whose component files do not exist; an origin for what they lack."""

    store: SnapshotStore
    tensors: dict[str, int] = field(default_factory=dict[str, int])
    _headers: dict[str, bytes] = field(default_factory=dict[str, bytes])

    def add(self, family: str) -> str:
        """Adds a model and returns its snapshot's digest."""
        model = MODELS[family]
        parts = tuple(self._component(family, name) for name in model.parts)
        self.tensors[family] = sum(len(_shapes(part)[0]) for part in parts)
        with self.store.writing() as writer:
            return writer.add_manifest(_manifest(family, parts, _tokenizers(model, writer)))

    def fine_tune(self, base: str, number: int, title: str) -> str:
        """Adds a model that differs from `base` (a digest) in the bytes of its denoiser."""
        manifest = self.store.open(base).manifest
        denoiser = family_named(manifest.family).denoiser
        parts = tuple(
            replace(part, digest=sha256_hex(f"{part.digest} {number}".encode()))
            if part.name == denoiser
            else part
            for part in manifest.components
        )
        with self.store.writing() as writer:
            return writer.add_manifest(replace(manifest, title=title, components=parts))

    def _component(self, family: str, name: str) -> Component:
        model = MODELS[family]
        path, config = model.parts[name]
        draft = Component(
            name=name,
            kind=family_named(family).components[name],
            class_path=path,
            config=config,
            attention="sdpa" if path.startswith("transformers.") else None,
            dtypes=(model.dtype,),
            digest=sha256_hex(f"{family} {name}".encode()),
            header_digest="",
            data_start=0,
            data_bytes=0,
            blocks="",
            aliases={},
        )
        shapes, aliases = _shapes(draft)
        entries = lay_out(
            TensorSpec(each, "I64" if each.endswith("position_ids") else model.dtype, shape)
            for each, shape in shapes.items()
        )
        header, data_bytes = encode_header(entries), entries[-1].end
        self._headers[sha256_hex(header)] = header
        return replace(
            draft,
            header_digest=sha256_hex(header),
            data_start=len(header),
            data_bytes=data_bytes,
            blocks="0" * BLOCK_HASH_HEX_CHARS * -(-data_bytes // BLOCK_BYTES),
            aliases=aliases,
        )

    # ---- an Origin -----------------------------------------------------------------------------

    def header(self, component: Component) -> bytes | None:
        return self._headers.get(component.header_digest)

    def open(self, component: Component, others: OpenComponent) -> Source | None:
        return _Nothing()


class _Nothing:
    """A source that says it has delivered, and leaves the memory alone."""

    name = "nothing"
    why = "there is no weight to move"
    tier = Tier.DISK
    span_bytes = 1 << 30
    readers = 1

    def read_into(self, start: int, target: memoryview, nbytes: int) -> int:
        return nbytes

    def close(self) -> None:
        """There is nothing to close."""


def _shapes(part: Component) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Of the tensors of a component's module, tied ones once; and the aliases."""
    shapes: dict[str, tuple[int, ...]] = {}
    aliases: dict[str, str] = {}
    first: dict[int, str] = {}
    for slot in slots(build(part)):
        tensor = slot.holder[slot.key]
        assert tensor is not None
        if (stored := first.setdefault(id(tensor), slot.name)) != slot.name:
            aliases[slot.name] = stored
        else:
            shapes[slot.name] = tuple(tensor.shape)
    return shapes, aliases


def _manifest(
    family: str, parts: tuple[Component, ...], processors: tuple[Processor, ...]
) -> Manifest:
    model = MODELS[family]
    return Manifest(
        family=family,
        title=f"{family} in full size, without weights",
        licence="",
        created_by="bench",
        pipeline_class=f"diffusers.{model.pipeline}",
        pipeline_arguments={},
        components=parts,
        schedulers=(Scheduler("scheduler", f"diffusers.{model.scheduler}", {}),),
        processors=processors,
        preview=None,
        input_schema=family_named(family).input_schema(_SIZES),
        working_set_bytes=0,
    )


def _tokenizers(model: _Model, writer: StoreWriter) -> tuple[Processor, ...]:
    made = {"CLIPTokenizer": clip_tokenizer, "T5Tokenizer": t5_tokenizer}
    return tuple(
        Processor(name, f"transformers.{kind}", _files(made[kind](name), writer))
        for name, kind in model.tokenizers.items()
    )


def _files(tokenizer: Any, writer: StoreWriter) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="quickthaw-") as folder:
        tokenizer.save_pretrained(folder)
        return {
            path.name: writer.add_blob(path.read_bytes())
            for path in sorted(Path(folder).iterdir())
            if path.name in PROCESSOR_FILES
        }


def clip_tokenizer(name: str) -> Any:
    """As many words as CLIP's, of no language; the second one pads otherwise, as SDXL's does."""
    letters = sorted(ByteLevel.alphabet())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges = list(
        itertools.islice(itertools.product(pieces, letters), CLIP_WORDS - 2 - len(pieces))
    )
    merges = [(left, right) for left, right in merges if not left.endswith("</w>")]
    endings = itertools.product(letters, pieces[len(letters) :])
    merges += itertools.islice(endings, CLIP_WORDS - 2 - len(pieces) - len(merges))
    words = dict.fromkeys([*pieces, *(left + right for left, right in merges)])
    vocab = {word: rank for rank, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    pad = "!" if name.endswith("_2") else "<|endoftext|>"
    return tf.CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77, pad_token=pad)


def t5_tokenizer(name: str) -> Any:
    """As many words as T5's."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = ("".join(word) for word in itertools.product(letters, repeat=4))
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -6.0)]
    pieces += [(letter, -8.0) for letter in letters]
    pieces += [("▁" + word, -10.0) for word in itertools.islice(words, T5_WORDS - len(pieces))]
    return tf.T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=512)


class AddressSpace:
    """A device's buffer: zeros that take no memory until they are touched, which nobody does."""

    def __init__(self, device: EmptyDevice, nbytes: int) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        self.nbytes = nbytes
        self._device = device
        mapping = mmap.mmap(-1, max(nbytes, mmap.PAGESIZE), flags=flags)
        self.data = torch.frombuffer(memoryview(mapping), dtype=torch.uint8)
        self.host_view: memoryview | None = None
        self.room = None

    def free(self) -> None:
        self._device.used_bytes -= self.nbytes
        self.data = torch.empty(0, dtype=torch.uint8)


class EmptyDevice:
    """A CPU with room for any model, as long as nobody looks at the weights."""

    kind = "cpu"
    pins = False
    torch_device = torch.device("cpu")
    total_bytes = 1 << 40

    def __init__(self) -> None:
        self.used_bytes = 0

    @property
    def free_bytes(self) -> int:
        return self.total_bytes - self.used_bytes

    def allocate(self, nbytes: int) -> AddressSpace:
        nbytes = -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self.used_bytes += nbytes
        return AddressSpace(self, nbytes)

    def wrap(self, room: object, nbytes: int) -> None:
        """No buffer is made of the slab, which is small."""

    def copy(self, target: object, offset: int, source: memoryview) -> None:
        """What was not read need not be copied."""

    def fence(self) -> EmptyDevice:
        return self

    def wait(self) -> None:
        """Nothing is on its way."""

    def order(self) -> None:
        """As in `wait`."""

    def register(self, memory: Memory, chunk_bytes: int) -> None:
        """Nothing to do."""

    def unregister(self, memory: Memory, chunk_bytes: int) -> None:
        """Nothing to do."""
