"""Which weights of a component are stored in eight bits, and putting such layers into its module.

The rule: matrices and convolutions (`nn.Linear`, `nn.Conv2d`) inside the model's repeated blocks,
that is, anywhere under an `nn.ModuleList`, with at least 16 inputs and 16 outputs and a weight of
their own (not tied). So norms, biases, embeddings, what comes before the first block and what
follows the last stay as they are. Weights that a source already has as F8_E4M3 are stored so
wherever they are, since nothing is lost by it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import nn

from quickthaw.snapshot.families import Family
from quickthaw.snapshot.format import Problem, invalid
from quickthaw.snapshot.manifest import Component, Kind, Quantization
from quickthaw.snapshot.quantized import LAYERS, Method, QuantizedLayer, encode
from quickthaw.snapshot.tensors import DTYPES, NAMES, Collected, slots
from quickthaw.wire.errors import InvalidArgument

CHANNELS_MIN = 16
METHODS: tuple[str, ...] = (Method.FP8.value, Method.INT8.value)
"""What one may ask for; the third method is for weights that come that way."""
_DEFAULT_KINDS = frozenset({Kind.DENOISER, Kind.TEXT_ENCODER})
_WORKING_DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32})


def chosen(
    method: str | None, only: Collection[str], family: Family, present: Collection[str]
) -> dict[str, Method]:
    """The components to quantise: those named, by name or kind; else denoiser and text encoders.

    Raises InvalidArgument for an unknown method or a name that the model has no component for.
    """
    if method is None:
        if only:
            raise InvalidArgument("--only says which components to quantise; give --quantize too")
        return {}
    if method not in METHODS:
        raise InvalidArgument(f"quantize is {method!r:.40}; it must be {' or '.join(METHODS)}")
    kinds = {name: family.components[name] for name in present}
    for wanted in only:
        if wanted not in kinds and wanted not in {kind.value for kind in kinds.values()}:
            raise InvalidArgument(
                f"only: the model has no component {wanted!r:.80}; it has "
                f"{', '.join(f'{name} ({kind.value})' for name, kind in kinds.items())}"
            )
    return {
        name: Method(method)
        for name, kind in kinds.items()
        if (name in only or kind.value in only if only else kind in _DEFAULT_KINDS)
    }


def quantize(
    module: nn.Module, collected: Collected, method: Method
) -> tuple[Collected, Quantization | None]:
    """The tensors to store instead of `collected`, and the manifest's words for it.

    None where no layer qualifies. `module` is left as it is.
    """
    shared = {*collected.aliases, *collected.aliases.values()}
    layers: dict[str, str] = {}
    replaced: dict[str, torch.Tensor] = {}
    for name in _candidates(module, everywhere=not method.scaled):
        weight = collected.tensors.get(f"{name}.weight")
        if weight is None or f"{name}.weight" in shared or weight.dtype not in _WORKING_DTYPES:
            continue
        encoded, scale = encode(weight, method)
        if scale is not None:
            replaced[f"{name}.weight_scale"] = scale
        elif not torch.equal(encoded.to(weight.dtype), weight):
            continue  # it was not stored in eight bits, and would not survive it
        replaced[f"{name}.weight_quantized"] = encoded
        layers[name] = NAMES[weight.dtype]
    if not layers:
        return collected, None
    gone = {f"{name}.weight" for name in layers}
    kept = {name: each for name, each in collected.tensors.items() if name not in gone}
    return Collected({**kept, **replaced}, collected.aliases), Quantization(method.value, layers)


def in_order_of(module: nn.Module, collected: Collected) -> Collected:
    """The tensors in the canonical order of the module that will hold them."""
    order = [slot.name for slot in slots(module) if slot.name in collected.tensors]
    order += collected.tensors.keys() - set(order)  # for the check that follows to name
    return Collected({name: collected.tensors[name] for name in order}, collected.aliases)


def _candidates(module: nn.Module, *, everywhere: bool) -> Iterator[str]:
    repeated = [name for name, part in module.named_modules() if isinstance(part, nn.ModuleList)]
    starts = tuple(f"{name}." for name in repeated)
    for name, part in module.named_modules():
        # Subclasses may compute otherwise.
        if type(part) not in {layer.replaces for layer in LAYERS}:
            continue
        weight = part.weight
        assert isinstance(weight, torch.Tensor)
        if min(weight.shape[:2]) >= CHANNELS_MIN and (everywhere or name.startswith(starts)):
            yield name


def install(module: nn.Module, component: Component) -> None:
    """Puts eight-bit layers where the manifest says; `module` is on the meta device.

    Raises SnapshotInvalid if a name is no layer that could be one.
    """
    if component.quantization is None:
        return
    method = Method(component.quantization.method)
    parts: Mapping[str, nn.Module] = dict(module.named_modules())
    for name, dtype in component.quantization.layers.items():
        part = parts.get(name)
        kind = next((each for each in LAYERS if each.replaces is type(part)), None)
        if part is None or kind is None:
            invalid(
                Problem.MANIFEST,
                f"component {component.name}",
                f"quantization: {name!r:.200} is no layer of {component.class_path} that can be "
                "quantised",
            )
        owner, _, key = name.rpartition(".")
        with torch.device("meta"):
            # torch types a module's children by what they are, which the table has made sure of.
            layer: QuantizedLayer = kind(part, method, DTYPES[dtype])  # type: ignore[arg-type]
        setattr(parts[owner], key, layer)
