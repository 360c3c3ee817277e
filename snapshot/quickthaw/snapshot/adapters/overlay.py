"""Switching adapters on and off: one entry in each target layer's own dictionary.

A layer that is adapted gets a `forward` of its own, which shadows its class's while it is there:
nothing is copied, no module changes its name or its tensors, and off means gone, so the base costs
what it always did and draws the same bits. Adapters are views of their component's buffer and never
anything that a caller could write through. peft's wrappers, which this stands in for, cost the base
time while they are in place and grow with each adapter.

A forward computes what peft's does, in the same order, so that the bits are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn import functional

from quickthaw.snapshot.format import Problem, invalid
from quickthaw.snapshot.manifest import Adapter, Component
from quickthaw.snapshot.quantized import QuantizedConv2d, QuantizedLinear

DOWN, UP = "lora_A.weight", "lora_B.weight"
Forward = Callable[..., torch.Tensor]


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer's part of an adapter: what is added is `up(down(x)) * factor`."""

    down: torch.Tensor
    up: torch.Tensor
    alpha: float
    scale: float

    def factor(self, strength: float) -> float:
        # The order of the operations is peft's, so that the last bit is the same.
        return strength * self.scale * self.alpha / self.down.shape[0]


@dataclass(slots=True)
class _Strength:
    """What a run asks for, on top of the adapters' own scales; shared by all layers of a model."""

    value: float = 1.0


_AS_IT_IS = _Strength()

Laid: TypeAlias = tuple[LayerWeights, _Strength]
Bound: TypeAlias = Mapping[str, Mapping[str, LayerWeights]]
"""One LoRA: the weights of its layers by component and by the layer's name there."""


def overlay_of(
    adapters: Sequence[Component],
    tensors_of: Callable[[Component], Mapping[str, torch.Tensor]],
    modules: Mapping[str, nn.Module],
) -> Overlay:
    """All adapters of a model over its modules, off. `tensors_of` gives views of their buffers."""
    stacks: dict[str, list[Mapping[str, LayerWeights]]] = {}
    for part in adapters:
        assert part.adapter is not None
        target = part.adapter.target
        bound = bind(part.adapter, tensors_of(part), modules[target], f"component {part.name}")
        stacks.setdefault(target, []).append(bound)
    overlay = Overlay()
    for target, stack in stacks.items():
        overlay.add(modules[target], stack)
    return overlay


def bind(
    adapter: Adapter,
    tensors: Mapping[str, torch.Tensor],
    module: nn.Module,
    where: str,
) -> dict[str, LayerWeights]:
    """An adapter's tensors by layer of `module`; raises `SnapshotInvalid` if they do not fit."""
    names = {name.removesuffix(f".{DOWN}") for name in tensors if name.endswith(f".{DOWN}")}
    if tensors.keys() != {f"{name}.{part}" for name in names for part in (DOWN, UP)}:
        invalid(Problem.MANIFEST, where, f"an adapter has pairs of {DOWN} and {UP}, nothing else")
    found: dict[str, LayerWeights] = {}
    for name in sorted(names):
        down, up = tensors[f"{name}.{DOWN}"], tensors[f"{name}.{UP}"]
        check_layer(module, name, down, up, where)
        rank = down.shape[0]
        if rank > adapter.rank:
            invalid(Problem.BAD_SHAPE, where, f"{name} has rank {rank}, over {adapter.rank}")
        alpha = adapter.alphas.get(name, adapter.alpha)
        found[name] = LayerWeights(down, up, alpha, adapter.scale)
    return found


def _layer(module: nn.Module, name: str) -> nn.Module | None:
    """As `get_submodule`, at a tenth of its cost: a LoRA names hundreds."""
    found: nn.Module | None = module
    for part in name.split("."):
        if found is None:
            return None
        found = found._modules.get(part)
    return found


def _found(module: nn.Module, name: str) -> nn.Module:
    layer = _layer(module, name)
    assert layer is not None, "names were checked"
    return layer


