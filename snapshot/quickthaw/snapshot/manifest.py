"""What a snapshot consists of (FORMAT.md §5). Reading and writing it: `manifest_json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from quickthaw.snapshot.fields import JsonValue
from quickthaw.snapshot.hashes import BLOCK_HASH_HEX_CHARS

MANIFEST_VERSION = 2
"""The newest version; a manifest without any of its keys is written as version 1."""
MANIFEST_FORMAT = "quickthaw-snapshot"
MANIFEST_BYTES_MAX = 8 * 1024 * 1024
"""Read whole, and ten times as large in memory. The block hashes of a hundred gigabytes of weights
take a tenth of it."""
COMPONENTS_MAX = 32
BLOB_BYTES_MAX = 64 * 1024 * 1024
DELTA_LAYERS_MAX = 4
"""How deep deltas may stand on one another."""
ADAPTER_RANK_MAX = 1024
ADAPTER_SCALE_MAX = 1024.0
ATTENTION_KINDS = frozenset({"sdpa", "eager"})
QUANTIZATION_METHODS = frozenset({"fp8", "int8", "fp8_unscaled"})
QUANTIZATION_DTYPES = frozenset({"F16", "BF16", "F32"})
QUANTIZED_LAYERS_MAX = 65536
PROCESSOR_FILES = frozenset(
    {
        "added_tokens.json",
        "merges.txt",
        "preprocessor_config.json",
        "special_tokens_map.json",
        "spiece.model",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
    }
)
"""The only file names a tokenizer or image processor may bring."""


class Kind(StrEnum):
    """What a component does in its pipeline."""

    TEXT_ENCODER = "text_encoder"
    DENOISER = "denoiser"
    VAE = "vae"
    IMAGE_ENCODER = "image_encoder"
    SAFETY_CHECKER = "safety_checker"
    ADAPTER = "adapter"
    """Not a module: low-rank weights that are laid over one while a model runs."""


@dataclass(frozen=True, slots=True)
class DeltaLayer:
    """A file with the tensors in which one component differs from another of equal header."""

    digest: str
    header_digest: str
    data_start: int
    data_bytes: int
    result: str
    """The digest of the component that the base and the layers up to this one make."""

    @property
    def file_bytes(self) -> int:
        return self.data_start + self.data_bytes


@dataclass(frozen=True, slots=True)
class Delta:
    """A component as a stored one and what lies over it, the lowest layer first.

    The chain is written out, so nothing but files is needed to follow it.
    """

    base: str
    """The digest of a component that is stored in full."""
    layers: tuple[DeltaLayer, ...]

    @property
    def stages(self) -> tuple[str, ...]:
        """Component digests from the base up; each is the one before with one layer over it."""
        return (self.base, *(layer.result for layer in self.layers))


@dataclass(frozen=True, slots=True)
class Adapter:
    """What a LoRA's weights mean: each pair adds `up(down(x)) * scale * alpha / rank`."""

    target: str
    """The name of the component that it is laid over."""
    rank: int
    """The largest of any layer; each layer's own is its tensors' shape."""
    alpha: float
    alphas: Mapping[str, float]
    """Layers whose alpha is another one."""
    scale: float


