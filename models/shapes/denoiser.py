"""The denoiser: a small U-Net on 16x16x4 latents, trained jointly with the text encoder.

The v-prediction target and a schedule rescaled to end in pure noise (Lin et al., "Common Diffusion
Noise Schedules and Sample Steps are Flawed", 2023) let the model choose the background's
brightness, which an ordinary schedule leaks into the first noise. Classifier-free guidance is
learnt by leaving out one caption in ten.
"""

from __future__ import annotations

import copy
import logging
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from autoencoder import LATENT_CHANNELS
from captions import Scene, varied_caption
from data import SceneSource
from text import WIDTH, tokenize

CAPTION_DROPOUT = 0.1
AVERAGE_DECAY = 0.999

log = logging.getLogger(__name__)


def build() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 128, 160),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        # The name is historical: diffusers reads this as the number of heads.
        attention_head_dim=4,
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )


@dataclass(frozen=True, slots=True)
class LatentSet:
    """Scenes and their latents (N x 4 x 16 x 16, bfloat16, unit variance), encoded once."""

    scenes: list[Scene]
    latents: torch.Tensor

    @classmethod
    @torch.no_grad()
    def encode(cls, vae: AutoencoderKL, *, count: int, seed: int) -> LatentSet:
        source, scenes, parts = SceneSource(seed), list[Scene](), list[torch.Tensor]()
        while len(scenes) < count:
            drawn, pictures = source.batch(64)
            scenes += drawn
            with torch.autocast("cpu", torch.bfloat16):
                means = vae.encode(pictures).latent_dist.mean
            parts.append((means * vae.config["scaling_factor"]).bfloat16())
        return cls(scenes, torch.cat(parts))

    @classmethod
    def reload(cls, latents: torch.Tensor, *, seed: int) -> LatentSet:
        """The set whose latents `encode` made with this seed; its scenes are drawn again."""
        source, scenes = SceneSource(seed), list[Scene]()
        while len(scenes) < len(latents):
            scenes += source.batch(64)[0]
        return cls(scenes, latents)


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast to train: a warm-up, a flat stretch, and a linear fall to zero.

    The flat stretch has no built-in length, so a run can be stopped, resumed with another `steps`
    and still end with a proper fall.
    """

    steps: int
    fall_steps: int
    batch_size: int
    rate: float
    seed: int
    checkpoint_every: int = 250
    warmup_steps: int = 200

    def rate_at(self, step: int) -> float:
        warm, left = step / self.warmup_steps, (self.steps - step) / self.fall_steps
        return self.rate * max(0.0, min(1.0, warm, left))


class Trainer:
    """Holds what a checkpoint holds: both networks, their running averages, optimizer, step."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        data: LatentSet,
        plan: Plan,
    ) -> None:
        # On a CPU, in bfloat16, plain attention trains a third faster than the fused kernel.
        unet.set_attn_processor(AttnProcessor())
        encoder.set_attn_implementation("eager")
        self.networks = nn.ModuleDict({"unet": unet, "encoder": encoder})
        self.averages = copy.deepcopy(self.networks).requires_grad_(False)
        self.step = 0
        self._tokenizer, self._data, self._plan = tokenizer, data, plan
        self._optimizer = torch.optim.AdamW(
            self.networks.parameters(),
            lr=plan.rate,
            betas=(0.9, 0.99),
            weight_decay=0.01,
            fused=True,
        )
        self._scheduler = build_scheduler()

    def run(self, checkpoint: Path) -> None:
        """Trains up to the plan's last step, from the checkpoint if there is one."""
        if checkpoint.exists():
            self.restore(checkpoint)
        # Seeded by where it starts, so that a resumed run does not repeat the draws before it.
        torch.manual_seed(self._plan.seed + self.step)
        chance = random.Random(self._plan.seed + self.step)
        started, smooth = time.monotonic(), 1.0
        while self.step < self._plan.steps:
            self.step += 1
            loss = self._train_step(chance)
            smooth += (loss - smooth) * 0.02
            if self.step % 50 == 0:
                seconds = time.monotonic() - started
                log.info("unet step %d loss %.4f (%.0f s)", self.step, smooth, seconds)
            if self.step % self._plan.checkpoint_every == 0 or self.step == self._plan.steps:
                self._save(checkpoint)

    def _train_step(self, chance: random.Random) -> float:
        picks = [chance.randrange(len(self._data.scenes)) for _ in range(self._plan.batch_size)]
        texts = [
            ""
            if chance.random() < CAPTION_DROPOUT
            else varied_caption(self._data.scenes[pick], chance)
            for pick in picks
        ]
        clean = self._data.latents[picks].float()
        noise = torch.randn_like(clean)
        times = torch.randint(0, self._scheduler.config["num_train_timesteps"], (len(picks),))
        noisy = self._scheduler.add_noise(clean, noise, times)
        target = self._scheduler.get_velocity(clean, noise, times)
        with torch.autocast("cpu", torch.bfloat16):
            states = self.networks["encoder"](tokenize(self._tokenizer, texts)).last_hidden_state
            guess = self.networks["unet"](noisy, times, states).sample
        loss = functional.mse_loss(guess.float(), target)
        for group in self._optimizer.param_groups:
            group["lr"] = self._plan.rate_at(self.step)
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.networks.parameters(), 1.0)
        self._optimizer.step()
        self._update_averages()
        return float(loss.detach())

    @torch.no_grad()
    def _update_averages(self) -> None:
        # A young average forgets faster, or it would remember the random start for too long.
        decay = min(AVERAGE_DECAY, (1 + self.step) / (10 + self.step))
        averages: list[torch.Tensor] = list(self.averages.parameters())
        current: list[torch.Tensor] = list(self.networks.parameters())
        torch._foreach_lerp_(averages, current, 1 - decay)

    def _save(self, checkpoint: Path) -> None:
        partial = checkpoint.with_suffix(".partial")
        state = {
            "step": self.step,
            "networks": self.networks.state_dict(),
            "averages": self.averages.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        torch.save(state, partial)
        partial.replace(checkpoint)

    def restore(self, checkpoint: Path) -> None:
        state = torch.load(checkpoint, weights_only=True)
        self.step = state["step"]
        self.networks.load_state_dict(state["networks"])
        self.averages.load_state_dict(state["averages"])
        self._optimizer.load_state_dict(state["optimizer"])
        for group in self._optimizer.param_groups:
            group["fused"] = True
