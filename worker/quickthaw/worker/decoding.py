"""How a run decodes what it drew: in one piece, or in parts that take less memory.

At full size a VAE's maps are many times as large as what it makes of them, and as what the denoiser
holds. So beyond a size that the family's table names several pictures are decoded one by one, and
large ones in tiles that overlap and are blended. The request's size decides and nothing else: what
is free at the moment would make other bytes of the same request elsewhere.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from quickthaw.snapshot.classes import Role, class_path
from quickthaw.snapshot.families import family_of


def decode_pictures(
    pipe: Any, clone: Any, size: tuple[int, int], count: int, check: Callable[[], None]
) -> None:
    """Has `clone`, a request's own over the parts of `pipe`, decode `count` pictures of `size` as
    its family does; `check` is called before each part and may raise."""
    family = family_of(class_path(pipe, Role.PIPELINE, "pipeline"))
    tiled = family.decodes_in_tiles(size)
    sliced = family.decodes_one_by_one(size, count)
    if tiled or sliced:
        clone.vae = _own_vae(clone.vae, check, tiled=tiled, sliced=sliced)


def decode_video(
    pipe: Any, clone: Any, size: tuple[int, int], frames: int, check: Callable[[], None]
) -> None:
    """Likewise, for one video, which most VAEs decode in parts anyway: frame by frame."""
    family = family_of(class_path(pipe, Role.PIPELINE, "pipeline"))
    clone.vae = _own_vae(clone.vae, check, tiled=family.decodes_in_tiles(size, frames))


def _own_vae(vae: Any, check: Callable[[], None], *, tiled: bool, sliced: bool = False) -> Any:
    """The same weights in the same modules, but for the two that have state: how to decode is an
    attribute of the VAE, which models share, and what comes before a part a hook of its decoder."""
    own, decoder = copy.copy(vae), copy.copy(vae.decoder)
    decoder._forward_pre_hooks = OrderedDict(decoder._forward_pre_hooks)
    decoder.register_forward_pre_hook(lambda module, arguments: check())
    own._modules = {**own._modules, "decoder": decoder}
    if tiled:
        own.enable_tiling()
    if sliced:
        own.enable_slicing()
    return own
