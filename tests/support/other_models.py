"""Tiny random pipelines of the families that make other things than `tiny_models`, or otherwise."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from support.tiny_models import (
    T5_HIDDEN,
    TEXT_TOKENS,
    clip_config,
    clip_tokenizer,
    df,
    ready,
    seeded,
    t5_tokenizer,
    tf,
    vae,
)

_CLIP = 16
_PICTURE = 224
"""The pipeline scales what the image encoder sees to this side, whatever the model."""


def _t5(words: int) -> Any:
    config = tf.T5Config(
        vocab_size=words,
        d_model=T5_HIDDEN,
        d_kv=8,
        d_ff=37,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    return tf.T5EncoderModel(config)


def tiny_sd3(seed: int = 0) -> Any:
    """Stable Diffusion 3's shape: three text encoders, joint attention; T5 brings tied weights."""
    with seeded(seed):
        tokenizer, tokenizer_3 = clip_tokenizer(), t5_tokenizer()

        def clip() -> Any:
            return tf.CLIPTextModelWithProjection(
                clip_config(
                    tokenizer, hidden_size=_CLIP, projection_dim=_CLIP, num_attention_heads=2
                )
            )

        transformer = df.SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=T5_HIDDEN,
            caption_projection_dim=32,
            pooled_projection_dim=2 * _CLIP,
            pos_embed_max_size=16,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        )
        pipeline = df.StableDiffusion3Pipeline(
            transformer=transformer,
            scheduler=df.FlowMatchEulerDiscreteScheduler(),
            vae=vae(
                latent_channels=16,
                shift_factor=0.0609,
                scaling_factor=1.5305,
                use_quant_conv=False,
                use_post_quant_conv=False,
            ),
            text_encoder=clip(),
            tokenizer=tokenizer,
            text_encoder_2=clip(),
            tokenizer_2=tokenizer,
            text_encoder_3=_t5(len(tokenizer_3)),
            tokenizer_3=tokenizer_3,
        )
    return ready(pipeline)


def tiny_svd(seed: int = 0) -> Any:
    """Stable Video Diffusion's shape: a picture in, frames out."""
    with seeded(seed):
        encoder = tf.CLIPVisionModelWithProjection(
            tf.CLIPVisionConfig(
                hidden_size=16,
                intermediate_size=37,
                num_hidden_layers=1,
                num_attention_heads=2,
                image_size=_PICTURE,
                patch_size=32,
                projection_dim=32,
            )
        )
        unet = df.UNetSpatioTemporalConditionModel(
            block_out_channels=(32, 64),
            layers_per_block=1,
            sample_size=16,
            in_channels=8,
            out_channels=4,
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            cross_attention_dim=32,
            num_attention_heads=(2, 4),
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24,
            num_frames=2,
        )
        decoder = df.AutoencoderKLTemporalDecoder(
            block_out_channels=(32, 32),
            down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
            latent_channels=4,
            sample_size=32,
            force_upcast=False,
        )
        pipeline = df.StableVideoDiffusionPipeline(
            vae=decoder,
            image_encoder=encoder,
            unet=unet,
            scheduler=df.EulerDiscreteScheduler(
                prediction_type="v_prediction",
                timestep_type="continuous",
                timestep_spacing="leading",
                sigma_min=0.002,
                sigma_max=700.0,
                use_karras_sigmas=True,
            ),
            feature_extractor=tf.CLIPImageProcessor(
                size={"shortest_edge": _PICTURE}, crop_size={"height": _PICTURE, "width": _PICTURE}
            ),
        )
    return ready(pipeline)


def tiny_audio(seed: int = 0) -> Any:
    """Stable Audio's shape: sound from a text and times; its VAE computes weights as it runs."""
    with seeded(seed):
        tokenizer = t5_tokenizer()
        transformer = df.StableAudioDiTModel(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            num_key_value_attention_heads=1,
            cross_attention_dim=16,
            time_proj_dim=8,
            global_states_input_dim=2 * T5_HIDDEN,
            cross_attention_input_dim=T5_HIDDEN,
        )
        pipeline = df.StableAudioPipeline(
            vae=df.AutoencoderOobleck(
                encoder_hidden_size=8,
                downsampling_ratios=[2, 4],
                channel_multiples=[1, 2],
                decoder_channels=8,
                decoder_input_channels=4,
                audio_channels=2,
                sampling_rate=16,
            ),
            text_encoder=_t5(len(tokenizer)),
            projection_model=df.StableAudioProjectionModel(
                text_encoder_dim=T5_HIDDEN, conditioning_dim=T5_HIDDEN, min_value=0, max_value=512
            ),
            tokenizer=tokenizer,
            transformer=transformer,
            # The released models' scheduler draws its noise with a package of its own, torchsde.
            scheduler=df.EDMDPMSolverMultistepScheduler(solver_order=2, prediction_type="epsilon"),
        )
    return ready(pipeline)


