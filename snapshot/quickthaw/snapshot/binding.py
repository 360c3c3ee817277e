"""A module's tensors laid over a buffer: all that depends on the layout alone is prepared once.

The tensor objects are made once and then pointed at one buffer after the other, which is two cheap
calls a tensor and makes nothing new. Equal header digests are interchangeable layouts, so what was
prepared for one model serves every fine-tune of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import is_not
from typing import TypeAlias, cast

import torch
from torch import nn

from quickthaw.snapshot.format import Header
from quickthaw.snapshot.tensors import Holder, Place, Slot, places

_Laid: TypeAlias = tuple[torch.Tensor, int, tuple[int, ...], tuple[int, ...]]
"""A tensor with its offset, shape and stride in items."""


@dataclass(frozen=True, slots=True)
class _Group:
    """The stored tensors of one dtype; `empty` has none of their bytes."""

    empty: torch.Tensor
    laid: list[_Laid] = field(default_factory=list[_Laid])


class Binding:
    """The tensors for one module's `slots` in the layout of `header`, on devices like `device`.

    Names and shapes must have been checked. Tied names share one Parameter. Bound to nothing at
    first; not thread-safe.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        header: Header,
        aliases: Mapping[str, str],
        device: torch.device,
    ) -> None:
        self.device = device
        self._data_bytes = header.data_bytes
        self._groups: dict[torch.dtype, _Group] = {}
        laid = places(header)
        names = [aliases.get(slot.name, slot.name) for slot in slots]
        kinds = [slot.is_parameter for slot in slots]
        made: dict[tuple[str, bool], torch.Tensor] = {}
        self._tensors: list[torch.Tensor] = []
        # A tensor made in inference mode could not be pointed elsewhere outside of it.
        with torch.inference_mode(mode=False):
            for key in zip(names, kinds, strict=True):
                if (tensor := made.get(key)) is None:
                    name, is_parameter = key
                    tensor = made[key] = self._make(laid[name], is_parameter)
                self._tensors.append(tensor)
        self._holders: list[Holder] = [slot.holder for slot in slots]
        self._keys = [slot.key for slot in slots]
        self._addresses: list[int] = []
        self._data: torch.Tensor | None = None

    def _make(self, place: Place, is_parameter: bool) -> torch.Tensor:
        if (group := self._groups.get(place.dtype)) is None:
            empty = torch.empty(0, dtype=place.dtype, device=self.device)
            group = self._groups[place.dtype] = _Group(empty)
        tensor = (
            nn.Parameter(group.empty, requires_grad=False) if is_parameter else group.empty.detach()
        )
        group.laid.append((tensor, place.offset, place.shape, place.stride))
        return tensor

    def bind(self, data: torch.Tensor) -> None:
        """Puts the tensors into the module, as views of `data`; nothing is copied.

        `data`: the component's data section as one uint8 tensor, rounded up to 256 bytes.
        """
        if data.nbytes < self._data_bytes:
            raise ValueError(f"{data.nbytes} bytes for a data section of {self._data_bytes}")
        self._let_go()
        storage, start = data.untyped_storage(), int(data.storage_offset())
        # Inference mode has no bookkeeping for gradients, which is a fifth of the time.
        with torch.inference_mode():
            for dtype, group in self._groups.items():
                shift = start // dtype.itemsize
                for tensor, offset, shape, stride in group.laid:
                    tensor.set_(storage, shift + offset, shape, stride)
        for holder, key, tensor in zip(self._holders, self._keys, self._tensors, strict=True):
            holder[key] = tensor
        self._data = data
        self._addresses = self._places_now()

    def holds(self, data: torch.Tensor) -> bool:
        """Whether the module has exactly these tensors, still where `bind` put them in `data`.

        Moving or casting a module replaces its tensors or gives them other memory; both show.
        """
        if self._data is None or self._data.data_ptr() != data.data_ptr():
            return False
        now = map(dict.get, cast("list[dict[str, object]]", self._holders), self._keys)
        return not any(map(is_not, now, self._tensors)) and self._places_now() == self._addresses

    def _places_now(self) -> list[int]:
        return list(map(torch.Tensor.data_ptr, self._tensors))

    def unbind(self, instead: Sequence[torch.Tensor | None]) -> None:
        """Lets go of the buffer; the module gets `instead`, one for each slot."""
        if self._data is None:
            return
        self._let_go()
        for holder, key, other in zip(self._holders, self._keys, instead, strict=True):
            holder[key] = other

    def _let_go(self) -> None:
        """Leaves every tensor empty, in the dtype that it had before a pipeline cast it."""
        if self._data is None:
            return
        for group in self._groups.values():
            empty = group.empty
            for tensor, *_ in group.laid:
                tensor.data = empty
        self._data = None