def check_layer(
    module: nn.Module, name: str, down: torch.Tensor, up: torch.Tensor, where: str
) -> None:
    """Raises `SnapshotInvalid` unless the pair fits the layer of `module` with this name."""
    match layer := _layer(module, name):
        case nn.Conv2d() | QuantizedConv2d():
            rank = down.shape[0]
            wanted = [
                (rank, layer.in_channels, *layer.kernel_size),
                (layer.out_channels, rank // layer.groups, 1, 1),
            ]
        case nn.Linear() | QuantizedLinear():
            rank = down.shape[0]
            wanted = [(rank, layer.in_features), (layer.out_features, rank)]
        case _:
            what = "has no such layer" if layer is None else f"has a {type(layer).__name__} there"
            invalid(Problem.MANIFEST, where, f"it adapts {name!r:.200}, and its target {what}")
    if down.shape[:1] == (0,) or [tuple(down.shape), tuple(up.shape)] != wanted:
        invalid(
            Problem.BAD_SHAPE,
            where,
            f"{name} has {tuple(down.shape)} and {tuple(up.shape)}, "
            f"its target wants {wanted[0]} and {wanted[1]}",
        )


class Overlay:
    """The adapters of one model, ready to be switched on. One overlay of a module at a time."""

    def __init__(self) -> None:
        self._patches: list[tuple[nn.Module, Forward]] = []
        self._stacks: list[tuple[nn.Module, Sequence[Mapping[str, Laid]]]] = []
        self._parents: list[nn.Module] = []
        self._strength = _Strength()

    def add(self, module: nn.Module, stack: Sequence[Mapping[str, LayerWeights]]) -> None:
        """Adapters of one module, the one that is added first being first. `off` for now."""
        self._add(
            module,
            [{name: (line, self._strength) for name, line in each.items()} for each in stack],
        )

    def _add(self, module: nn.Module, stack: Sequence[Mapping[str, Laid]]) -> None:
        names = list(dict.fromkeys(name for each in stack for name in each))
        for name in names:
            layer = _found(module, name)
            pairs = [each[name] for each in stack if name in each]
            self._patches.append((layer, _forward(layer, pairs)))
        self._parents += _between(module, names)
        self._stacks.append((module, stack))

    def with_more(self, more: Sequence[Bound], modules: Mapping[str, nn.Module]) -> Overlay:
        """These adapters with others after them, whose scales `on` leaves as they are."""
        both = Overlay()
        both._strength = self._strength
        targets = dict.fromkeys(target for each in more for target in each)
        laid = {
            modules[target]: [
                {name: (line, _AS_IT_IS) for name, line in each[target].items()}
                for each in more
                if target in each
            ]
            for target in targets
        }
        for module, stack in self._stacks:
            both._add(module, [*stack, *laid.pop(module, ())])
        for module, stack in laid.items():
            both._add(module, stack)
        return both

    def __len__(self) -> int:
        """Layers that are adapted."""
        return len(self._patches)

    @contextmanager
    def on(self, strength: float = 1.0) -> Iterator[None]:
        """Adapts the modules until the end of the block, whatever happens in it.

        `strength` multiplies the scales that the adapters were packed with.

        Raises `RuntimeError` if they are adapted already: whoever runs shared modules has to do so
        one run at a time.
        """
        if any("forward" in vars(layer) for layer, _ in self._patches):
            raise RuntimeError("another model's adapters are on; run one at a time")
        shadowed = [_uncompiled(parent) for parent in self._parents if _is_compiled(parent)]
        self._strength.value = strength
        try:
            for layer, forward in self._patches:
                vars(layer)["forward"] = forward
            yield
        finally:
            for layer, _ in self._patches:
                vars(layer).pop("forward", None)
            for restore in shadowed:
                restore()


def _between(module: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """What lies between a module and its adapted layers: blocks that may have been compiled."""
    parents: set[str] = set()
    for name in names:
        while (name := name.rpartition(".")[0]) and name not in parents:
            parents.add(name)
    return [_found(module, name) for name in sorted(parents)]


def _is_compiled(block: nn.Module) -> bool:
    return "forward" in vars(block) or block._compiled_call_impl is not None


def _uncompiled(block: nn.Module) -> Callable[[], None]:
    """Takes compiled code off a block, which knows nothing of the layers' own forwards."""
    compiled, block._compiled_call_impl = block._compiled_call_impl, None
    forward = vars(block).pop("forward", None)

    def restore() -> None:
        block._compiled_call_impl = compiled
        if forward is not None:
            vars(block)["forward"] = forward

    return restore


def _forward(layer: nn.Module, pairs: Sequence[Laid]) -> Forward:
    base: Callable[..., torch.Tensor] = type(layer).forward
    lay_over = (
        _convolved(layer, pairs)
        if isinstance(layer, nn.Conv2d | QuantizedConv2d)
        else _linear(pairs)
    )

    def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        result = base(layer, x, *args, **kwargs)
        return lay_over(x, result).to(result.dtype)

    return forward


def _linear(pairs: Sequence[Laid]) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    def lay_over(x: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        for each, strength in pairs:
            x = x.to(each.down.dtype)
            added = functional.linear(functional.linear(x, each.down), each.up)
            result = result + added * each.factor(strength.value)
        return result

    return lay_over


def _convolved(
    layer: nn.Conv2d | QuantizedConv2d, pairs: Sequence[Laid]
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    def lay_over(x: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        for each, strength in pairs:
            x = x.to(each.down.dtype)
            low = functional.conv2d(x, each.down, None, layer.stride, layer.padding)
            added = functional.conv2d(low, each.up, groups=layer.groups)
            result = result + added * each.factor(strength.value)
        return result

    return lay_over