def tiny_wan(seed: int = 0, *, experts: bool = False) -> Any:
    """Wan's shape: a causal video VAE, UMT5; `experts`: with the second transformer of 2.2."""
    with seeded(seed):
        tokenizer = t5_tokenizer()
        shape = {
            "patch_size": (1, 2, 2),
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "in_channels": 16,
            "out_channels": 16,
            "text_dim": T5_HIDDEN,
            "freq_dim": 32,
            "ffn_dim": 32,
            "num_layers": 2,
            "cross_attn_norm": True,
            "qk_norm": "rms_norm_across_heads",
            "rope_max_seq_len": 32,
        }
        encoder = tf.UMT5Config(
            vocab_size=len(tokenizer),
            d_model=T5_HIDDEN,
            d_kv=8,
            d_ff=37,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
        )
        pipeline = df.WanPipeline(
            transformer=df.WanTransformer3DModel(**shape),
            transformer_2=df.WanTransformer3DModel(**shape) if experts else None,
            boundary_ratio=0.875 if experts else None,
            vae=df.AutoencoderKLWan(
                base_dim=3,
                z_dim=16,
                dim_mult=[1, 1, 1, 1],
                num_res_blocks=1,
                temperal_downsample=[False, True, True],
            ),
            scheduler=df.UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
            ),
            text_encoder=tf.UMT5EncoderModel(encoder),
            tokenizer=tokenizer,
        )
    return ready(pipeline)


def tiny_ltx(seed: int = 0) -> Any:
    """LTX-Video's shape: a transformer over latents that its VAE makes 32 times smaller."""
    with seeded(seed):
        tokenizer = t5_tokenizer()
        blocks: dict[str, Any] = {
            "block_out_channels": (8, 8, 8, 8),
            "decoder_block_out_channels": (8, 8, 8, 8),
            "layers_per_block": (1, 1, 1, 1, 1),
            "decoder_layers_per_block": (1, 1, 1, 1, 1),
            "spatio_temporal_scaling": (True, True, True, False),
            "decoder_spatio_temporal_scaling": (True, True, True, False),
        }
        pipeline = df.LTXPipeline(
            transformer=df.LTXVideoTransformer3DModel(
                in_channels=8,
                out_channels=8,
                num_attention_heads=4,
                attention_head_dim=8,
                cross_attention_dim=32,
                num_layers=1,
                caption_channels=T5_HIDDEN,
            ),
            vae=df.AutoencoderKLLTXVideo(
                latent_channels=8, patch_size=4, patch_size_t=1, encoder_causal=True, **blocks
            ),
            scheduler=df.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            text_encoder=_t5(len(tokenizer)),
            tokenizer=tokenizer,
        )
    return ready(pipeline)


def make(pipeline: Any, seed: int = 7) -> torch.Tensor:
    """What the pipeline makes, in two steps."""
    pipeline.set_progress_bar_config(disable=True)
    chance = torch.Generator().manual_seed(seed)
    match type(pipeline).__name__:
        case "StableDiffusion3Pipeline":
            settings = {"height": 32, "width": 32, "max_sequence_length": TEXT_TOKENS}
            made = pipeline(
                "a red circle",
                num_inference_steps=2,
                generator=chance,
                output_type="pt",
                **settings,
            ).images
        case "StableVideoDiffusionPipeline":
            picture = Image.linear_gradient("L").resize((32, 32)).convert("RGB")
            made = pipeline(
                picture,
                height=32,
                width=32,
                num_frames=2,
                num_inference_steps=2,
                generator=chance,
                output_type="pt",
            ).frames
        case "WanPipeline" | "LTXPipeline" | "HunyuanVideoPipeline" as kind:
            made = pipeline(
                "a red circle",
                height=32,
                width=32,
                num_frames=9,
                num_inference_steps=2,
                max_sequence_length=256 if kind == "HunyuanVideoPipeline" else TEXT_TOKENS,
                generator=chance,
                output_type="pt",
            ).frames
        case "StableAudioPipeline":
            made = pipeline(
                "a red circle",
                audio_end_in_s=4.0,
                num_inference_steps=2,
                generator=chance,
                output_type="pt",
            ).audios
        case other:
            raise AssertionError(f"no such pipeline here: {other}")
    found: torch.Tensor = made
    return found
