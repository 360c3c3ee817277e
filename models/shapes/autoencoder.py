"""The autoencoder: 64x64 pictures to 16x16x4 latents and back, trained first and then frozen."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch.nn import functional

from data import SceneSource, contact_sheet, to_pictures
from measure import read, score

LATENT_CHANNELS = 4
EDGE_WEIGHT = 1.0
"""Weight of the loss on differences between neighbours: a soft edge costs little in plain L1."""
CROP_SHARE = 0.75
"""Share of the steps that train on crops, before whole pictures."""
KL_WEIGHT = 1e-6
"""Just enough to keep latents bounded; their scale is set to one afterwards."""

log = logging.getLogger(__name__)


def build() -> AutoencoderKL:
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 48, 96),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=64,
        # Without attention the network is all convolutions, and what it learns on crops holds.
        mid_block_add_attention=False,
    )
    # A fresh posterior has a deviation near one and drowns its own mean for hundreds of steps.
    with torch.no_grad():
        vae.quant_conv.bias[LATENT_CHANNELS:] = -6.0
    return vae


def _edges(batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return batch[..., 1:] - batch[..., :-1], batch[..., 1:, :] - batch[..., :-1, :]


def _crops(pictures: torch.Tensor) -> torch.Tensor:
    """One random quarter of each picture: four times as many steps for the same time."""
    half = pictures.shape[-1] // 2
    corners = torch.randint(0, half + 1, (len(pictures), 2)).tolist()
    return torch.stack(
        [
            picture[:, top : top + half, left : left + half]
            for picture, (top, left) in zip(pictures, corners, strict=True)
        ]
    )


def _loss(vae: AutoencoderKL, pictures: torch.Tensor) -> torch.Tensor:
    posterior = vae.encode(pictures).latent_dist
    decoded = vae.decode(posterior.sample()).sample.float()
    loss: torch.Tensor = functional.l1_loss(decoded, pictures)
    for ours, theirs in zip(_edges(decoded), _edges(pictures), strict=True):
        loss = loss + EDGE_WEIGHT * functional.l1_loss(ours, theirs)
    penalty: torch.Tensor = posterior.kl().mean()
    return loss + KL_WEIGHT * penalty


def train(vae: AutoencoderKL, *, steps: int, batch_size: int, rate: float, seed: int) -> None:
    """Trains in place with a one-cycle rate."""
    torch.manual_seed(seed)
    source = SceneSource(seed)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=rate, total_steps=steps, pct_start=0.05
    )
    started = time.monotonic()
    for step in range(1, steps + 1):
        _, pictures = source.batch(batch_size)
        if step <= steps * CROP_SHARE:
            pictures = _crops(pictures)
        with torch.autocast("cpu", torch.bfloat16):
            loss = _loss(vae, pictures)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            log.info("vae step %d loss %.4f (%.0f s)", step, loss, time.monotonic() - started)


@torch.no_grad()
def set_scaling_factor(vae: AutoencoderKL, *, seed: int) -> None:
    """Records the factor that brings latents to unit variance, which diffusion assumes."""
    _, pictures = SceneSource(seed).batch(512)
    deviation = vae.encode(pictures).latent_dist.mean.std()
    vae.register_to_config(scaling_factor=round(1 / float(deviation), 5))


@torch.no_grad()
def reconstruction_accuracy(vae: AutoencoderKL, *, count: int, seed: int, sheet: Path) -> float:
    """Share of pictures that read right in everything after a round trip; also draws some."""
    scenes, pictures = SceneSource(seed).batch(count)
    decoded = to_pictures(vae.decode(vae.encode(pictures).latent_dist.mean).sample)
    Image.fromarray(contact_sheet(to_pictures(pictures[:16]) + decoded[:16])).save(sheet)
    right = [
        score(scene, read(picture)).all_right
        for scene, picture in zip(scenes, decoded, strict=True)
    ]
    return sum(right) / count
