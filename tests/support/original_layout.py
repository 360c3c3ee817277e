"""Stable Diffusion's original single-file layout, made from a tiny pipeline.

Checkpoints on hubs come in this layout. The names are the original code's; only those that
`tiny_sd` has are covered.
"""

from __future__ import annotations

import re
from typing import Any

import torch

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET = [
    (r"^conv_in\.", "input_blocks.0.0."),
    (r"^time_embedding\.linear_1\.", "time_embed.0."),
    (r"^time_embedding\.linear_2\.", "time_embed.2."),
    (r"^down_blocks\.0\.resnets\.0\.", "input_blocks.1.0."),
    (r"^down_blocks\.0\.downsamplers\.0\.conv\.", "input_blocks.2.0.op."),
    (r"^down_blocks\.1\.resnets\.0\.", "input_blocks.3.0."),
    (r"^down_blocks\.1\.attentions\.0\.", "input_blocks.3.1."),
    (r"^mid_block\.resnets\.0\.", "middle_block.0."),
    (r"^mid_block\.attentions\.0\.", "middle_block.1."),
    (r"^mid_block\.resnets\.1\.", "middle_block.2."),
    (r"^up_blocks\.0\.resnets\.(\d)\.", r"output_blocks.\1.0."),
    (r"^up_blocks\.0\.attentions\.(\d)\.", r"output_blocks.\1.1."),
    (r"^up_blocks\.0\.upsamplers\.0\.", "output_blocks.1.2."),
    (r"^up_blocks\.1\.resnets\.0\.", "output_blocks.2.0."),
    (r"^up_blocks\.1\.resnets\.1\.", "output_blocks.3.0."),
    (r"^conv_norm_out\.", "out.0."),
    (r"^conv_out\.", "out.2."),
]
_VAE = [
    (r"^(encoder|decoder)\.mid_block\.attentions\.0\.group_norm\.", r"\1.mid.attn_1.norm."),
    (r"^(encoder|decoder)\.mid_block\.attentions\.0\.to_([qkv])\.", r"\1.mid.attn_1.\2."),
    (r"^(encoder|decoder)\.mid_block\.attentions\.0\.to_out\.0\.", r"\1.mid.attn_1.proj_out."),
    (r"^(encoder|decoder)\.mid_block\.resnets\.0\.", r"\1.mid.block_1."),
    (r"^(encoder|decoder)\.mid_block\.resnets\.1\.", r"\1.mid.block_2."),
    (r"^encoder\.down_blocks\.(\d)\.resnets\.(\d)\.", r"encoder.down.\1.block.\2."),
    (r"^encoder\.down_blocks\.(\d)\.downsamplers\.0\.", r"encoder.down.\1.downsample."),
    (r"^(encoder|decoder)\.conv_norm_out\.", r"\1.norm_out."),
]


def original_checkpoint(pipeline: Any) -> dict[str, torch.Tensor]:
    """The pipeline's weights under the names of the original code."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in pipeline.unet.state_dict().items():
        found["model.diffusion_model." + _unet_name(name)] = tensor
    for name, tensor in pipeline.vae.state_dict().items():
        key = _vae_name(name)
        # Attention was written with 1×1 convolutions.
        conv = ".attn_1." in key and key.endswith("weight") and ".norm." not in key
        found["first_stage_model." + key] = tensor[:, :, None, None] if conv else tensor
    for name, tensor in pipeline.text_encoder.state_dict().items():
        found["cond_stage_model.transformer.text_model." + name] = tensor
    return {name: tensor.clone().contiguous() for name, tensor in found.items()}


def _unet_name(name: str) -> str:
    for pattern, replacement in _UNET:
        name = re.sub(pattern, replacement, name)
    if ".attentions." not in name and "transformer_blocks" not in name:
        for ours, theirs in _RESNET.items():
            name = name.replace(f".{ours}.", f".{theirs}.")
    return name


def _vae_name(name: str) -> str:
    for pattern, replacement in _VAE:
        name = re.sub(pattern, replacement, name)
    # The decoder's blocks were counted from the picture inwards.
    name = re.sub(
        r"^decoder\.up_blocks\.(\d)\.resnets\.(\d)\.",
        lambda match: f"decoder.up.{1 - int(match[1])}.block.{match[2]}.",
        name,
    )
    name = re.sub(
        r"^decoder\.up_blocks\.(\d)\.upsamplers\.0\.",
        lambda match: f"decoder.up.{1 - int(match[1])}.upsample.",
        name,
    )
    return name.replace(".conv_shortcut.", ".nin_shortcut.")