@dataclass(frozen=True, slots=True)
class Quantization:
    """Which layers of a component have eight-bit weights."""

    method: str
    """One of `QUANTIZATION_METHODS`; what they mean: `quantized.Method`."""
    layers: Mapping[str, str]
    """Layers of the module, each with the type that its weight had and that it computes in."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of the store: its path under the root, its SHA-256 and its size."""

    path: str
    digest: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class Component:
    """One module's weights and how to build the module. Named by the SHA-256 of its file."""

    name: str
    kind: Kind
    class_path: str
    config: Mapping[str, JsonValue]
    attention: str | None
    """transformers' attention kind; None for diffusers models, which choose at run time."""
    dtypes: tuple[str, ...]
    digest: str
    header_digest: str
    data_start: int
    data_bytes: int
    blocks: str
    """XXH3-128 of each 4 MiB block of the data section, 32 hex digits each, in order."""
    aliases: Mapping[str, str]
    """Other names of a tied tensor, each mapped to the name it is stored under."""
    delta: Delta | None = None
    """How its bytes are stored, where that is not as a file of its own."""
    adapter: Adapter | None = None
    """Set for the kind `adapter` alone; then class, config and aliases are empty."""
    quantization: Quantization | None = None
    """Set where some of its weights are stored in eight bits."""

    @property
    def file_bytes(self) -> int:
        return self.data_start + self.data_bytes

    def files(self) -> tuple[StoredFile, ...]:
        """Where its bytes are: its file, or the base's and those of the layers over it."""
        stored = self.digest if self.delta is None else self.delta.base
        # Equal headers make base and component equally long.
        found = [StoredFile(f"components/{stored}.safetensors", stored, self.file_bytes)]
        for layer in () if self.delta is None else self.delta.layers:
            path = f"deltas/{layer.digest}.safetensors"
            found.append(StoredFile(path, layer.digest, layer.file_bytes))
        return tuple(found)

    @property
    def block_count(self) -> int:
        return len(self.blocks) // BLOCK_HASH_HEX_CHARS

    def block_hash(self, index: int) -> str:
        return self.blocks[index * BLOCK_HASH_HEX_CHARS : (index + 1) * BLOCK_HASH_HEX_CHARS]


@dataclass(frozen=True, slots=True)
class Scheduler:
    """A noise scheduler: a class and its constructor's arguments."""

    name: str
    class_path: str
    config: Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Blob:
    digest: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Processor:
    """A tokenizer or image processor, built from small files."""

    name: str
    class_path: str
    files: Mapping[str, Blob]


@dataclass(frozen=True, slots=True)
class Preview:
    """Linear map from pipeline latents to RGB in 0..1: `rgb = latent @ weights + bias`.

    `weights` has one row of three per latent channel. It is fitted to the VAE when packing;
    `r2` says how much of the variance it explains.
    """

    weights: tuple[tuple[float, float, float], ...]
    bias: tuple[float, float, float]
    r2: float


@dataclass(frozen=True, slots=True)
class Manifest:
    """A snapshot. `components` are in load order: the order in which a request needs them."""

    family: str
    title: str
    licence: str
    created_by: str
    pipeline_class: str
    pipeline_arguments: Mapping[str, JsonValue]
    components: tuple[Component, ...]
    schedulers: tuple[Scheduler, ...]
    processors: tuple[Processor, ...]
    preview: Preview | None
    input_schema: Mapping[str, JsonValue]
    working_set_bytes: int
    """Estimate of what one request needs beside the weights, at the default image size."""

    @property
    def weight_bytes(self) -> int:
        return sum({part.digest: part.data_bytes for part in self.components}.values())

    @property
    def defaults(self) -> dict[str, JsonValue]:
        """The input's defaults, as the schema states them."""
        properties = self.input_schema.get("properties")
        if not isinstance(properties, dict):
            return {}
        return {
            name: rule["default"]
            for name, rule in properties.items()
            if isinstance(rule, dict) and "default" in rule
        }

    @property
    def modules(self) -> tuple[Component, ...]:
        """The components that are parts of the pipeline."""
        return tuple(part for part in self.components if part.adapter is None)

    @property
    def adapters(self) -> tuple[Component, ...]:
        """The components that are laid over others, in the order in which they are added."""
        return tuple(part for part in self.components if part.adapter is not None)

    def files(self) -> tuple[StoredFile, ...]:
        """All files that the snapshot needs beside its manifest, each once.

        Of a component that is stored as a delta these are its base's and its layers'.
        """
        found = {file.path: file for part in self.components for file in part.files()}
        for processor in self.processors:
            for blob in processor.files.values():
                path = f"blobs/{blob.digest}"
                found[path] = StoredFile(path, blob.digest, blob.bytes)
        return tuple(found.values())

    def component(self, name: str) -> Component:
        for part in self.components:
            if part.name == name:
                return part
        raise KeyError(name)
