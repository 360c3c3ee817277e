"""A cheap look at latents: the linear map to RGB that fits a VAE best, made when packing.

A tenth of a millisecond on a CPU, where decoding takes seconds. Fitted to what the VAE's encoder
makes of synthetic pictures, since packing has no real ones.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch.nn import functional

from quickthaw.snapshot.manifest import Preview
from quickthaw.snapshot.sizes import frame_scale, vae_scale

_PICTURES = 12
_SIDE_MIN, _SIDE_MAX = 64, 256
_SEED = 20_240_229


def fit_preview(vae: Any) -> Preview | None:
    """Least squares from the pipeline's (scaled) latents to RGB; None if the VAE gives no numbers.

    `vae` is left as it is. One of sounds has no picture of its latents: None.
    """
    scale = vae_scale(vae)
    if not scale:
        return None
    side = min(max(8 * scale, _SIDE_MIN), _SIDE_MAX)
    pictures = _pictures(side)
    encoder = copy.deepcopy(vae)
    # The plain method: diffusers' own warns, rightly for a model that will be used further.
    torch.nn.Module.to(encoder, device="cpu", dtype=torch.float32)
    with torch.no_grad():
        means = torch.cat([_encoded(encoder, each[None] * 2 - 1) for each in pictures])
    latents = _scaled(vae, means)
    wanted = functional.interpolate(pictures, size=latents.shape[-2:], mode="area")
    # Of a video the first latent frame stands for one frame and the others for several.
    wanted = wanted.repeat_interleave(len(latents) // len(wanted), dim=0)
    return _solve(_pixels(latents), _pixels(wanted))


def _encoded(encoder: Any, picture: torch.Tensor) -> torch.Tensor:
    """(latent frames, channels, height, width) of a picture, or of a video that shows it."""
    frames = frame_scale(encoder)
    if frames == 1 and not hasattr(encoder.config, "temperal_downsample"):
        means: torch.Tensor = encoder.encode(picture).latent_dist.mean
        return means
    # One of videos that makes pictures is given them as videos of one frame.
    still = picture[:, :, None].repeat(1, 1, 1 if frames == 1 else 1 + frames, 1, 1)
    moving: torch.Tensor = encoder.encode(still).latent_dist.mean
    return moving[0].transpose(0, 1)


def _scaled(vae: Any, means: torch.Tensor) -> torch.Tensor:
    """As the pipeline has them: families differ in where they keep the numbers, and in which."""
    factor = getattr(vae.config, "scaling_factor", None) or 1.0
    mean, std = (_channel_wise(vae, name) for name in ("latents_mean", "latents_std"))
    if mean is not None and std is not None:
        return (means - mean) * factor / std
    return (means - (getattr(vae.config, "shift_factor", None) or 0.0)) * factor


def _channel_wise(vae: Any, name: str) -> torch.Tensor | None:
    values = getattr(vae.config, name, None)
    if values is None:
        values = dict(vae.named_buffers(recurse=False)).get(name)
    return None if values is None else torch.as_tensor(values).float().cpu().view(1, -1, 1, 1)


def _pixels(images: torch.Tensor) -> torch.Tensor:
    """(pictures, channels, height, width) to (pixels, channels) in double precision."""
    return images.permute(0, 2, 3, 1).reshape(-1, images.shape[1]).double()


def _pictures(side: int) -> torch.Tensor:
    """Smooth colour fields with a hard-edged rectangle each, RGB in 0..1."""
    random = torch.Generator().manual_seed(_SEED)
    coarse = torch.rand(_PICTURES, 3, 4, 4, generator=random)
    pictures = functional.interpolate(coarse, size=(side, side), mode="bilinear")
    for picture in pictures:
        top, left = (int(each) for each in torch.randint(0, side // 2, (2,), generator=random))
        colour = torch.rand(3, 1, 1, generator=random)
        picture[:, top : top + side // 2, left : left + side // 2] = colour
    return pictures


def _solve(latents: torch.Tensor, wanted: torch.Tensor) -> Preview | None:
    inputs = torch.cat([latents, torch.ones(len(latents), 1, dtype=torch.float64)], dim=1)
    if not bool(torch.isfinite(inputs).all()):
        return None
    # gelsd copes with latent channels that carry nothing.
    solution = torch.linalg.lstsq(inputs, wanted, driver="gelsd").solution
    residual = float(((inputs @ solution - wanted) ** 2).sum())
    spread = float(((wanted - wanted.mean(dim=0)) ** 2).sum())
    rows = [(float(row[0]), float(row[1]), float(row[2])) for row in solution]
    if not all(math.isfinite(each) for row in rows for each in row):
        return None
    rounded = [(round(r, 6), round(g, 6), round(b, 6)) for r, g, b in rows]
    return Preview(tuple(rounded[:-1]), rounded[-1], round(1 - residual / spread, 4))
